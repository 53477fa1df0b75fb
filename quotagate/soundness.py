"""What is unsafe about settings, a Redis and a Postgres that do work, each with how to mend it. Pure.

What keeps a gateway from starting is judged in `quota/safety.py` and `ledger/schema.py`; this is the rest. A finding is
wrong wherever it is run; a note is right in some places, and is to be known in all.
"""

from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from quota.settings import Settings, variable

if TYPE_CHECKING:
    from ledger.schema import Archived

BYTES_AN_ENTRY = 210
"""In a journal, as long runs have measured it (docs/soak.md)."""
FULL_PCT = 80
LEAST_SECRET_CHARACTERS = 16
SKEW_S = 2.0
"""Above what a network and a busy machine add to a reading; periods end by Redis's clock, partitions by Postgres's."""
MIB = 1024 * 1024
KNOWN_SECRETS = ("change-this", "changeme", "secret", "password", "example")
"""How secrets begin that stand in files which everybody can read: compose.yaml has the first."""


def of_settings(settings: Settings) -> Iterator[str]:
    """Findings."""
    for name in ("admin_key", "key_pepper"):
        secret = str(getattr(settings, name))
        if not secret:
            continue
        if secret.lower().startswith(KNOWN_SECRETS):
            yield (
                f"{variable(name)} is one that everybody knows: set one of your own, such as `openssl rand -hex 32` "
                "makes"
            )
        elif len(secret) < LEAST_SECRET_CHARACTERS:
            yield f"{variable(name)} has {len(secret)} characters and can be guessed: set one of at least 32"
    if settings.admin_key and settings.admin_key == settings.key_pepper:
        yield f"{variable('admin_key')} and {variable('key_pepper')} are the same: set another pepper"


def notes_of_settings(settings: Settings) -> Iterator[str]:
    """Notes."""
    if settings.admin_key:
        yield (
            f"{variable('admin_key')} still makes the first key, with every scope: make one for each purpose with "
            "`quotagate key create`, revoke this one, and take the variable away"
        )
    if settings.durability == "none":
        yield (
            f"{variable('durability')}=none: a restart of Redis loses what was counted since the ledger saw it; set "
            "everysec or always if that may not be"
        )
    for name in ("redis_url", "broker_url"):
        url = urlsplit(str(getattr(settings, name)))
        if url.scheme == "redis" and is_remote(url.hostname):
            where = f"{variable(name)} reaches {url.hostname}"
            yield f"{where} without TLS: use rediss:// unless that network is yours alone"
    url = urlsplit(settings.database_url)
    if is_remote(url.hostname):
        mode = parse_qs(url.query).get("sslmode", ["prefer"])[-1]
        if mode in {"disable", "allow", "prefer"}:
            yield (
                f"{variable('database_url')} reaches {url.hostname} with sslmode={mode}, which takes a connection "
                "without TLS: add ?sslmode=verify-full unless that network is yours alone"
            )
    if is_remote(settings.host):
        yield (
            f"{variable('host')} is {settings.host}, and the gateway speaks no TLS: put a proxy in front of it that "
            "does, or listen on 127.0.0.1"
        )


def is_remote(host: str | None) -> bool:
    """Whether another machine is reached, or reaches us, under this name. A socket has none."""
    if not host or host == "localhost":
        return False
    try:
        return not ip_address(host).is_loopback
    except ValueError:
        return True


def of_counters(info: Mapping[str, object], journal_entries: int) -> Iterator[str]:
    """Findings. `info` is Redis's INFO."""
    used, most = _number(info, "used_memory"), _number(info, "maxmemory")
    budget = journal_entries * BYTES_AN_ENTRY
    if most and budget > most:
        yield (
            f"{variable('journal_entries')} lets {journal_entries:,} entries wait, which take about "
            f"{budget // MIB:,} MiB, and Redis's maxmemory is {most // MIB:,} MiB: raise maxmemory, or let fewer wait "
            f"({max(1_000, most // 2 // BYTES_AN_ENTRY):,})"
        )
    room = most or _number(info, "total_system_memory")
    if room and used * 100 > room * FULL_PCT:
        what = "its maxmemory" if most else "the machine's memory"
        yield (
            f"Redis uses {used * 100 // room} % of {what}, and refuses writes or is killed when there is no more: "
            "give it more"
        )
    for name, what in (("aof_last_write_status", "write"), ("aof_last_bgrewrite_status", "rewrite")):
        if str(info.get(name, "ok")) != "ok":
            yield f"Redis could not {what} its append-only file: look at its log, and at the disk's free space"


_POSTGRES = {
    "fsync": "a crash of the machine may leave nothing that can be read",
    "full_page_writes": "a crash of the machine may leave pages that are half written",
    "synchronous_commit": "entries are dropped from Redis before they are on Postgres's disk",
}
"""What follows where a setting is off."""


def of_ledger(shown: Mapping[str, str]) -> Iterator[str]:
    """Findings. `shown` are Postgres's settings, by name."""
    for name, consequence in _POSTGRES.items():
        if shown.get(name) == "off":
            yield f"Postgres's {name} is off, so {consequence}: set {name} = on"


def notes_of_ledger(shown: Mapping[str, str], settings: Settings) -> Iterator[str]:
    """Notes."""
    if is_remote(urlsplit(settings.database_url).hostname) and shown.get("archive_mode") == "off":
        yield (
            "Postgres archives no log (archive_mode is off), and no backup can be seen from here: make sure that "
            "somebody makes base backups, and tries to restore one"
        )


def of_archiving(archived: "Archived") -> Iterator[str]:
    """Findings."""
    done_s, failed_s = archived
    if failed_s is not None and (done_s is None or failed_s < done_s):
        since = "never has" if done_s is None else f"has not for {done_s:.0f} s"
        yield (
            f"Postgres cannot archive its log, and {since}: see last_failed_wal in pg_stat_archiver and the server's "
            "log; a backup ends there, and the disk fills"
        )


def notes_of_archiving(archived: "Archived") -> Iterator[str]:
    """Notes."""
    done = "none yet" if archived.done_s is None else f"the last file {archived.done_s:.0f} s ago"
    yield (
        f"Postgres archives its log, {done}; how old the newest base backup is cannot be seen from here: make sure "
        "that somebody makes them, and tries to restore one"
    )


def of_clocks(redis_s: float, postgres_s: float, here_s: float) -> Iterator[str]:
    """Findings. Three clocks, read at about the same time."""
    for name, other_s in (("Postgres's clock", postgres_s), ("this machine's clock", here_s)):
        ahead_s = other_s - redis_s
        if abs(ahead_s) > SKEW_S:
            way = "ahead of" if ahead_s > 0 else "behind"
            yield f"{name} is {abs(ahead_s):.1f} s {way} Redis's: have NTP set the clocks of all machines"


def _number(info: Mapping[str, object], name: str) -> int:
    text = str(info.get(name, 0))
    return int(text) if text.isdigit() else 0

"""What the doctor knows to be unsafe about settings and servers that work: a line of the tables each."""

from collections.abc import Mapping

import pytest

from ledger.schema import Archived
from quota.settings import Settings
from quotagate import soundness

GOOD_SECRET = "f3b1c6a09d2e4785b6c1d0e9a8f70312"
OTHER_SECRET = "0123c6a09d2e4785b6c1d0e9a8f7fedc"
HERE = {
    "QUOTAGATE_REDIS_URL": "redis://:p@127.0.0.1:6379/0",
    "QUOTAGATE_DATABASE_URL": "postgresql://u:p@localhost/q",
    "QUOTAGATE_KEY_PEPPER": GOOD_SECRET,
}


def settings(**other: str) -> Settings:
    return Settings.from_environment(HERE | {f"QUOTAGATE_{name.upper()}": value for name, value in other.items()})


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, None),
        ({"admin_key": "change-this-admin-key"}, "QUOTAGATE_ADMIN_KEY is one that everybody knows: set one"),
        ({"key_pepper": "change-this-pepper"}, "QUOTAGATE_KEY_PEPPER is one that everybody knows: set one"),
        ({"key_pepper": "Password-1234567"}, "QUOTAGATE_KEY_PEPPER is one that everybody knows: set one"),
        ({"key_pepper": "abcdefgh"}, "has 8 characters and can be guessed: set one of at least 32"),
        ({"admin_key": GOOD_SECRET}, "are the same: set another pepper"),
    ],
)
def test_secrets(other: dict[str, str], said: str | None) -> None:
    told(list(soundness.of_settings(settings(**other))), said)


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({}, None),
        ({"redis_url": "unix:///run/redis.sock"}, None),
        ({"redis_url": "redis://[::1]:6379/0", "host": "::1"}, None),
        ({"redis_url": "rediss://cache.example.com/0"}, None),
        ({"admin_key": OTHER_SECRET}, "still makes the first key, with every scope: make one for each purpose"),
        ({"durability": "none"}, "set everysec or always"),
        ({"redis_url": "redis://10.0.0.5/0"}, "QUOTAGATE_REDIS_URL reaches 10.0.0.5 without TLS: use rediss://"),
        ({"broker_url": "redis://cache.example.com/0"}, "QUOTAGATE_BROKER_URL reaches cache.example.com without TLS"),
        ({"database_url": "postgresql://u:p@db.example.com/q"}, "with sslmode=prefer"),
        ({"database_url": "postgresql://u:p@db.example.com/q?sslmode=disable"}, "with sslmode=disable"),
        ({"database_url": "postgresql://u:p@db.example.com/q?sslmode=verify-full"}, None),
        ({"host": "0.0.0.0"}, "put a proxy in front of it that does, or listen on 127.0.0.1"),
    ],
)
def test_what_is_to_be_known_of_settings(other: dict[str, str], said: str | None) -> None:
    told(list(soundness.notes_of_settings(settings(**other))), said)


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({}, None),
        ({"used_memory": 10 * soundness.MIB, "maxmemory": 0, "total_system_memory": 1 << 34}, None),
        ({"used_memory": 10, "maxmemory": 1_000 * soundness.BYTES_AN_ENTRY}, None),
        ({"used_memory": 10, "maxmemory": 999 * soundness.BYTES_AN_ENTRY}, "raise maxmemory, or let fewer wait"),
        ({"used_memory": 81, "total_system_memory": 100}, "81 % of the machine's memory"),
        ({"used_memory": 900_000, "maxmemory": 1_000_000}, "90 % of its maxmemory"),
        ({"aof_last_write_status": "err"}, "could not write its append-only file: look at its log"),
        ({"aof_last_bgrewrite_status": "err"}, "could not rewrite its append-only file: look at its log"),
    ],
)
def test_redis(info: Mapping[str, object], said: str | None) -> None:
    told(list(soundness.of_counters(info, 1_000)), said)


@pytest.mark.parametrize("name", ["fsync", "full_page_writes", "synchronous_commit"])
def test_postgres(name: str) -> None:
    usual = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
    told(list(soundness.of_ledger(usual)), None)
    told(list(soundness.of_ledger(usual | {"synchronous_commit": "remote_apply"})), None)
    told(list(soundness.of_ledger(usual | {name: "off"})), f"set {name} = on")


@pytest.mark.parametrize(
    ("url", "mode", "said"),
    [
        ("postgresql://u:p@localhost/q", "off", None),
        ("postgresql://u:p@db.example.com/q", "on", None),
        ("postgresql://u:p@db.example.com/q", "off", "make sure that somebody makes base backups"),
    ],
)
def test_backups(url: str, mode: str, said: str | None) -> None:
    told(list(soundness.notes_of_ledger({"archive_mode": mode}, settings(database_url=url))), said)


@pytest.mark.parametrize(
    ("postgres_s", "here_s", "said"),
    [
        (1000.0, 1000.0, None),
        (1001.9, 998.1, None),
        (1003.0, 1000.0, "Postgres's clock is 3.0 s ahead of Redis's: have NTP set"),
        (1000.0, 990.0, "this machine's clock is 10.0 s behind Redis's: have NTP set"),
    ],
)
def test_clocks(postgres_s: float, here_s: float, said: str | None) -> None:
    told(list(soundness.of_clocks(1000.0, postgres_s, here_s)), said)


def told(found: list[str], said: str | None) -> None:
    if said is None:
        assert found == []
    else:
        (sentence,) = found
        assert said in sentence


@pytest.mark.parametrize(
    ("done_s", "failed_s", "said"),
    [
        (None, None, None),
        (30.0, None, None),
        (30.0, 600.0, None),
        (600.0, 30.0, "Postgres cannot archive its log, and has not for 600 s: see last_failed_wal"),
        (None, 30.0, "Postgres cannot archive its log, and never has: see last_failed_wal"),
    ],
)
def test_an_archive(done_s: float | None, failed_s: float | None, said: str | None) -> None:
    archived = Archived(done_s, failed_s)
    told(list(soundness.of_archiving(archived)), said)
    done = "none yet" if done_s is None else f"the last file {done_s:.0f} s ago"
    told(list(soundness.notes_of_archiving(archived)), f"Postgres archives its log, {done}; how old")

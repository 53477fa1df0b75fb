"""`quotagate doctor`: what is unsafe or broken in a deployment, each in a sentence that says what to do.

Each look is taken by itself, so that whatever is away hides nothing of the rest.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from quota.errors import CountersUnavailable, QuotagateError, first_line
from quota.settings import Settings
from quotagate import soundness
from quotagate.operator import stores
from quotagate.patience import saying_what_takes_long
from quotagate.plain_commands import counted

if TYPE_CHECKING:
    from gateway.app import Gateway
    from quota.journal import Place

LATE_AFTER_S = 30
RECONCILED_WITHIN_S = 600
"""Or three times as long as one comes after the other, if that is longer."""
JOURNAL_PART = 2
"""From a half of what may wait on, somebody must look why it does."""
NO_ANSWER_S = 5.0
ARE_THEY_RUNNING = "are `quotagate worker` and `quotagate scheduler` running?"
TABLES_OF_WORK = {
    "let_through": "requests that were let through in an outage (table outage_charges)",
    "lost_replies": "lost replies (table lost_replies)",
    "take_backs": "charges that must be taken back (table take_backs)",
}


@dataclass(frozen=True)
class Looked:
    """What there is to look at, and how far back incidents are told."""

    gateway: "Gateway"
    settings: Settings
    incidents_h: int


class Note(str):
    """What is to be known, and nothing is left to be done about it."""

    __slots__ = ()


Look = Callable[[Looked], Awaitable[list[str]]]


def run_doctor(environment: Mapping[str, str], data: Path, *, incidents_h: int, as_json: bool) -> int:
    """Prints what is unsafe or broken, and how to mend it, and what has mended itself; how many findings there are."""
    settings = stores(environment, data, "redis_url", "database_url")
    with saying_what_takes_long("looking at both stores …"):
        told = asyncio.run(_findings(settings, incidents_h))
    notes = [each for each in told if isinstance(each, Note)]
    found = [each for each in told if not isinstance(each, Note)]
    if as_json:
        print(json.dumps({"findings": found, "notes": notes}))
    else:
        for finding in found:
            print(f"✗ {finding}")
        for note in notes:
            print(f"· {note}")
        if not found:
            print("✓ Redis and Postgres can keep what the gateway acknowledges.")
    return len(found)


async def _findings(settings: Settings, incidents_h: int) -> list[str]:
    from gateway.app import Gateway

    gateway = Gateway(settings)
    looked = Looked(gateway, settings, incidents_h)
    try:
        of_counters, of_ledger = await _told(_counters, looked), await _told(_ledger, looked)
        looks: list[Look] = []
        if not of_ledger:  # one that is not this version's cannot be asked for more, nor can one that is away
            looks += [_durable, _left_to_do, _incidents, _reconciled, _unsealed]
        if not of_counters and not of_ledger:
            looks[:0] = [_belong_together, _at_work, _journal]
        if not of_counters and not of_ledger:
            looks.append(_clocks)
        found = _settings(settings) + of_counters + of_ledger
        for look in looks:
            found += await _told(look, looked)
        return found
    finally:
        await gateway.close()


async def _told(look: Look, looked: Looked) -> list[str]:
    try:
        return await look(looked)
    except QuotagateError as error:
        return str(error).splitlines()


async def _counters(looked: Looked) -> list[str]:
    from quota import safety

    info, appendfsync = await looked.gateway.looking.info()
    found = safety.complaints(info, appendfsync, looked.settings.durability)
    return found + list(soundness.of_counters(info, looked.settings.journal_entries))


def _settings(settings: Settings) -> list[str]:
    return [*soundness.of_settings(settings), *map(Note, soundness.notes_of_settings(settings))]


async def _ledger(looked: Looked) -> list[str]:
    from ledger import schema
    from ledger.store import ALL_TENANTS

    return await looked.gateway.store.run(ALL_TENANTS, schema.complaints)


async def _durable(looked: Looked) -> list[str]:
    """Whether Postgres keeps what it has committed."""
    from ledger import schema
    from ledger.store import ALL_TENANTS

    shown = await looked.gateway.store.run(ALL_TENANTS, schema.settings_shown)
    notes = [*soundness.notes_of_ledger(shown, looked.settings)]
    if shown.get("archive_mode") == "off":
        return [*soundness.of_ledger(shown), *map(Note, notes)]
    archived = await looked.gateway.store.run(ALL_TENANTS, schema.archived)
    notes += soundness.notes_of_archiving(archived)
    return [*soundness.of_ledger(shown), *soundness.of_archiving(archived), *map(Note, notes)]


async def _clocks(looked: Looked) -> list[str]:
    from ledger import schema
    from ledger.store import ALL_TENANTS

    redis_s = await looked.gateway.looking.now_ms() / 1000
    here_s = time.time()
    postgres_s = await looked.gateway.store.run(ALL_TENANTS, schema.clock_s)
    return list(soundness.of_clocks(redis_s, postgres_s, here_s))


async def _belong_together(looked: Looked) -> list[str]:
    from gateway.app import foreign

    return await foreign(looked.gateway.looking, looked.gateway.store)


async def _at_work(looked: Looked) -> list[str]:
    """Whether a worker of each role and a scheduler are there."""
    return await asyncio.to_thread(_missing, looked.settings)


def _missing(settings: Settings) -> list[str]:
    import redis

    from workers import presence

    url, wait_s = settings.effective_broker_url, NO_ANSWER_S
    try:
        with redis.Redis.from_url(url, socket_timeout=wait_s, socket_connect_timeout=wait_s) as broker:
            return presence.complaints(presence.look(broker))
    except redis.RedisError as error:
        raise CountersUnavailable(f"the broker cannot be reached: {first_line(error)}") from error


async def _journal(looked: Looked) -> list[str]:
    """Whether entries have waited for the ledger for so long, or are so many, that nobody can be draining."""
    from gateway.epochs import JOURNAL_IS_NONE
    from ledger import shards
    from ledger.store import ALL_TENANTS

    offsets = await looked.gateway.store.run(ALL_TENANTS, shards.offsets)
    standings = await looked.gateway.looking.standings(list(offsets))
    if damaged := [shard for shard, standing in standings.items() if standing.is_damaged]:
        return [
            f"{JOURNAL_IS_NONE.format(damaged[0])}: a gateway begins the shard anew within two seconds; is "
            "`quotagate gateway` running?"
        ]
    waiting, most = sum(each.waiting for each in standings.values()), looked.settings.journal_entries
    found = []
    if waiting * JOURNAL_PART > most:
        found.append(
            f"{counted(waiting, 'entry waits', 'entries wait')} for the ledger, of {most:,} that may "
            f"(QUOTAGATE_JOURNAL_ENTRIES): then requests are refused; {ARE_THEY_RUNNING}"
        )
    late_s = await asyncio.to_thread(_late_s, looked.settings, offsets)
    if late_s >= LATE_AFTER_S:
        found.append(f"the ledger is {late_s} s behind the counters: {ARE_THEY_RUNNING}")
    return found


def _late_s(settings: Settings, offsets: Mapping[int, "Place"]) -> int:
    import redis

    from quota.journal import Journal

    with redis.Redis.from_url(settings.redis_url, socket_timeout=NO_ANSWER_S) as connection:
        journal = Journal(connection)
        try:
            oldest_ms = journal.oldest_ms(offsets)
            return 0 if oldest_ms is None else (journal.now_ms() - oldest_ms) // 1000
        except ValueError:  # an entry that nobody can read: the drain sets it aside, and tells
            return 0
        except redis.RedisError as error:
            raise CountersUnavailable(f"Redis cannot be reached: {error}") from error


async def _left_to_do(looked: Looked) -> list[str]:
    """Whatever an outage has left to be done that gateways should have done by now."""
    from ledger import outages
    from ledger.store import ALL_TENANTS

    left = await looked.gateway.store.run(ALL_TENANTS, outages.left)
    refused, _ = left.pop("refused")
    found = [
        f"{rows} {TABLES_OF_WORK[what]} are not done, and the oldest has waited for {oldest_s:.0f} s: gateways log why"
        for what, (rows, oldest_s) in left.items()
        if rows and oldest_s >= LATE_AFTER_S
    ]
    if refused:
        found.append(
            f"{refused} requests that were let through in an outage can never be charged: "
            "see `refusal` in the table outage_charges"
        )
    return found


async def _incidents(looked: Looked) -> list[str]:
    from ledger import incidents, reconciliations
    from ledger.store import ALL_TENANTS

    if not looked.incidents_h:
        return []
    store = looked.gateway.store
    found: list[str] = []
    last = await store.run(ALL_TENANTS, reconciliations.last)
    for each in await store.run(ALL_TENANTS, incidents.of_the_last, looked.incidents_h):
        noun = "incident" if each.incidents == 1 else "incidents"
        told = (
            f"{each.incidents:,} {noun} `{each.kind}` in the last {looked.incidents_h} h, the newest at "
            f"{each.newest_at:%Y-%m-%d %H:%M:%S %Z} (table incidents, id {each.newest_id}): "
        )
        if incidents.has_healed(each, last):
            found.append(Note(f"{told}healed by themselves: the reconciliation since has left no counter that differs"))
        else:
            found.append(told + incidents.WHAT_TO_DO.get(each.kind, "see `detail` there"))
    return found


async def _reconciled(looked: Looked) -> list[str]:
    """Whether somebody reconciles, and whether what drifts is corrected."""
    from ledger import overdue, reconciliations
    from ledger.store import ALL_TENANTS
    from workers.reconcile import WHAT_TO_DO

    store = looked.gateway.store
    last = await store.run(ALL_TENANTS, reconciliations.last)
    found = []
    if last is not None and last.refusal is not None:
        found.append(f"the last reconciliation has corrected nothing: {last.refusal}; {WHAT_TO_DO}")
    took_s = 0 if last is None else (last.finished_at_ms - last.started_at_ms) // 1000
    within_s = max(RECONCILED_WITHIN_S, 3 * looked.settings.reconcile_every_s) + 2 * took_s
    since_s = await store.run(ALL_TENANTS, overdue.unreconciled_s)
    if last is not None:
        # Its instant is of Redis's clock, which may be wrong; what does not answer is told elsewhere.
        with suppress(CountersUnavailable):
            since_s = min(since_s, (await looked.gateway.looking.now_ms() - last.finished_at_ms) / 1000)
    if since_s > within_s:
        found.append(f"nothing was reconciled for {since_s:.0f} s: {ARE_THEY_RUNNING}")
    return found


async def _unsealed(looked: Looked) -> list[str]:
    from ledger import overdue
    from ledger.store import ALL_TENANTS

    waiting, oldest_s = await looked.gateway.store.run(ALL_TENANTS, overdue.unsealed)
    if not waiting:
        return []
    more = " or more" if waiting == overdue.MAX_COUNTED else ""
    return [
        f"{waiting:,}{more} periods that are over wait to be sealed, the oldest for {oldest_s / 3_600:.0f} h: "
        f"{ARE_THEY_RUNNING}"
    ]

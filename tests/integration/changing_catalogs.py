"""Many accounts, a limit that changes under all of them, and what that costs Redis."""

import asyncio
from dataclasses import dataclass
from typing import Any

import redis

from gateway.app import Gateway, Parts
from gateway.catalog import apply_catalog
from ledger.acts import By
from quota.catalog import Catalog, parse_toml
from quota.demands import Asked, Demand
from quota.keys import AccountName
from quota.protocol import Mode
from quota.settings import Settings

TENANT, METRIC = "t", "m"
AT_ONCE = 1_000
BEFORE, AFTER = 10, 25


def catalog_of(limit: int) -> Catalog:
    return parse_toml(
        f'default_plan = "free"\n[metrics.m]\n[plans.free]\nlimits.m = {{ limit = {limit}, period = "month" }}'
    )


@dataclass(frozen=True, slots=True)
class Changed:
    """`commands` is what applying the catalog cost, by name. `written` is how many accounts it wrote, `limits` how many
    accounts had which limit at their next touch, with what was used before."""

    commands: dict[str, int]
    written: int
    limits: dict[tuple[int | None, int], int]


def changed_under(settings: Settings, connection: "redis.Redis", accounts: int) -> Changed:
    """Makes so many accounts that have used one unit, raises their limit, and touches each again."""
    return asyncio.run(_changed(settings, connection, accounts))


async def _changed(settings: Settings, connection: "redis.Redis", accounts: int) -> Changed:
    # One serves and has read the old catalog, the other applies the new one.
    gateway, other = Gateway(settings), Gateway(settings)
    try:
        parts, others = await gateway.open(), await other.open()
        await _apply(other, others, BEFORE)
        used = await _touched(parts, Mode.CONSUME, 1, accounts)
        assert used == {(BEFORE, 1): accounts}
        kept, before = _hashes(connection, parts, accounts), _commands(connection)
        await _apply(other, others, AFTER)
        after = _commands(connection)
        spent = {name: after[name] - before.get(name, 0) for name in after if after[name] != before.get(name, 0)}
        written = sum(one != other for one, other in zip(kept, _hashes(connection, parts, accounts), strict=True))
        return Changed(spent, written, await _touched(parts, Mode.CHECK, 1, accounts))
    finally:
        await gateway.close()
        await other.close()


async def _apply(gateway: Gateway, parts: Parts, limit: int) -> None:
    await apply_catalog(gateway.store, parts.admission, TENANT, catalog_of(limit), By("test"), dry_run=False)


async def _touched(parts: Parts, mode: Mode, amount: int, accounts: int) -> dict[tuple[int | None, int], int]:
    """How many accounts have which limit, and have used how much."""
    found: dict[tuple[int | None, int], int] = {}
    for first in range(0, accounts, AT_ONCE):
        demands = [
            Demand(TENANT, _subject(each), mode, f"r-{each}", (Asked(METRIC, amount),))
            for each in range(first, min(first + AT_ONCE, accounts))
        ]
        for decision, _ in await asyncio.gather(*map(parts.admission.decide, demands)):
            (charge,) = decision.charges
            standing = (charge.limit, charge.used)
            found[standing] = found.get(standing, 0) + 1
    return found


def _subject(number: int) -> str:
    return f"u_{number:07}"


def _hashes(connection: "redis.Redis", parts: Parts, accounts: int) -> list[Any]:
    """The accounts as they are in Redis: all of them, or a sample of a thousand."""
    pipeline = connection.pipeline(transaction=False)
    for each in range(0, accounts, max(1, accounts // 1_000)):
        shard = parts.admission.shard_of(TENANT, _subject(each))
        pipeline.hgetall(AccountName(TENANT, _subject(each), METRIC).key(shard))
    found = list(pipeline.execute())
    assert all(found), "every account is there"
    return found


def _commands(connection: "redis.Redis") -> dict[str, int]:
    """How often each command ran so far, also inside of scripts; what the counting itself sends is left out."""
    found: Any = connection.info("commandstats")
    ours = {"cmdstat_info", "cmdstat_hgetall"}
    return {name.removeprefix("cmdstat_"): each["calls"] for name, each in found.items() if name not in ours}

"""What `quotagate top` reads of a Redis that serves: the same few commands, however much there is."""

import redis

from ledger import activity, shards
from ledger.store import ALL_TENANTS, connect, transaction
from quota import keys
from quota.glance import glance, shares_used
from quota.journal import Place
from tests.conftest import SHARDS, Database

BEGINNINGS = {shard: Place(1, 0 if shard else 4) for shard in range(SHARDS)}
ACCOUNTS = 3_000


def commands(connection: "redis.Redis") -> dict[str, int]:
    return {name: told["calls"] for name, told in connection.info("commandstats").items()}


def test_a_look_costs_two_commands_a_shard_and_one_a_row_however_many_accounts_there_are(
    connection: "redis.Redis",
) -> None:
    pipeline = connection.pipeline(transaction=False)
    for each in range(ACCOUNTS):
        pipeline.hset(f"qg:{{{each % SHARDS}}}:a:t:u_{each}:m", mapping={"state": "5 -", "rule": "1 1 9 9 - 10 hard x"})
    pipeline.execute()
    connection.config_resetstat()
    glance(connection, BEGINNINGS)
    names = [f"qg:{{{each % SHARDS}}}:a:t:u_{each}:m" for each in range(10)]
    assert shares_used(connection, [*names, "qg:{0}:a:t:nobody:m"]) == [0.5] * 10 + [None]
    counted = commands(connection)
    counted.pop("cmdstat_config|resetstat", None)
    assert counted.pop("cmdstat_hmget") == 11
    assert counted.pop("cmdstat_xlen") == counted.pop("cmdstat_xrange") == SHARDS
    assert set(counted) <= {"cmdstat_time", "cmdstat_info", "cmdstat_client|setinfo", "cmdstat_hello", "cmdstat_auth"}


def test_grants_are_part_of_what_may_be_used_until_they_expire(connection: "redis.Redis") -> None:
    names = [f"qg:{{0}}:a:t:u_{each}:m" for each in range(4)]
    rule = "1 1 9 9 - {} hard x"
    connection.hset(names[0], mapping={"state": "15 -", "rule": rule.format(10), "grants": "1 0 - 5 5 0;2 0 - 10 0 0"})
    connection.hset(names[1], mapping={"state": "13 -", "rule": rule.format(10), "grants": "1 0 1000 0 5 0"})
    connection.hset(names[2], mapping={"state": "5 -", "rule": rule.format(0), "grants": "1 0 - 5 5 0"})
    connection.hset(names[3], mapping={"state": "5 -", "rule": rule.format("-"), "grants": "1 0 - 5 5 0"})
    assert shares_used(connection, names) == [0.5, 0.8, 0.5, None]


def test_what_waits_is_what_the_ledger_has_not_got_and_an_unreadable_entry_hides_nothing(
    connection: "redis.Redis",
) -> None:
    connection.xadd(keys.journal(0), {"line": "the ledger has it, and the trim comes later"}, id="1-4")
    connection.xadd(keys.journal(2), {"line": "nobody can read this"}, id="1-1")
    seen = glance(connection, BEGINNINGS)
    assert seen.waiting == 1
    assert seen.lag_ms == 0 and seen.memory_bytes > 0


def test_nothing_was_busy_in_a_ledger_without_entries(database: Database) -> None:
    engine = connect(database.application_url, pool_size=1)
    with transaction(engine, ALL_TENANTS) as connection:
        assert len(shards.offsets(connection)) == SHARDS
        found = activity.of_the_last_minute(connection, SHARDS, 10)
    engine.dispose()
    assert (found.checks_per_s, found.denials_per_s, found.is_sample, found.busiest) == (0, 0, False, [])

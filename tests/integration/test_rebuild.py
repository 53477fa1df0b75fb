"""What Redis has lost is brought in again from the ledger, for all accounts, while others do the same."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from ledger import catalogs
from ledger.acts import By
from ledger.openings import opening, read
from quota import keys, protocol
from quota.bulk import Bulk
from quota.catalog import parse_toml
from quota.keys import AccountName
from quota.protocol import Charge
from tests.conftest import SHARDS, Database
from tests.integration.pipeline import Pipeline
from tests.integration.shard import Shard
from workers import asked_jobs, bringing_in, rebuild
from workers.rebuild import Rebuild, Rebuilt, Scope

CATALOG = """
default_plan = "free"
[metrics.m]
[plans.free]
limits.m = { limit = 1000, period = "month" }
"""
ACCOUNTS = 40


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        for tenant in ("t", "t2"):
            pipeline.call(catalogs.apply, tenant, parse_toml(CATALOG), By("test"), dry_run=False)
        yield pipeline


def account(place: int) -> AccountName:
    return AccountName("t2" if place % 4 == 0 else "t", f"u{place}", "m")


def shard_of(name: AccountName) -> int:
    return keys.shard_of(name.tenant, name.subject, SHARDS)


def begin(pipeline: Pipeline, epoch: int) -> None:
    for shard in range(SHARDS):
        pipeline.shard.run(protocol.begin_epoch(shard, epoch, ""))


def used(pipeline: Pipeline) -> dict[str, int]:
    """What every account that is there has used."""
    found = pipeline.connection.scan_iter(match=keys.ACCOUNT_PATTERN)
    return {key.decode(): int(pipeline.connection.hget(key, "state").split(b" ")[0]) for key in found}


def lost(pipeline: Pipeline) -> dict[str, int]:
    """Accounts with something used of each, all of it in the ledger and nothing any more in Redis; what they used."""
    begin(pipeline, 1)
    now_ms, names = pipeline.shard.now_ms(), [account(place) for place in range(ACCOUNTS)]
    reading = pipeline.call(read, names, now_ms)
    for place, name in enumerate(names):
        shard = Shard(pipeline.connection, shard_of(name))
        assert shard.provision(opening(name, now_ms, reading)) == "provisioned"
        charge = Charge(name.key(shard.number), place + 1)
        shard.consume(shard.step(0, charges=(charge,), catalog_field=keys.catalog_field(name.tenant)))
    before = used(pipeline)
    assert len(before) == ACCOUNTS and sum(before.values()) == ACCOUNTS * (ACCOUNTS + 1) / 2
    pipeline.drained()
    pipeline.connection.flushall()
    begin(pipeline, 2)
    return before


def test_every_account_is_what_it_was_and_a_second_run_finds_nothing_to_do(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "PAGE_ACCOUNTS", 7)
    before, held = lost(pipeline), Rebuild(pipeline.connection, pipeline.engine)
    done = held.run_once()
    assert (done.accounts, done.outcomes, used(pipeline)) == (ACCOUNTS, {"provisioned": ACCOUNTS}, before)
    assert held.run_once() == Rebuilt()
    assert pipeline.reconcile().run_once().drifted == 0


def test_an_epoch_that_begins_later_is_gone_through_again(pipeline: Pipeline) -> None:
    before, held = lost(pipeline), Rebuild(pipeline.connection, pipeline.engine)
    held.run_once()
    pipeline.connection.flushall()
    begin(pipeline, 3)
    held.run_once()
    assert used(pipeline) == before


@pytest.mark.parametrize(
    ("scope", "is_wanted"),
    [
        (Scope(tenant="t2"), lambda name: name.tenant == "t2"),
        (Scope(tenant="t", subject="u5"), lambda name: name.subject == "u5"),
        (Scope(shards=frozenset((2, 3))), lambda name: shard_of(name) in {2, 3}),
    ],
)
def test_only_what_is_asked_for_is_brought_in(pipeline: Pipeline, scope: Scope, is_wanted: object) -> None:
    before = lost(pipeline)
    heard: list[int] = []
    Rebuild(pipeline.connection, pipeline.engine).run(scope, heard.append)
    wanted = {account(place).key(shard_of(account(place))) for place in range(ACCOUNTS) if is_wanted(account(place))}
    assert used(pipeline) == {key: before[key] for key in wanted}
    assert heard == [len(wanted)]


def test_while_entries_of_the_old_epoch_wait_nothing_is_brought_in(pipeline: Pipeline) -> None:
    """The ledger's balance is not the last word yet."""
    lost(pipeline)
    name = account(1)
    pipeline.connection.xadd(keys.journal(shard_of(name)), {"line": "x"}, id="1-999999")
    held = Rebuild(pipeline.connection, pipeline.engine)
    done = held.run_once()
    assert done.outcomes["undrained"] and not done.is_complete
    assert name.key(shard_of(name)) not in used(pipeline)
    pipeline.connection.delete(keys.journal(shard_of(name)))
    assert held.run_once().is_complete, "it is gone through again until all are there"


def test_eight_that_race_bring_each_account_in_once(pipeline: Pipeline) -> None:
    """A cold key reseeded by N pods, N times the spend (BerriAI/litellm#28247)."""
    before = lost(pipeline)
    racing = [Rebuild(pipeline.connection, pipeline.engine) for _ in range(8)]
    with ThreadPoolExecutor(8) as threads:
        done = list(threads.map(lambda each: each.run(Scope()), racing))
    assert used(pipeline) == before
    assert all(each.is_complete for each in done)


def test_a_living_account_is_left_as_it_is(pipeline: Pipeline) -> None:
    lost(pipeline)
    held = Rebuild(pipeline.connection, pipeline.engine)
    held.run_once()
    name = account(3)
    key = name.key(shard_of(name))
    pipeline.connection.hset(key, "state", "77 2-5")
    held.run(Scope())
    assert used(pipeline)[key] == 77, "what drifts is for the reconciliation"


def test_heads_and_accounts_that_are_not_there_have_no_epoch(connection: "redis.Redis") -> None:
    bulk = Bulk(connection)
    assert bulk.heads([1])[1].epoch == 0
    assert bulk.epochs_of(["qg:{1}:a:t:u:m"]) == [0]


def test_of_a_shard_that_has_some_of_its_accounts_the_missing_one_alone_is_brought_in(pipeline: Pipeline) -> None:
    before, held = lost(pipeline), Rebuild(pipeline.connection, pipeline.engine)
    held.run_once()
    name = next(each for each in map(account, range(ACCOUNTS)) if shard_of(each) == shard_of(account(1)))
    others = [key for key in before if keys.tag_of(key) == keys.tag_of(name.key(shard_of(name)))]
    assert len(others) > 1, "the shard has more accounts than that one"
    pipeline.connection.delete(name.key(shard_of(name)))
    done = held.run(Scope())
    assert (done.accounts, done.outcomes, used(pipeline)) == (ACCOUNTS, {"provisioned": 1}, before)


def test_what_is_drained_while_an_account_is_brought_in_is_not_missed(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger is read, then the last entry of the epoch before comes into it, then the script looks at the journal:
    by then nothing waits there any more, and the balance that was read is too old."""
    begin(pipeline, 1)
    name, now_ms = account(1), pipeline.shard.now_ms()
    shard = Shard(pipeline.connection, shard_of(name))
    shard.provision(opening(name, now_ms, pipeline.call(read, [name], now_ms)))
    charge = Charge(name.key(shard.number), 7)
    shard.consume(shard.step(0, charges=(charge,)))
    pipeline.drained()
    shard.consume(shard.step(0, charges=(charge,)))
    begin(pipeline, 2)

    def read_then_drain(*arguments: Any) -> Any:
        found = read(*arguments)
        pipeline.drained()
        return found

    monkeypatch.setattr(bringing_in, "read", read_then_drain)
    held = Rebuild(pipeline.connection, pipeline.engine)
    (reply,) = shard.consume(shard.step(0, charges=(charge,)))
    assert (reply.outcome.value, reply.fence) == ("unready", "-"), "a gateway would have read the ledger too early"
    held.run(Scope())
    pipeline.drained()
    assert held.run(Scope(subject=name.subject)).is_complete
    assert used(pipeline) == {charge.account_key: 14}
    (reply,) = shard.consume(shard.step(0, charges=(charge,)))
    assert (reply.outcome.value, reply.accounts[0].used) == ("allowed", 21)


def test_a_rebuild_that_was_asked_for_goes_on_page_by_page_and_says_how_far_it_is(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "PAGE_ACCOUNTS", 7)
    monkeypatch.setattr(asked_jobs, "REBUILT_PAGES", 2)
    before, held = lost(pipeline), Rebuild(pipeline.connection, pipeline.engine)
    monkeypatch.setattr(held, "estimated_accounts", lambda: ACCOUNTS)
    step = asked_jobs.stepping(None, None, held, None)["rebuild"]  # type: ignore[arg-type]
    taken, cursor, told = 0, None, []
    while taken < 10:
        done = step({}, cursor)
        taken, cursor = taken + 1, json.loads(json.dumps(done.cursor))
        told.append(done.progress)
        if done.result is not None:
            break
    assert (taken, done.result) == (3, {"accounts": ACCOUNTS, "complete": True, "provisioned": ACCOUNTS})
    assert told == sorted(told) and 0 < told[0] < 1 and told[-1] == 1
    assert used(pipeline) == before

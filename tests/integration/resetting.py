"""Accounts whose period is over, on real stores: what a reset finds. Made under a clock of the test's that stands at
yesterday; the reset itself runs by the server's own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import redis

from ledger import announcements, catalogs, shards, subscriptions
from ledger.acts import By
from ledger.openings import opening, read
from quota import keys, protocol
from quota.catalog import parse_toml
from quota.entitlement import Subscription
from quota.formats import Window
from quota.keys import AccountName
from quota.periods import DAY_MS, Period, PeriodKind, period_at
from quota.protocol import Charge
from tests.conftest import SHARDS, Database
from tests.integration.pipeline import Pipeline
from tests.integration.shard import ClockedShard, Shard
from workers.reset import Done, Reset

CATALOG = """
default_plan = "free"
[metrics.m]
[metrics.r]
[plans.free]
rank = 0
limits.m = { limit = 10, period = "day" }
limits.r = { limit = 10, period = "day", rollover = { max = 6 } }
[plans.pro]
rank = 1
limits.m = { limit = 99, period = "day" }
limits.r = { limit = 10, period = "month" }
"""


def name_of(subject: str, metric: str = "m") -> AccountName:
    return AccountName("t", subject, metric)


class Resetting:
    def __init__(self, pipeline: Pipeline, catalog: str) -> None:
        self.pipeline, self.engine, self.connection = pipeline, pipeline.engine, pipeline.connection
        self.now_ms = pipeline.shard.now_ms()
        self.today = period_at(PeriodKind.DAY, self.now_ms)
        self.yesterday = period_at(PeriodKind.DAY, self.now_ms - DAY_MS)
        pipeline.call(catalogs.apply, "t", parse_toml(catalog), By("test"), dry_run=False)
        self.begin(1)
        self.go_to(self.yesterday.start_ms + 3_600_000)

    @classmethod
    @contextmanager
    def on(cls, connection: "redis.Redis", database: Database, catalog: str = CATALOG) -> Iterator["Resetting"]:
        with Pipeline.on(connection, database) as pipeline:
            yield cls(pipeline, catalog)

    def begin(self, epoch: int) -> None:
        for shard in range(SHARDS):
            self.pipeline.shard.run(protocol.begin_epoch(shard, epoch, ""))
            self.pipeline.call(shards.take_epoch, shard, epoch)

    def go_to(self, now_ms: int) -> None:
        """Of the clock under which accounts are used."""
        self.pipeline.clocked.set_clock(now_ms)

    def shard(self, account: AccountName, *, is_clocked: bool = True) -> Shard:
        kind = ClockedShard if is_clocked else Shard
        return kind(self.connection, keys.shard_of(account.tenant, account.subject, SHARDS))

    def bring_in(self, account: AccountName, epoch: int = 1) -> str:
        shard = self.shard(account)
        reading = self.pipeline.call(read, [account], shard.now_ms())
        return shard.provision(opening(account, shard.now_ms(), reading), epoch=epoch, fence=self._fence(shard))

    def _fence(self, shard: Shard) -> str:
        return (self.connection.hget(keys.head(shard.number), "fence") or b"0").decode()

    def used(self, account: AccountName, amount: int) -> None:
        """Brings it in as of the test's clock, and uses so much of it. Of what rolls over it needs a subscription."""
        if account.metric == "r" and self.pipeline.call(subscriptions.of_subject, "t", account.subject) is None:
            plan = Subscription("free", "active", None, {})
            put = self.pipeline.call(subscriptions.put, "t", account.subject, plan, By("test"), now_ms=self.now_ms)
            self.pipeline.call(announcements.told, [put])
        assert self.bring_in(account) == "provisioned"
        if amount:
            shard = self.shard(account)
            charge = Charge(account.key(shard.number), amount)
            (reply,) = shard.consume(shard.step(0, charges=(charge,)))
            assert reply.outcome.value == "allowed", reply

    def used_yesterday(self, amounts: dict[AccountName, int]) -> None:
        for account, amount in amounts.items():
            self.used(account, amount)
        self.pipeline.drained()

    def reset(self) -> Reset:
        return Reset(self.connection, self.engine)

    def settled(self, reset: Reset | None = None, passes: int = 10) -> Done:
        """Resets and drains until nothing is due any more; all that was done."""
        reset, total = reset or self.reset(), Done()
        for _ in range(passes):
            done = reset.run_once()
            total = total + done
            self.pipeline.drained()
            if done.waiting == done.expired == done.changed == 0:
                return total
        raise AssertionError(f"after {passes} passes something is due still: {total}")

    def window(self, account: AccountName) -> Period:
        return Window.parsed(self.hash(account)["window"]).period

    def hash(self, account: AccountName) -> dict[str, str]:
        found = self.connection.hgetall(account.key(self.shard(account).number))
        return {name.decode(): value.decode() for name, value in found.items()}

    def sealed(self) -> Sequence[tuple[Any, ...]]:
        """Subject, metric, used, stated, entries, and what rolled over, of each sealed period."""
        return self.pipeline.rows(
            "SELECT subject, metric, used, stated, entries, rolled_over FROM sealed_periods ORDER BY 1, 2, period_start"
        )

    def grants(self) -> Sequence[tuple[Any, ...]]:
        return self.pipeline.rows("SELECT subject, amount, created_by FROM grants ORDER BY subject, id")

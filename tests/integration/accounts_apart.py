"""Many accounts of one shard, each a subject of its own, and what may become of their hashes."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from ledger import catalogs, grants
from ledger.acts import By
from ledger.openings import opening, read
from quota.catalog import parse_toml
from quota.formats import CapState, GrantState
from quota.keys import AccountName
from quota.periods import PeriodKind, period_at
from quota.protocol import Charge, Mode
from tests.integration.pipeline import Pipeline

MAX_STEPS = 100
CATALOG = """
default_plan = "free"
[metrics.m]
[plans.free]
rank = 0
limits.m = { period = "month" }
"""


@dataclass(frozen=True)
class Members:
    """Members of an organisation, who share its shard (3 of 8 is that of `guild`), by their numbers."""

    pipeline: Pipeline
    count: int

    @classmethod
    def opened(
        cls,
        pipeline: Pipeline,
        count: int,
        *,
        used: int = 3,
        caps: tuple[CapState, ...] = (),
        grants: tuple[GrantState, ...] = (),
    ) -> "Members":
        """With some units used by each, and all of it in the ledger."""
        pipeline.call(catalogs.apply, "t", parse_toml(CATALOG), By("test"), dry_run=False)
        shard = pipeline.shard.open("first")
        members, month = cls(pipeline, count), period_at(PeriodKind.MONTH, shard.now_ms())
        usual = shard.opening(limit=None, caps=caps, grants=grants, period=month)
        for number in range(count):
            opening = replace(usual, account=members.name(number))
            assert shard.provision(opening) == "provisioned"
        if used:
            members.consume(range(count), used)
        pipeline.drained()
        return members

    def name(self, number: int) -> AccountName:
        return AccountName("t", f"guild/{number}", "m")

    def key(self, number: int) -> str:
        return self.name(number).key(self.pipeline.shard.number)

    def consume(self, numbers: Iterable[int], amount: int = 1) -> None:
        shard = self.pipeline.shard
        steps = [shard.step(amount, charges=(Charge(self.key(number), amount),)) for number in numbers]
        for first in range(0, len(steps), MAX_STEPS):
            replies = shard.consume(*steps[first : first + MAX_STEPS])
            assert {reply.outcome.value for reply in replies} == {"allowed"}, replies

    def hold(self, number: int, amount: int = 1) -> str:
        """Its place."""
        shard = self.pipeline.shard
        charges = (Charge(self.key(number), amount, "3600000"),)
        (reply,) = shard.consume(shard.step(0, mode=Mode.HOLD, charges=charges))
        return f"{reply.epoch}-{reply.first_n}"

    def give(self, number: int, amount: int = 9) -> None:
        """A grant, of which the ledger knows that Redis has heard."""
        words: dict[str, Any] = {"priority": 0, "expires_ms": None, "by": By("k", reason="r")}
        name, shard = self.name(number), self.pipeline.shard
        self.pipeline.call(grants.add, name.tenant, name.subject, name.metric, amount=amount, **words)
        now_ms = shard.now_ms()
        epoch = int(self.field(number, "rule").partition(" ")[0])
        assert shard.provision(opening(name, now_ms, self.pipeline.call(read, [name], now_ms)), epoch=epoch) == (
            "provisioned"
        )
        self.pipeline.drained()

    def field(self, number: int, name: str) -> str:
        text: Any = self.pipeline.connection.hget(self.key(number), name)
        return (text or b"").decode()

    def put(self, number: int, name: str, text: str) -> None:
        self.pipeline.connection.hset(self.key(number), name, text)

    def used(self, number: int) -> int:
        return int(self.field(number, "state").partition(" ")[0])

    def tamper(self, number: int, by: int = 1) -> None:
        """Changes what the counter says and journals nothing."""
        used, entry = self.field(number, "state").split(" ")
        self.put(number, "state", f"{int(used) + by} {entry}")

    def put_back(self, number: int, used: int = 1) -> None:
        """Puts the hash back to what it was before the last consume, which the ledger has."""
        kept: Any = self.pipeline.connection.dump(self.key(number))
        self.consume([number], used)
        self.pipeline.drained()
        self.pipeline.connection.restore(self.key(number), 0, kept, replace=True)

    def corrections(self) -> list[tuple[str, int, int, int, str]]:
        """Subject, amount, change, used after, and detail of every correction in the ledger."""
        return [
            (subject, amount, change, used, detail)
            for subject, amount, change, used, detail in self.pipeline.rows(
                "SELECT subject, amount, change, used_after, detail FROM entries WHERE kind = 'correct' ORDER BY n"
            )
        ]

    def balances(self) -> list[int]:
        """By number."""
        rows = self.pipeline.rows("SELECT subject, used FROM balances WHERE subject LIKE 'guild/%'")
        found = dict(rows)
        return [found.get(f"guild/{number}", 0) for number in range(self.count)]

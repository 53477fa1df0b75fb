"""One shard of a real or a fake Redis, spoken to as the product does: quota.protocol makes the calls and reads the
replies, quota.scripts.run sends them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import fakeredis
import pytest
import redis
from redis.exceptions import NoScriptError

import lua
from quota import keys, protocol, scripts
from quota.entitlement import Entitlement
from quota.formats import NONE, CapState, Terms, Window, detail_of_refund, joined
from quota.journal import About, Entry, Journal, encode_about, parsed_entry
from quota.keys import AccountName
from quota.periods import DAY_MS, Period, PeriodKind
from quota.protocol import Bringing, Call, Charge, Mode, Opening, Step
from quota.replies import Reply, parsed_reply

SHARD = 3
RECORD_TTL_MS = 60_000
WARN_AT_PCT = (80, 95)
TERMS = "free month - 80,95"
ABOUT = encode_about(About(request_id="r-1"))


class FakeServer(fakeredis.FakeRedis):
    """fakeredis takes the line `#!lua` for Lua, and would find a script by its name only under the text without it."""

    def evalsha(self, *_: Any) -> Any:
        raise NoScriptError

    def eval(self, script: str, *arguments: Any) -> Any:
        return super().eval(script.partition("\n")[2], *arguments)


@dataclass(frozen=True)
class Shard:
    """One shard of one server, with helpers that leave out what a test does not care for."""

    connection: "redis.Redis"
    number: int = SHARD

    def run(self, call: Call) -> Any:
        reply = scripts.run(self.connection, call)
        return reply.decode() if isinstance(reply, bytes) else reply

    def now_ms(self) -> int:
        return Journal(self.connection).now_ms()

    def window(self, begins_in_days: int = -10, ends_in_days: int = 20) -> Period:
        midnight_ms = self.now_ms() // DAY_MS * DAY_MS
        return Period(PeriodKind.MONTH, midnight_ms + begins_in_days * DAY_MS, midnight_ms + ends_in_days * DAY_MS)

    def words(self, begins_in_days: int = -10, ends_in_days: int = 20) -> Window:
        return Window(self.window(begins_in_days, ends_in_days), Terms("free", PeriodKind.MONTH, None, WARN_AT_PCT))

    def opening(self, metric: str = "m", limit: int | None = 10, **changes: Any) -> Opening:
        granted = Entitlement("free", limit, changes.pop("enforcement", "hard"), PeriodKind.MONTH, None, WARN_AT_PCT)
        account = AccountName("t", "u", metric)
        return replace(Opening(account, 1, granted, self.window()), **changes)

    def provision(self, opening: Opening, *, epoch: int = 1, fence: str = "0") -> str:
        (word,) = self.run(protocol.provision([Bringing(self.number, epoch, fence, opening)]))
        return str(word.decode())

    def open(self, metric: str = "m", limit: int | None = 10, **changes: Any) -> "Shard":
        """Begins epoch 1, and provisions an account in it."""
        self.run(protocol.begin_epoch(self.number, 1, ""))
        assert self.provision(self.opening(metric, limit, **changes)) == "provisioned"
        return self

    def step(self, *amounts: int, metric: str = "m", key: str | None = None, body: str = "b", **changes: Any) -> Step:
        """Charges m, or m and m2, and so on."""
        names = [metric, *(f"{metric}{place}" for place in range(2, len(amounts) + 1))]
        charges = tuple(Charge(self.key(name), n) for name, n in zip(names, amounts, strict=True))
        record = None if key is None else keys.record(self.number, "t", "u", "consume", key)
        field = keys.catalog_field("t")
        usual = Step(self.number, Mode.CONSUME, field, 1, charges, ABOUT, record, "" if key is None else body)
        return replace(usual, **changes)

    def consume(self, *steps: Step) -> list[Reply]:
        texts = self.run(protocol.consume(steps, RECORD_TTL_MS))
        return [parsed_reply(text.decode()) for text in texts]

    def do(self, mode: Mode, *asked: tuple[int | None, str], metric: str = "m", **changes: Any) -> Reply:
        """One step of m, or of m and m2, and so on; each is asked an amount, with what its mode needs besides."""
        names = [metric, *(f"{metric}{place}" for place in range(2, len(asked) + 1))]
        charges = tuple(Charge(self.key(name), n, detail) for name, (n, detail) in zip(names, asked, strict=True))
        (reply,) = self.consume(replace(self.step(1), mode=mode, charges=charges, **changes))
        return reply

    def hold(self, amount: int, ttl_ms: int = 60_000, **changes: Any) -> str:
        """The place of a hold that fits."""
        reply = self.do(Mode.HOLD, (amount, str(ttl_ms)), **changes)
        return f"{reply.epoch}-{reply.first_n}"

    def refund(self, taken: Entry, amount: int, *, known: int = 0, epoch: int = 1, sealed: str = "") -> Reply:
        """Of one entry, of which the ledger knows so much to have been given back."""
        caps = joined(f"{kind}:{start}" for kind, start in taken.cap_windows) or NONE
        words = {"parts": joined(taken.parts) or NONE, "caps": caps, "sealed": sealed}
        detail = detail_of_refund(str(taken.place), taken.amount, refunded=known, epoch=epoch, **words)
        refunds_key = keys.refunds(self.number, taken.place.epoch, taken.receipt_first_n)
        return self.do(Mode.REFUND, (amount, detail), metric=taken.account.metric, refunds_key=refunds_key)

    def used(self, metric: str = "m") -> int:
        return int(self.account(metric)["state"].partition(" ")[0])

    def entry(self, metric: str = "m") -> str:
        """The place of the account's last entry."""
        return self.account(metric)["state"].partition(" ")[2]

    def kinds(self) -> list[str]:
        return [each.kind for each in self.entries()]

    def key(self, metric: str = "m") -> str:
        return AccountName("t", "u", metric).key(self.number)

    def account(self, metric: str = "m") -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.connection.hgetall(self.key(metric)).items()}

    def entries(self) -> list[Entry]:
        found = self.connection.xrange(keys.journal(self.number))
        return [parsed_entry(self.number, name, fields) for name, fields in found]

    def everything(self) -> dict[bytes, Any]:
        read = {"hash": "hgetall", "stream": "xrange", "string": "get"}
        names: list[Any] = sorted(self.connection.keys("*"))
        pipeline = self.connection.pipeline(transaction=False)
        for name in names:
            pipeline.type(name)
        for name, kind in zip(names, pipeline.execute(), strict=True):
            getattr(pipeline, read[kind.decode()])(name)
        return dict(zip(names, pipeline.execute(), strict=True))


CLOCK = """local now_ms = tonumber(redis.call('GET', 'clock'))
local now = string.format('%.0f', now_ms)
"""


class ClockedShard(Shard):
    """A shard whose scripts read a clock of the test's; in all else they are the product's."""

    def source(self, script: str) -> str:
        return lua.source(script).replace(lua.source("rules/clock"), CLOCK)

    def run(self, call: Call) -> Any:
        reply = self.connection.eval(self.source(call.script), len(call.keys), *call.keys, *call.arguments)
        return reply.decode() if isinstance(reply, bytes) else reply

    def now_ms(self) -> int:
        return int(self.connection.get("clock") or 0) or self.set_clock(super().now_ms())

    def set_clock(self, now_ms: int) -> int:
        self.connection.set("clock", now_ms)
        return now_ms

    def step_clock(self, step_ms: int) -> None:
        self.set_clock(self.now_ms() + step_ms)

    def roll(self, seen: Period, *caps: CapState) -> None:
        """Goes on to the end of a period that was seen, and rolls its account into the next."""
        assert seen.end_ms is not None
        self.set_clock(max(self.now_ms(), seen.end_ms))
        following = Window(Period(seen.kind, seen.end_ms, seen.end_ms + 30 * DAY_MS), self.words().terms)
        assert self.run(protocol.roll(self.number, self.key(), seen, following, caps)) == "rolled"


SERVERS = ("valkey", "fakeredis")


@contextmanager
def shard_on(server: str, request: pytest.FixtureRequest) -> Iterator[Shard]:
    """An empty shard on one of SERVERS."""
    if server == "valkey":
        yield Shard(request.getfixturevalue("connection"))
        return
    with FakeServer(version=(7,)) as connection:
        yield Shard(connection)


@contextmanager
def clocked_shard_on(server: str, request: pytest.FixtureRequest) -> Iterator[ClockedShard]:
    """The same, with a clock of the test's that stands still."""
    with shard_on(server, request) as shard:
        clocked = ClockedShard(shard.connection)
        clocked.now_ms()
        yield clocked


def moves(entries: list[Entry]) -> list[tuple[str, int, int, int | None]]:
    return [(each.kind, each.amount, each.change, each.used_after) for each in entries]


def outcomes(replies: list[Reply]) -> list[str]:
    return [reply.outcome.value for reply in replies]

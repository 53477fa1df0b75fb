"""One shard of a real or a fake Redis, spoken to as the product does: quota.protocol makes the calls and reads the
replies, quota.counters.run sends them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import fakeredis
import pytest
import redis
from redis.exceptions import NoScriptError

from quota import counters, keys, protocol
from quota.entitlement import Entitlement
from quota.journal import About, Entry, Journal, encode_about, parsed_entry
from quota.keys import AccountName
from quota.periods import DAY_MS, Period, PeriodKind
from quota.protocol import Call, Charge, Opening, Reply, Step

SHARD = 3
RECORD_TTL_MS = 60_000
WARN_AT_PCT = (80, 95)
TERMS = "free month - 80,95"


class FakeServer(fakeredis.FakeRedis):
    """fakeredis takes the line `#!lua` for Lua, and would find a script by its name only under the text without it."""

    def evalsha(self, *_: Any) -> Any:
        raise NoScriptError

    def eval(self, script: str, *arguments: Any) -> Any:
        return super().eval(script.removeprefix("#!lua\n"), *arguments)


@dataclass(frozen=True)
class Shard:
    """One shard of one server, with helpers that leave out what a test does not care for."""

    connection: "redis.Redis"
    number: int = SHARD

    def run(self, call: Call) -> Any:
        reply = counters.run(self.connection, call)
        return reply.decode() if isinstance(reply, bytes) else reply

    def now_ms(self) -> int:
        return Journal(self.connection).now_ms()

    def window(self, begins_in_days: int = -10, ends_in_days: int = 20) -> Period:
        midnight_ms = self.now_ms() // DAY_MS * DAY_MS
        return Period(PeriodKind.MONTH, midnight_ms + begins_in_days * DAY_MS, midnight_ms + ends_in_days * DAY_MS)

    def opening(self, metric: str = "m", limit: int | None = 10, **changes: Any) -> Opening:
        granted = Entitlement("free", limit, changes.pop("enforcement", "hard"), PeriodKind.MONTH, None, WARN_AT_PCT)
        account = AccountName("t", "u", metric)
        usual = Opening(account, 1, granted, self.window(), 0, "-", None, 0, about_of(metric))
        return replace(usual, **changes)

    def provision(self, opening: Opening, *, epoch: int = 1, fence: str = "0") -> str:
        return str(self.run(protocol.provision(self.number, epoch, fence, opening)))

    def open(self, metric: str = "m", limit: int | None = 10, **changes: Any) -> "Shard":
        """Begins epoch 1, and provisions an account in it."""
        self.run(protocol.begin_epoch(self.number, 1, ""))
        assert self.provision(self.opening(metric, limit, **changes)) == "provisioned"
        return self

    def step(self, *amounts: int, metric: str = "m", key: str | None = None, body: str = "b", **changes: Any) -> Step:
        """Charges m, or m and m2, and so on."""
        names = [metric, *(f"{metric}{place}" for place in range(2, len(amounts) + 1))]
        charges = tuple(Charge(self.key(name), name, n, about_of(name)) for name, n in zip(names, amounts, strict=True))
        record = None if key is None else keys.record(self.number, "t", "u", "consume", key)
        usual = Step(self.number, keys.catalog_field("t"), 1, charges, True, record, "" if key is None else body)
        return replace(usual, **changes)

    def consume(self, *steps: Step) -> list[Reply]:
        texts = self.run(protocol.consume(steps, RECORD_TTL_MS))
        return [protocol.parsed_reply(text.decode()) for text in texts]

    def key(self, metric: str = "m") -> str:
        return AccountName("t", "u", metric).key(self.number)

    def account(self, metric: str = "m") -> dict[str, str]:
        return {name.decode(): value.decode() for name, value in self.connection.hgetall(self.key(metric)).items()}

    def entries(self) -> list[Entry]:
        found = self.connection.xrange(keys.journal(self.number))
        return [parsed_entry(self.number, name, fields) for name, fields in found]

    def everything(self) -> dict[bytes, Any]:
        read = {"hash": "hgetall", "stream": "xrange", "string": "get"}
        names = sorted(self.connection.keys("*"))
        return {name: getattr(self.connection, read[self.connection.type(name).decode()])(name) for name in names}


def about_of(metric: str) -> bytes:
    return encode_about(About(tenant="t", subject="u", metric=metric, request_id="r-1"))


SERVERS = ("valkey", "fakeredis")


@contextmanager
def shard_on(server: str, request: pytest.FixtureRequest) -> Iterator[Shard]:
    """An empty shard on one of SERVERS."""
    if server == "valkey":
        yield Shard(request.getfixturevalue("connection"))
        return
    with FakeServer(version=(7,)) as connection:
        yield Shard(connection)


def moves(entries: list[Entry]) -> list[tuple[str, int, int, int]]:
    return [(each.kind, each.amount, each.change, each.used_after) for each in entries]


def outcomes(replies: list[Reply]) -> list[str]:
    return [reply.outcome.value for reply in replies]

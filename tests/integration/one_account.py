"""What is done to one account on a clock of the test's, on its way into the ledger."""

from typing import Any

from ledger import grants
from ledger.acts import By
from ledger.grants import Granted
from quota import protocol
from quota.formats import CapState, GrantState, Window
from quota.keys import AccountName
from quota.periods import DAY_MS, Period, PeriodKind, period_at
from quota.protocol import Charge, Mode
from tests.integration.pipeline import Pipeline

ACCOUNT = AccountName("t", "u", "m")


def give(pipeline: Pipeline, amount: int = 5, *, metric: str = "m", priority: int = 0, days: int | None = None) -> int:
    """The id of a grant that expires in some days of the shard's clock."""
    expires_ms = None if days is None else pipeline.clocked.now_ms() + days * DAY_MS
    words = {"amount": amount, "priority": priority, "expires_ms": expires_ms, "by": By("k", reason="thanks")}
    grant_id, _ = pipeline.call(grants.add, "t", "u", metric, **words)
    return grant_id


def state(granted: Granted) -> GrantState:
    return GrantState(granted.id, granted.priority, granted.expires_ms, granted.left)


def granted_now(pipeline: Pipeline) -> list[Granted]:
    return pipeline.call(grants.of_accounts, [ACCOUNT], pipeline.clocked.now_ms()).get(ACCOUNT, [])


def open_with_grants(pipeline: Pipeline, limit: int = 3, **changes: Any) -> Period:
    """An account with the ledger's grants and a cap of today's; the window of the cap."""
    today = period_at(PeriodKind.DAY, pipeline.clocked.now_ms())
    states = tuple(map(state, granted_now(pipeline)))
    pipeline.clocked.open("m", limit, grants=states, caps=(CapState(today, 50),), **changes)
    return today


def do(pipeline: Pipeline, mode: Mode, amount: int | None, detail: str = "", **changes: Any) -> int:
    """The n of the first entry."""
    shard = pipeline.clocked
    charge = Charge(shard.key(), amount, detail)
    (reply,) = shard.consume(shard.step(0, mode=mode, charges=(charge,), **changes))
    assert reply.first_n is not None, reply
    return reply.first_n


def roll(pipeline: Pipeline) -> Window:
    """Lets the running period end; the window that was sealed."""
    shard = pipeline.clocked
    sealed = Window.parsed(shard.account()["window"])
    shard.set_clock(sealed.period.end_ms or 0)
    day = period_at(PeriodKind.DAY, shard.now_ms())
    following = Window(Period(PeriodKind.MONTH, shard.now_ms(), shard.now_ms() + 30 * DAY_MS), sealed.terms)
    assert shard.run(protocol.roll(3, shard.key(), sealed.period, following, (CapState(day, 50),))) == "rolled"
    return sealed


def next_day(pipeline: Pipeline) -> None:
    """The capped window goes over, the period does not."""
    shard = pipeline.clocked
    today = period_at(PeriodKind.DAY, shard.set_clock(shard.now_ms() + DAY_MS))
    window = Window.parsed(shard.account()["window"])
    assert shard.run(protocol.roll(3, shard.key(), window.period, window, (CapState(today, 50),))) == "rolled"

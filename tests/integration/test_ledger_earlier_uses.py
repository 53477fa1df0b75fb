"""What a key was used for earlier, of which Redis has lost its record: as the ledger knows it."""

from collections.abc import Iterator

import pytest
import redis

from ledger import earlier_uses, receipts, repeats
from ledger.earlier_uses import EarlierHold, GivenBack
from ledger.receipts import GivenAgain
from ledger.repeats import TakeBack
from ledger.store import transaction
from quota import keys
from quota.formats import detail_of_refund
from quota.journal import About, Place, encode_about
from quota.keys import AccountName
from quota.protocol import Charge, Mode
from tests.conftest import Database
from tests.integration.one_account import ACCOUNT, do, roll
from tests.integration.pipeline import Pipeline

OTHER = AccountName("t", "u", "m2")
RETENTION_MS = 1_000_000


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        pipeline.clocked.open(limit=None).open("m2", limit=None)
        yield pipeline


def refund(pipeline: Pipeline, *taken: tuple[int, int, int, int], key: str = "k") -> int:
    """Gives back of each entry of one receipt: its n, what it took, what went back before, and how much now."""
    shard = pipeline.clocked
    first_n = taken[0][0]
    charges = [
        Charge(
            shard.key(metric),
            amount,
            detail_of_refund(f"1-{n}", took, refunded=before, epoch=1, parts="-", caps="-", sealed=None),
        )
        for (n, took, before, amount), metric in zip(taken, ("m", "m2"), strict=False)
    ]
    about = encode_about(About(idempotency_key=key, route="refunds"))
    asked = shard.step(
        0, mode=Mode.REFUND, charges=tuple(charges), about=about, refunds_key=keys.refunds(3, 1, first_n)
    )
    (reply,) = shard.consume(asked)
    assert reply.first_n is not None, reply
    return reply.first_n


def hold(pipeline: Pipeline, key: str | None = "k", subject_metric: str = "m", route: str = "reservations") -> int:
    shard = pipeline.clocked
    about = encode_about(About(idempotency_key=key, route=route))
    charge = Charge(shard.key(subject_metric), 5, "60000")
    (reply,) = shard.consume(shard.step(0, mode=Mode.HOLD, charges=(charge,), about=about))
    assert reply.first_n is not None
    return reply.first_n


class TestRefunds:
    def found(self, pipeline: Pipeline, *scope: str, since_ms: int | None = None) -> list[GivenBack]:
        since_ms = pipeline.clocked.now_ms() - RETENTION_MS if since_ms is None else since_ms
        tenant, subject, route, key = scope or ("t", "u", "refunds", "k")
        with transaction(pipeline.engine, tenant) as connection:
            return earlier_uses.refund(connection, tenant, subject, route, key, since_ms)

    def test_the_first_refund_of_a_key_is_told_as_it_was_answered(self, pipeline: Pipeline) -> None:
        """With what had been given back in all by then, whatever was given back since."""
        pipeline.clocked.consume(pipeline.clocked.step(10, 20))
        refund(pipeline, (0, 10, 0, 1), (1, 20, 0, 2), key="before")
        first_n = refund(pipeline, (0, 10, 1, 3), (1, 20, 2, 4))
        refund(pipeline, (0, 10, 4, 5), key="after")
        refund(pipeline, (0, 10, 9, 1))  # a repeat, which is to be taken back
        pipeline.drained()
        assert first_n == 4
        assert self.found(pipeline) == [GivenBack(Place(1, 0), 3, 4), GivenBack(Place(1, 1), 4, 6)]

    @pytest.mark.parametrize(
        "scope",
        [
            ("t2", "u", "refunds", "k"),
            ("t", "u2", "refunds", "k"),
            ("t", "u", "consume", "k"),
            ("t", "u", "refunds", "K"),
        ],
    )
    def test_in_another_scope_there_was_none(self, pipeline: Pipeline, scope: tuple[str, ...]) -> None:
        pipeline.clocked.consume(pipeline.clocked.step(10))
        refund(pipeline, (0, 10, 0, 1))
        pipeline.drained()
        assert (len(self.found(pipeline)), self.found(pipeline, *scope)) == (1, [])

    def test_one_of_longer_ago_than_keys_are_kept_is_none(self, pipeline: Pipeline) -> None:
        pipeline.clocked.consume(pipeline.clocked.step(10))
        refund(pipeline, (0, 10, 0, 1))
        at_ms = pipeline.clocked.entries()[-1].occurred_at_ms
        pipeline.drained()
        assert len(self.found(pipeline, since_ms=at_ms)) == 1
        assert self.found(pipeline, since_ms=at_ms + 1) == []

    def test_another_use_of_a_key_is_no_refund(self, pipeline: Pipeline) -> None:
        hold(pipeline, route="refunds")
        pipeline.drained()
        assert self.found(pipeline) == []


def later(n: int) -> TakeBack:
    return TakeBack("t", 3, 1, n, 1, "hold", "repeated idempotency key")


class TestHolds:
    def before(self, pipeline: Pipeline, n: int) -> EarlierHold | None:
        with transaction(pipeline.engine, "t") as connection:
            return earlier_uses.hold_before(connection, later(n))

    def test_the_hold_just_before_a_repeated_one_is_told(self, pipeline: Pipeline) -> None:
        first, _, second = hold(pipeline), hold(pipeline, key="other"), hold(pipeline)
        pipeline.drained()
        third = hold(pipeline, subject_metric="m2")
        pipeline.drained()
        assert self.before(pipeline, first) is None
        assert self.before(pipeline, second) == EarlierHold(Place(1, first), "m", waits=False)
        assert self.before(pipeline, third) == EarlierHold(Place(1, second), "m", waits=True)
        pipeline.call(repeats.done, [later(second)])
        assert self.before(pipeline, third) == EarlierHold(Place(1, second), "m", waits=False)

    def test_another_key_or_route_and_none_at_all_are_other_holds(self, pipeline: Pipeline) -> None:
        made = [hold(pipeline), hold(pipeline, key="K"), hold(pipeline, route="r"), hold(pipeline, key=None)]
        made += [hold(pipeline, key="K2", route="r"), hold(pipeline, key="K2")]
        pipeline.drained()
        assert [self.before(pipeline, n) for n in made] == [None] * 6

    def test_a_repeat_on_another_route_is_not_the_one_before(self, pipeline: Pipeline) -> None:
        first, _, _, second = hold(pipeline), hold(pipeline, route="r"), hold(pipeline, route="r"), hold(pipeline)
        pipeline.drained()
        assert self.before(pipeline, second) == EarlierHold(Place(1, first), "m", waits=False)


class TestWhatARefundGave:
    def given(self, pipeline: Pipeline, n: int, count: int = 1) -> list[GivenAgain]:
        return pipeline.call(receipts.given_by, TakeBack("t", 3, 1, n, count, "refund", "repeated idempotency key"))

    def test_it_is_told_with_the_instant_and_the_window_of_the_taking(self, pipeline: Pipeline) -> None:
        pipeline.clocked.consume(pipeline.clocked.step(10, 20))
        taken = pipeline.clocked.entries()[0]
        pipeline.clocked.set_clock(taken.occurred_at_ms + 5_000)
        n = refund(pipeline, (0, 10, 0, 3), (1, 20, 0, 4))
        pipeline.drained()
        found = self.given(pipeline, n, 2)
        assert [(each.account, each.amount, each.at_ms) for each in found] == [
            (ACCOUNT, 3, taken.occurred_at_ms),
            (OTHER, 4, taken.occurred_at_ms),
        ]
        assert {each.window.period for each in found} == {taken.window.period}
        assert (self.given(pipeline, n), self.given(pipeline, 0, 2)) == ([], [])

    def test_of_a_period_that_was_closed_since_it_is_told_with_that_period(self, pipeline: Pipeline) -> None:
        taken_n = do(pipeline, Mode.CONSUME, 9)
        sealed = roll(pipeline).period
        n = refund(pipeline, (taken_n, 9, 0, 3))
        pipeline.drained()
        (found,) = self.given(pipeline, n)
        assert (found.window.period, found.at_ms) == (sealed, sealed.start_ms)

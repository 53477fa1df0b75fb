"""Whatever stands in an account's hash, a script neither breaks off nor writes half of anything, and harms no other
request of its call: on the real server and on fakeredis alike.
"""

from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quota import protocol
from quota.formats import CapState, GrantState
from quota.periods import DAY_MS, Period, PeriodKind
from quota.protocol import Mode
from quota.replies import Outcome
from tests.integration.shard import SERVERS, SHARD, ClockedShard, clocked_shard_on, outcomes

HUGE = "9" * 400


@pytest.fixture(params=SERVERS)
def shard(request: pytest.FixtureRequest) -> Iterator[ClockedShard]:
    with clocked_shard_on(request.param, request) as shard:
        yield shard


def opened(shard: ClockedShard) -> str:
    """An account that has one of everything, and another beside it; the place of a hold."""
    day = Period(PeriodKind.DAY, shard.now_ms() - 1000, shard.now_ms() + DAY_MS)
    grants = (GrantState(1, 0, None, 5), GrantState(2, 0, shard.now_ms() + 5000, 5))
    shard.open("other", limit=None).open(limit=10, caps=(CapState(day, 50),), grants=grants)
    place = shard.hold(11)
    assert outcomes(shard.consume(shard.step(2), shard.step(60))) == ["allowed", "denied"]
    return place


OPTIONAL = [
    "held",
    "grants",
    "newest_grant",
    "newest_notice",
    "caps",
    "warned",
    "denials",
    "seal",
    "sealed",
    "expired",
    "counted_from",
    "corrected",
]
FIELDS = ["state", "rule", "window", *OPTIONAL, "hold"]
NONSENSE = [
    "nonsense",
    "-1",
    "nan",
    "inf",
    "1e3",
    HUGE,
    "- - - - - -",
    "1 2 3 4 5 6 7",
    "\n",
    "é\x00",
    "9007199254740993 1-1",
]


class TestDamage:
    @pytest.mark.parametrize("text", NONSENSE, ids=range(len(NONSENSE)))
    @pytest.mark.parametrize("field", FIELDS)
    def test_nonsense_in_a_field_fails_its_own_request_and_writes_nothing(
        self, shard: ClockedShard, field: str, text: str
    ) -> None:
        place = opened(shard)
        shard.connection.hset(shard.key(), f"h:{place}" if field == "hold" else field, text)
        before = shard.everything()
        steps = [shard.step(1, mode=mode) for mode in (Mode.CHECK, Mode.CONSUME)]
        replies = [
            *shard.consume(shard.step(1, metric="other"), *steps, shard.step(2, metric="other")),
            shard.do(Mode.COMMIT, (None, place)),
        ]
        if field == "hold":  # looked at only by those who need it
            assert outcomes(replies) == ["allowed", "allowed", "allowed", "allowed", "failed"]
            return
        assert outcomes(replies) == ["allowed", "failed", "failed", "allowed", "failed"]
        assert shard.everything()[shard.key().encode()] == before[shard.key().encode()]
        assert shard.kinds()[-2:] == ["consume", "consume"]

    @pytest.mark.parametrize("field", ["state", "rule", "window"])
    def test_a_field_that_is_missing_fails_the_request(self, shard: ClockedShard, field: str) -> None:
        opened(shard)
        shard.connection.hdel(shard.key(), field)
        before = shard.everything()
        assert shard.consume(shard.step(1))[0].outcome is Outcome.FAILED
        assert shard.everything() == before

    def test_a_plain_account_of_no_number_is_failed_and_never_counted_on(self, shard: ClockedShard) -> None:
        """`nan` passes every comparison."""
        for text in ("nan 1-0", "0x10 1-0", "1e3 1-0", f"{HUGE} 1-0", "-5 1-0"):
            shard.open(limit=10)
            shard.connection.hset(shard.key(), "state", text)
            assert shard.consume(shard.step(1))[0].outcome is Outcome.FAILED, text
            assert shard.account()["state"] == text
            shard.connection.delete(shard.key())

    def test_a_hold_that_was_lost_is_noticed_when_holds_are_looked_through(self, shard: ClockedShard) -> None:
        place = opened(shard)
        shard.hold(1, ttl_ms=1)
        shard.connection.hdel(shard.key(), f"h:{place}")
        shard.step_clock(1)
        before = shard.everything()
        assert shard.consume(shard.step(1))[0].outcome is Outcome.FAILED
        assert shard.everything() == before

    @pytest.mark.parametrize("field", FIELDS)
    def test_one_that_is_damaged_is_written_anew_from_the_ledger(self, shard: ClockedShard, field: str) -> None:
        place = opened(shard)
        shard.connection.hset(shard.key(), f"h:{place}" if field == "hold" else field, "nonsense")
        assert shard.provision(shard.opening(used=2, entry="1-3")) == "provisioned"
        assert shard.account()["state"] == "2 1-3"
        assert shard.consume(shard.step(1))[0].outcome is Outcome.ALLOWED

    def test_a_roll_over_a_damaged_hold_fails_and_writes_nothing(self, shard: ClockedShard) -> None:
        seen, place = shard.window(), opened(shard)
        shard.connection.hset(shard.key(), f"h:{place}", "nonsense")
        shard.set_clock(seen.end_ms or 0)
        before = shard.everything()
        said = shard.run(protocol.roll(SHARD, shard.key(), seen, shard.words(20, 50)))
        assert said == f"failed the hold {place} is damaged"
        assert shard.everything() == before

    def test_a_publish_passes_over_what_is_no_account(self, shard: ClockedShard) -> None:
        shard.open("m").open("m2")
        shard.connection.set(shard.key("m"), "of a wrong type")
        assert shard.run(protocol.publish(SHARD, "t", 1, [shard.key("m"), shard.key("m2")])) == 1

    def test_what_a_step_ought_not_to_ask_fails_alone(self, shard: ClockedShard) -> None:
        place = opened(shard)
        before = shard.everything()
        asked = [(Mode.CONSUME, None, ""), (Mode.HOLD, 1, "soon"), (Mode.REFUND, 1, "nonsense"), (Mode.SET, None, "")]
        for mode, amount, detail in [*asked, (Mode.CHARGE, 1, "nonsense")]:
            refunds_key = "qg:{3}:f:1-0" if mode is Mode.REFUND else None
            reply = shard.do(mode, (amount, detail), refunds_key=refunds_key)
            assert reply.outcome is Outcome.FAILED, (mode, reply)
        assert shard.do(Mode.COMMIT, (None, "nonsense")).outcome is Outcome.NOT_HELD
        assert shard.everything() == before
        assert shard.do(Mode.COMMIT, (None, place)).outcome is Outcome.ALLOWED


WORDS = st.sampled_from(["0", "1", "-1", "-", "~", "nan", "hard", "month", "1-0", "9007199254740991", HUGE, "", "x"])
TEXTS = st.lists(WORDS, max_size=9).map(" ".join) | st.text(max_size=20)


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(field=st.sampled_from(FIELDS), text=TEXTS, mode=st.sampled_from(Mode))
def test_no_text_at_all_makes_a_script_break_off(connection: object, field: str, text: str, mode: Mode) -> None:
    shard = ClockedShard(connection)  # type: ignore[arg-type]
    shard.connection.flushall()
    shard.now_ms()
    place = opened(shard)
    shard.connection.hset(shard.key(), f"h:{place}" if field == "hold" else field, text)
    details = {Mode.HOLD: "1000", Mode.COMMIT: place, Mode.RELEASE: place, Mode.REFUND: "1-2 2 0 1 - -"}
    detail = details.get(mode, f"{shard.now_ms()} {shard.words()}")
    refunds_key = "qg:{3}:f:1-2" if mode is Mode.REFUND else None
    before = shard.account()
    charges = (protocol.Charge(shard.key(), 1, detail),)
    step = protocol.Step(SHARD, mode, "catalog:t", 1, charges, refunds_key=refunds_key)
    other = shard.step(1, metric="other")
    first, said, last = shard.run(protocol.consume([other, step, other], 1000))
    assert (first.split(b" ")[0], last.split(b" ")[0]) == (b"allowed", b"allowed")
    assert not said.startswith(b"failed") or shard.account() == before
    shard.run(protocol.roll(SHARD, shard.key(), shard.window(), shard.words()))

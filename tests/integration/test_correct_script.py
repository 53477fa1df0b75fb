"""What the script `correct` promises, on the real server and on fakeredis alike."""

from collections.abc import Iterator

import pytest

from quota import protocol
from quota.identifiers import MAX_AMOUNT
from quota.journal import About, decode_about, encode_about
from quota.keys import AccountName
from quota.protocol import Mode
from tests.integration.shard import SERVERS, SHARD, Shard, moves, outcomes, shard_on

ABOUT = encode_about(About(reason="the counter said 5", actor="reconcile"))


@pytest.fixture(params=SERVERS)
def shard(request: pytest.FixtureRequest) -> Iterator[Shard]:
    with shard_on(request.param, request) as shard:
        yield shard


def correct(shard: Shard, delta: int, *, seen: int, entry: str | None = None, epoch: int = 1, metric: str = "m") -> str:
    at = shard.entry(metric) if entry is None else entry
    account = AccountName("t", "u", metric)
    call = protocol.correct(SHARD, account, epoch, at, seen_used=seen, delta=delta, caps={}, about=ABOUT)
    return str(shard.run(call))


@pytest.mark.parametrize("delta", [-2, 3, 0])
def test_a_counter_moves_by_the_difference_and_the_journal_says_what_it_was(shard: Shard, delta: int) -> None:
    shard.open(limit=None).consume(shard.step(5))
    assert correct(shard, delta, seen=5) == "corrected"
    assert (shard.used(), shard.entry()) == (5 + delta, "1-1")
    entry = shard.entries()[-1]
    assert moves([entry]) == [("correct", abs(delta), 0, 5 + delta)]
    assert (entry.detail, entry.about) == ("was:5", decode_about(ABOUT))


def test_what_it_leaves_is_counted_on_with_the_rules_as_they_are(shard: Shard) -> None:
    shard.open(limit=10).consume(shard.step(10))
    assert outcomes(shard.consume(shard.step(1))) == ["denied"]
    assert correct(shard, -1, seen=10) == "corrected"
    assert outcomes(shard.consume(shard.step(2), shard.step(1), shard.step(1))) == ["denied", "allowed", "denied"]
    assert shard.used() == 10


def test_a_level_that_it_crosses_warns_once(shard: Shard) -> None:
    shard.open(limit=100).consume(shard.step(70))
    assert correct(shard, 15, seen=70) == "corrected"
    assert shard.kinds() == ["consume", "correct", "warned"]
    shard.consume(shard.step(1))
    assert shard.kinds()[3:] == ["consume"]


@pytest.mark.parametrize("change", [{"seen": 4}, {"entry": "1-7"}, {"epoch": 2}], ids=["seen", "entry", "epoch"])
def test_one_that_stands_elsewhere_is_left_alone(shard: Shard, change: dict[str, int | str]) -> None:
    shard.open(limit=None).consume(shard.step(5))
    before = shard.everything()
    arguments = {"seen": 5} | change
    assert correct(shard, 1, **arguments) == "moved"  # type: ignore[arg-type]
    assert shard.everything() == before


def test_it_corrects_once_however_often_it_is_sent(shard: Shard) -> None:
    shard.open(limit=None).consume(shard.step(5))
    at = shard.entry()
    assert [correct(shard, 1, seen=5, entry=at) for _ in range(3)] == ["corrected", "moved", "moved"]
    assert shard.used() == 6


def test_one_of_an_ended_epoch_or_without_a_head_is_left_alone(shard: Shard) -> None:
    shard.open(limit=None).consume(shard.step(5))
    shard.run(protocol.begin_epoch(SHARD, 2, ""))
    assert [correct(shard, 1, seen=5, epoch=epoch) for epoch in (1, 2)] == ["moved", "moved"]
    shard.connection.delete(f"qg:{{{SHARD}}}:h")
    assert correct(shard, 1, seen=5) == "moved"
    assert shard.used() == 5


def test_one_that_is_gone_is_not_made(shard: Shard) -> None:
    shard.open(limit=None)
    assert correct(shard, 1, seen=0, entry="-", metric="other") == "moved"
    assert shard.account("other") == {}


@pytest.mark.parametrize("delta", [-6, MAX_AMOUNT])
def test_what_would_leave_the_range_of_amounts_fails_and_changes_nothing(shard: Shard, delta: int) -> None:
    shard.open(limit=None).consume(shard.step(5))
    before = shard.everything()
    assert correct(shard, delta, seen=5).startswith("failed a corrected balance")
    assert shard.everything() == before


def test_a_damaged_account_fails_and_is_left_as_it_is(shard: Shard) -> None:
    shard.open(limit=None).consume(shard.step(5))
    shard.connection.hset(shard.key(), "warned", "nonsense")
    before = shard.everything()
    assert correct(shard, 1, seen=5).startswith("failed")
    assert shard.everything() == before


def test_holds_and_grants_stay_as_they_are(shard: Shard) -> None:
    shard.open(limit=10).consume(shard.step(5))
    place = shard.hold(3)
    held = shard.account()["held"]
    assert correct(shard, -1, seen=5) == "corrected"
    assert (shard.used(), shard.account()["held"]) == (4, held)
    assert outcomes([shard.do(Mode.COMMIT, (None, place))]) == ["allowed"]
    assert shard.used() == 7


def test_a_journal_that_refuses_leaves_the_counter_alone(shard: Shard) -> None:
    shard.open(limit=None).consume(shard.step(5))
    shard.connection.delete(f"qg:{{{SHARD}}}:j")
    shard.connection.set(f"qg:{{{SHARD}}}:j", "no stream")
    at = shard.entry()
    assert correct(shard, 1, seen=5, entry=at).startswith("failed")
    assert shard.used() == 5

"""What the script `provision` promises of an account that differs from the ledger, on the real server and on fakeredis
alike."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from quota import protocol
from quota.journal import About, encode_about
from quota.periods import PeriodKind
from quota.protocol import Bringing, Mode, Opening
from tests.integration.shard import SERVERS, SHARD, ClockedShard, clocked_shard_on, moves, outcomes

ABOUT = encode_about(About(reason="of holds 0, and the ledger 3", actor="reconcile"))


@pytest.fixture(params=SERVERS)
def shard(request: pytest.FixtureRequest) -> Iterator[ClockedShard]:
    """5 of 10 used, and no hold."""
    with clocked_shard_on(request.param, request) as shard:
        shard.open().consume(shard.step(5))
        yield shard


def ledgers(shard: ClockedShard, **changes: Any) -> Opening:
    """What the ledger says: that there is a hold of 3, too."""
    hold = f"3 {shard.now_ms() + 60_000} 3 -"
    return shard.opening(used=5, entry="1-0", **{"holds": {"1-7": hold}} | changes)


def write_anew(shard: ClockedShard, opening: Opening, seen: str = "1-0 5", epoch: int = 1) -> str:
    bringing = Bringing(SHARD, epoch, "0", opening, seen, ABOUT)
    (word,) = shard.run(protocol.provision([bringing]))
    return str(word.decode())


def test_it_has_what_the_ledger_says_and_journals_why(shard: ClockedShard) -> None:
    assert write_anew(shard, ledgers(shard)) == "provisioned"
    assert (shard.used(), shard.account()["held"].split(" ")[:2]) == (5, ["3", "1"])
    entry = shard.entries()[-1]
    assert (moves([entry]), entry.detail, entry.about.actor) == ([("correct", 0, 0, 5)], "was:5", "reconcile")
    assert outcomes([shard.do(Mode.COMMIT, (None, "1-7"))]) == ["allowed"]


def test_it_is_written_once_however_often_it_is_sent(shard: ClockedShard) -> None:
    assert [write_anew(shard, ledgers(shard)) for _ in range(3)] == ["provisioned", "moved", "moved"]
    assert shard.kinds() == ["consume", "correct"]


def test_what_has_expired_goes_with_an_entry(shard: ClockedShard) -> None:
    assert write_anew(shard, ledgers(shard, holds={"1-7": "3 1 3 -"})) == "provisioned"
    assert [(each.kind, each.detail) for each in shard.entries()[1:]] == [("correct", "was:5"), ("expire", "1-7")]
    assert "held" not in shard.account()


@pytest.mark.parametrize("seen", ["1-0 4", "1-1 5", "- 5", "nonsense"])
def test_one_that_stands_elsewhere_is_left_alone(shard: ClockedShard, seen: str) -> None:
    before = shard.everything()
    assert write_anew(shard, ledgers(shard), seen) == "moved"
    assert shard.everything() == before


def test_one_of_an_ended_epoch_one_that_is_damaged_and_one_that_is_gone_are_left_alone(shard: ClockedShard) -> None:
    opening = ledgers(shard)
    shard.run(protocol.begin_epoch(SHARD, 2, ""))
    assert [write_anew(shard, opening, epoch=epoch) for epoch in (1, 2)] == ["moved", "moved"]
    shard.run(protocol.begin_epoch(SHARD, 3, ""))
    shard.connection.hset(shard.key(), "warned", "nonsense")
    assert write_anew(shard, opening, epoch=3) == "moved"
    shard.connection.delete(shard.key())
    assert (write_anew(shard, opening, epoch=3), shard.account()) == ("moved", {})


def test_what_the_ledger_says_of_other_units_or_of_another_window_is_not_taken(shard: ClockedShard) -> None:
    before = shard.everything()
    elsewhere = replace(ledgers(shard), period=shard.window(1, 31))
    assert [write_anew(shard, each) for each in (replace(ledgers(shard), used=4), elsewhere)] == ["moved", "moved"]
    assert shard.everything() == before


def test_a_period_that_is_over_is_closed_and_the_next_begun(shard: ClockedShard) -> None:
    """The ledger knows no other window than the one that was left; what is held there is held on."""
    window = shard.words()
    end_ms = window.period.end_ms or 0
    shard.set_clock(end_ms)
    following = replace(window.period, start_ms=end_ms, end_ms=end_ms + 1_000)
    assert window.period.kind is PeriodKind.MONTH
    assert write_anew(shard, ledgers(shard, period=following, cut=window)) == "provisioned"
    assert shard.kinds() == ["consume", "correct", "close"]
    assert (shard.used(), shard.account()["window"].split(" ")[0]) == (0, str(end_ms))
    assert shard.account()["h:1-7"].endswith(f" 3 - {window}")


def test_what_the_ledger_does_not_know_stays(shard: ClockedShard) -> None:
    for _ in range(12):
        shard.consume(shard.step(50))
    denials = shard.account()["denials"]
    assert not denials.endswith(" 0 0")
    entry = shard.entry()
    assert write_anew(shard, replace(ledgers(shard), entry=entry), f"{entry} 5") == "provisioned"
    assert shard.account()["denials"] == denials

"""What a process keeps in mind of what it told its callers, until it is sure that nobody lost it."""

from dataclasses import replace

import pytest

from quota import acknowledged
from quota.acknowledged import Acknowledged, Told
from quota.journal import Place
from quota.keys import AccountName
from quota.lives import NOWHERE, Standing
from quota.replies import AccountState, Outcome, Reply, Verdict

KEYS = [AccountName("t", "u", metric).key(3) for metric in ("a", "b")]
STATES = tuple(AccountState(Verdict.FITS, key, amount) for key, amount in zip(KEYS, (5, None), strict=True))
REPLY = Reply(Outcome.ALLOWED, 1_000, 2, "0", 7, STATES)


def told(*replies: Reply) -> Acknowledged:
    held = Acknowledged()
    for reply in replies:
        held.heard(3, reply)
    return held


def test_each_account_of_an_answer_is_an_entry() -> None:
    found = list(told(REPLY).of_epoch(3, 2))
    assert found == [Told(3, Place(2, 7), 1_000, KEYS[0], 5), Told(3, Place(2, 8), 1_000, KEYS[1], 0)]
    assert found[0].account == AccountName("t", "u", "a")
    assert (list(told(REPLY).of_epoch(3, 1)), list(told(REPLY).of_epoch(4, 2))) == ([], [])


def test_the_last_place_never_goes_back() -> None:
    """Answers of two calls may be read in another order than they were given."""
    assert told(REPLY, replace(REPLY, first_n=3)).last(3) == Place(2, 8)
    assert told(REPLY, replace(REPLY, epoch=3, first_n=0)).last(3) == Place(3, 1)
    assert told(REPLY).last(4) == NOWHERE


@pytest.mark.parametrize("reply", [replace(REPLY, first_n=None), replace(REPLY, replayed=True)])
def test_what_was_not_charged_now_is_not_kept(reply: Reply) -> None:
    assert (list(told(reply).of_epoch(3, 2)), told(reply).last(3)) == ([], NOWHERE)


def test_an_epoch_that_ended_is_told_once() -> None:
    """Also when nobody has asked for anything of that shard since."""
    held = told(REPLY)
    assert (held.ended({3: 2}), held.ended({4: 9}), held.ended({3: 4})) == ({}, {}, {3: [2]})
    held.settle(3, 4)
    held.heard(3, replace(REPLY, epoch=4, first_n=0))
    assert (held.ended({3: 4}), held.ended({3: 5})) == ({}, {3: [4]})


def test_all_that_ended_since_are_told_where_redis_was_lost_again_before_the_first_was_known() -> None:
    held = told(REPLY, replace(REPLY, epoch=3), replace(REPLY, epoch=5), replace(REPLY, epoch=6))
    assert held.ended({3: 6}) == {3: [2, 3, 5]}
    held.settle(3, 3)
    assert held.ended({3: 6}) == {3: [3, 5]}


def test_only_the_latest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acknowledged, "MAX_RECENT", 2)
    held = told(*(replace(REPLY, first_n=n) for n in (0, 2, 4)))
    assert [each.place.n for each in held.of_epoch(3, 2)] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("standing", "is_behind"),
    [
        (Standing(None, NOWHERE), True),
        (Standing(1, Place(1, 99)), True),
        (Standing(2, Place(2, 6)), True),
        (Standing(2, Place(2, 7)), False),
        (Standing(2, Place(2, 8)), False),
        (Standing(3, NOWHERE), False),
    ],
)
def test_a_shard_is_behind_when_it_was_further_before(standing: Standing, is_behind: bool) -> None:
    assert standing.is_behind(2, Place(2, 7)) is is_behind


def test_an_epoch_without_an_entry_is_not_behind_the_one_before() -> None:
    assert not Standing(2, Place(1, 3)).is_behind(2, Place(1, 7))


def test_of_what_is_not_kept_in_mind_the_last_place_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """And its epoch is told of, though another shard's answers have driven it out."""
    monkeypatch.setattr(acknowledged, "MAX_RECENT", 2)
    held = told(REPLY, replace(REPLY, epoch=3))
    assert held.dropped(3, 2) is None
    held.heard(4, REPLY)
    held.heard(4, REPLY)
    assert (held.dropped(3, 2), held.dropped(3, 3), held.dropped(4, 2)) == (8, 8, None)
    assert (list(held.of_epoch(3, 3)), held.ended({3: 4})) == ([], {3: [2, 3]})
    held.settle(3, 3)
    assert (held.dropped(3, 2), held.dropped(3, 3)) == (None, 8)

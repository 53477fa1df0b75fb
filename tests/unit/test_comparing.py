"""What is a drift, and what is only traffic that went on."""

from ledger.comparison import Difference, Known
from quota.account_reading import Counter
from quota.journal import Place
from quota.keys import AccountName
from workers.comparing import Drifted, Sight, drift, right_balance


def sight(used: int, n: int | None, *, at_entry: int, balance: int | None = None, last: int | None = None) -> Sight:
    """A counter at entry 1-n, and a ledger that had `at_entry` there, and stands at 1-last with `balance`."""
    entry = None if n is None else Place(1, n)
    place = None if last is None and n is None else Place(1, last if last is not None else n or 0)
    known = Known(at_entry, at_entry if balance is None else balance, place)
    return Sight(Counter(3, AccountName("t", "u", "m"), used, "month", 0, entry, 1), known)


def test_a_counter_that_agrees_at_its_entry_is_no_suspect() -> None:
    assert not sight(5, 7, at_entry=5).is_suspect
    assert not sight(0, None, at_entry=0).is_suspect


def test_one_that_differs_is_a_suspect_and_twice_a_drift() -> None:
    assert sight(6, 7, at_entry=5).is_suspect
    assert right_balance(sight(6, 7, at_entry=5), sight(6, 7, at_entry=5)) == 5


def test_one_that_moved_on_between_drifts_at_its_new_entry() -> None:
    assert right_balance(sight(9, 8, at_entry=8), sight(6, 7, at_entry=5)) == 8


def test_one_that_agrees_the_second_time_was_none() -> None:
    assert right_balance(sight(5, 8, at_entry=5), sight(6, 7, at_entry=5)) is None


def test_one_that_differs_only_the_second_time_is_not_sure() -> None:
    assert right_balance(sight(6, 8, at_entry=5), sight(5, 7, at_entry=5)) is None


def test_one_whose_ledger_moved_on_is_looked_at_again_and_is_none_once_it_has_moved_too() -> None:
    first = sight(5, 7, at_entry=5, balance=6, last=8)
    assert first.is_suspect
    assert right_balance(sight(6, 8, at_entry=6), first) is None
    assert right_balance(sight(8, 9, at_entry=8, balance=9, last=10), first) is None


def test_one_that_does_not_know_what_the_ledger_had_before_it_was_read_lacks_all_of_it() -> None:
    first = sight(5, 7, at_entry=5, balance=6, last=8)
    assert right_balance(first, first) == 6


def test_one_without_an_entry_may_lack_one_too() -> None:
    first = sight(0, None, at_entry=0, balance=4, last=0)
    assert right_balance(first, first) == 4


def test_while_the_ledger_goes_on_such_a_one_is_not_sure() -> None:
    first = sight(5, 7, at_entry=5, balance=6, last=8)
    assert right_balance(sight(5, 7, at_entry=5, balance=7, last=9), first) is None


def test_an_entry_that_came_between_the_two_looks_proves_nothing() -> None:
    assert right_balance(sight(5, 7, at_entry=5, balance=6, last=8), sight(5, 7, at_entry=5)) is None


def test_buckets_differ_if_they_do_so_twice_by_as_much() -> None:
    plain = sight(5, 7, at_entry=5)
    wrong = Sight(plain.counter, plain.known, (Difference("cap day 0", 4, 1), Difference("held", 2, 0)))
    less = Sight(plain.counter, plain.known, (Difference("cap day 0", 6, 3), Difference("held", 1, 0)))
    assert drift(plain, wrong) is None
    assert drift(less, wrong) == Drifted(less, 5, (Difference("cap day 0", 6, 3),))
    found = drift(wrong, wrong)
    assert found is not None and (found.lacks, found.caps_lack) == (0, {("day", 0): -3})


def test_buckets_of_one_that_moves_on_are_not_sure_and_of_one_that_ought_to_have_moved_they_are() -> None:
    lost = (Difference("holds", 0, 2),)
    still, behind, further = sight(5, 7, at_entry=5), sight(5, 7, at_entry=5, last=8), sight(5, 7, at_entry=5, last=9)
    rest, old, older = (Sight(each.counter, each.known, lost) for each in (still, behind, further))
    assert not behind.is_suspect
    assert old.is_suspect
    assert [drift(now, before) for now, before in ((rest, old), (old, rest), (older, old))] == [None] * 3
    assert drift(old, old) == Drifted(old, 5, lost)
    found = drift(rest, rest)
    assert found == Drifted(rest, 5, lost) and found.is_more_than_numbers


def test_capped_windows_are_numbers() -> None:
    plain = sight(5, 7, at_entry=5)
    wrong = Sight(plain.counter, plain.known, (Difference("cap day 0", 4, 1),))
    found = drift(wrong, wrong)
    assert found is not None and not found.is_more_than_numbers

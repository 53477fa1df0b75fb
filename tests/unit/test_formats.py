"""The texts that the scripts read, as the rules in `lua/rules/modes.lua` take them apart."""

import re

from quota.formats import Terms, Window, detail_of_charge, detail_of_refund
from quota.periods import Period, PeriodKind

WINDOW = Window(Period(PeriodKind.MONTH, 5, 17), Terms("free", PeriodKind.MONTH, None, (80, 95)))
CHARGE = re.compile(r"(\d+) (.+)")
REFUND = re.compile(r"(\S+) (\d+) (\d+) (\d+) (\S+) (\S+) ?(.*)")
"""The patterns of `modes.charge` and `modes.refund`, in Python's words."""


def refund(sealed: str | None) -> tuple[str, ...]:
    text = detail_of_refund("2-9", 7, refunded=3, epoch=4, parts="5,1:0:-:2", caps="day:5", sealed=sealed)
    found = REFUND.fullmatch(text)
    assert found, text
    return found.groups()


def test_a_charge_says_its_instant_and_then_its_window() -> None:
    found = CHARGE.fullmatch(detail_of_charge(12, WINDOW))
    assert found
    assert (found[1], Window.parsed(found[2])) == ("12", WINDOW)


def test_a_refund_says_what_was_taken_and_what_is_known_of_it_and_where_it_was_sealed_last() -> None:
    assert refund(str(WINDOW)) == ("2-9", "7", "3", "4", "5,1:0:-:2", "day:5", str(WINDOW))


def test_a_refund_of_what_was_not_sealed_ends_with_no_words() -> None:
    assert refund(None)[-1] == refund("")[-1] == ""

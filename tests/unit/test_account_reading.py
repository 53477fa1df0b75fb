"""What the hash of an account says, and what is no account at all."""

import pytest

from quota.account_reading import Counter, Damaged, parsed_account
from quota.formats import CapState, GrantState
from quota.journal import Place
from quota.keys import AccountName
from quota.periods import Period, PeriodKind

KEY = "qg:{3}:a:t:u:m"
WHOLE = {
    "state": "7 2-41",
    "rule": "2 1 -1 2000 - 10 hard counter",
    "window": "1000 2000 free month - 80,95",
}
HELD = WHOLE | {"held": "5 1 1500", "h:2-40": "5 1500 3,7:0:-:2 day:1000"}


def parsed(fields: dict[str, str]) -> Counter | Damaged | None:
    return parsed_account(KEY, {name: text.encode() for name, text in fields.items()})


def test_a_plain_account_says_what_was_used_and_where() -> None:
    account = AccountName("t", "u", "m")
    assert parsed(WHOLE) == Counter(3, account, 7, "month", 1000, Place(2, 41), epoch=2)
    fresh = parsed(WHOLE | {"state": "0 -"})
    assert isinstance(fresh, Counter) and (fresh.entry, fresh.key) == (None, KEY)


def test_caps_grants_and_holds_are_read_too() -> None:
    found = parsed(HELD | {"caps": "day 1000 1500 9 5", "grants": "7 0 - 3 1 2"})
    assert isinstance(found, Counter)
    assert found.caps == (CapState(Period(PeriodKind.DAY, 1000, 1500), 9, 5),)
    assert (found.grants, found.held) == ((GrantState(7, 0, None, 3, 1),), 5)
    assert found.holds == {"2-40": "5 1500 3,7:0:-:2 day:1000"}


def test_one_that_is_not_there_is_neither() -> None:
    assert parsed({}) is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({**WHOLE, "state": "-1 2-41"}, "state is '-1 2-41'"),
        ({**WHOLE, "state": "7"}, "state is '7'"),
        ({**WHOLE, "state": "9007199254740992 2-41"}, "more than 2^53 - 1"),
        ({**WHOLE, "state": "7 3-0"}, "later epoch"),
        ({**WHOLE, "rule": "2 1 1 2000 - 10 hard"}, "rule is"),
        ({**WHOLE, "window": "1000 2000 free fortnight - 80"}, "fortnight"),
        ({**WHOLE, "window": "1000 2000 free month - 80,x"}, "x"),
        ({**WHOLE, "caps": "day 1000 1500 9 5;"}, "caps is"),
        ({**WHOLE, "warned": ""}, "warned is ''"),
        ({"state": "7 2-41", "window": WHOLE["window"]}, "rule is 'missing'"),
        ({**HELD, "h:2-40": "5 1500"}, "h:2-40 is"),
        ({**HELD, "held": "5 2 1500"}, "says 2 holds"),
        ({**HELD, "held": "5 1 1501"}, "no hold ends before 1501"),
        ({**WHOLE, "held": "0 0 1"}, ""),
    ],
)
def test_what_no_script_would_take_is_told_with_its_field(fields: dict[str, str], words: str) -> None:
    found = parsed(fields)
    if not words:
        assert isinstance(found, Counter)
        return
    assert isinstance(found, Damaged)
    assert words in found.reason
    assert (found.account, found.shard, found.key) == (AccountName("t", "u", "m"), 3, KEY)


def test_bytes_that_are_no_text_are_told_and_break_nothing() -> None:
    found = parsed_account(KEY, {name: text.encode() for name, text in WHOLE.items()} | {"state": b"\xff\x00"})
    assert isinstance(found, Damaged)


def test_a_key_of_another_kind_is_told() -> None:
    assert isinstance(parsed_account(KEY, RuntimeError("WRONGTYPE")), Damaged)
    found = parsed_account("qg:{3}:a:t:u", {})
    assert isinstance(found, Damaged) and found.account is None

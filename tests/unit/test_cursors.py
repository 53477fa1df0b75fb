"""Cursors of the ledger's lists: opaque, good for the list that gave them out, and not to be made up."""

import random
from base64 import urlsafe_b64encode

import msgspec
import pytest
from litestar.datastructures import MultiDict

from gateway.paging import MAX_CURSOR_CHARACTERS, Cursors, cursor_to
from ledger.reports import EntryPlace
from ledger.sealed_reports import SealPlace
from quota.errors import InvalidRequest

LISTED = ["t", "/v1/entries", "kind=refund"]
PLACE = EntryPlace(1_767_225_600_123, 63, 4, 12_345_678)
CURSORS = Cursors("pepper")
CURSOR = CURSORS.to(PLACE, LISTED)


def place_in(cursor: str, listed: list[str] = LISTED, cursors: Cursors = CURSORS) -> EntryPlace | None:
    return cursors.place_in(MultiDict([("cursor", cursor)]), EntryPlace, listed)


def test_a_cursor_leads_back_to_its_place() -> None:
    assert place_in(CURSOR) == PLACE
    assert CURSORS.place_in(MultiDict([]), EntryPlace, LISTED) is None


def test_the_longest_place_fits() -> None:
    place = SealPlace("s" * 200, "m" * 200, "month", 2**53 - 1)
    cursor = CURSORS.to(place, LISTED)
    assert len(cursor) <= MAX_CURSOR_CHARACTERS
    assert CURSORS.place_in(MultiDict([("cursor", cursor)]), SealPlace, LISTED) == place


@pytest.mark.parametrize(
    "listed",
    [
        ["other", "/v1/entries", "kind=refund"],
        ["t", "/v1/periods", "kind=refund"],
        ["t", "/v1/entries", "kind=consume"],
        ["t", "/v1/entries"],
        ["t", "/v1/entries", "kind=refund", "metric=m"],
        ["t/v1/entries", "kind=refund"],
    ],
)
def test_a_cursor_of_another_list_is_refused(listed: list[str]) -> None:
    with pytest.raises(InvalidRequest, match="cursor is not one that this list has given out"):
        place_in(CURSOR, listed)


def test_a_cursor_that_another_secret_sealed_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        place_in(CURSOR, cursors=Cursors("pepper2"))


def test_a_cursor_that_was_made_up_or_changed_is_refused() -> None:
    dice = random.Random(1)
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    made_up = ["", "=", "A", "!", "é", CURSOR + "=", CURSOR + "A", CURSOR[:-1], " " + CURSOR, CURSOR.swapcase()]
    made_up += [cursor_to(PLACE), urlsafe_b64encode(b"\0" * 16 + msgspec.json.encode(PLACE)).decode().rstrip("=")]
    made_up += ["A" * (MAX_CURSOR_CHARACTERS + 1), "A" * MAX_CURSOR_CHARACTERS]
    for place, letter in enumerate(CURSOR):
        other = dice.choice(letters.replace(letter, ""))
        made_up.append(CURSOR[:place] + other + CURSOR[place + 1 :])
    for cursor in made_up:
        with pytest.raises(InvalidRequest):
            place_in(cursor)

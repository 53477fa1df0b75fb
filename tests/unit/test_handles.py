"""Receipts and reservations: each name leads back to what it names, and nothing else leads anywhere."""

from base64 import urlsafe_b64encode
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from quota.errors import QuotagateError, ReceiptNotFound, ReservationNotFound
from quota.handles import MAX_ID_CHARACTERS, MAX_RECEIPT_ENTRIES, Receipt, Reservation
from quota.identifiers import MAX_AMOUNT

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
identifiers = st.from_regex(r"[A-Za-z0-9._\-:@/+]{1,200}", fullmatch=True)
numbers = st.integers(0, MAX_AMOUNT)
receipts = st.builds(Receipt, st.integers(0, 1023), numbers, numbers, st.integers(1, MAX_RECEIPT_ENTRIES))
reservations = st.builds(Reservation, numbers, numbers, identifiers, identifiers)
URL_SAFE = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def coded(text: str) -> str:
    return "rsv_" + urlsafe_b64encode(text.encode()).decode().rstrip("=")


@calm
@given(receipts)
def test_a_receipt_comes_back_as_it_was_written(receipt: Receipt) -> None:
    assert Receipt.parsed(str(receipt)) == receipt


def test_a_receipt_is_written_as_entries_are_named() -> None:
    assert str(Receipt(3, 1, 7, 2)) == "3.1-7.2"


@pytest.mark.parametrize(
    "text",
    [
        *("", "3", "3.1-7", "3.1-7.2.1", "3.1.7.2", "3-1-7-2", "3-1.7-2", " 3.1-7.2", "3.1-7.2\n", "3.1-7.2 "),
        *("03.1-7.2", "3.01-7.2", "3.1-07.2", "3.1-7.02", "+3.1-7.2", "-3.1-7.2", "3.1--7.2", "3.1-7.-2", "3.1-7.0"),
        *("a.b-c.d", "3.1-x.2", "3.1-7.1e1", "3.1-7.2.0", "3.1-1_0.2", "\N{ARABIC-INDIC DIGIT THREE}.1-7.2"),
        *("3.1-\N{SUPERSCRIPT TWO}.2", "3.1-7.\0", "rsv_3", "3.1-" + "9" * 17 + ".1", "9" * 4000),
        f"3.1-7.{MAX_RECEIPT_ENTRIES + 1}",
    ],
)
def test_what_is_no_receipt_names_nothing(text: str) -> None:
    with pytest.raises(ReceiptNotFound, match="no such receipt"):
        Receipt.parsed(text)


@calm
@given(reservations)
def test_a_reservation_comes_back_as_it_was_written(reservation: Reservation) -> None:
    text = str(reservation)
    assert Reservation.parsed(text) == reservation
    assert len(text) <= MAX_ID_CHARACTERS
    assert set(text) <= set(URL_SAFE)  # it stands in a path as it is


def test_the_longest_reservation_still_leads_back() -> None:
    longest = Reservation(MAX_AMOUNT, MAX_AMOUNT, "/" * 200, "+" * 200)
    assert Reservation.parsed(str(longest)) == longest


def test_a_reservation_knows_the_place_of_its_entry() -> None:
    assert Reservation(4, 17, "u", "m").place == "4-17"


@pytest.mark.parametrize(
    "text",
    [
        *("", "rsv_", "u m", "3.1-7.2", "rsv", "rsv_*", "rsv_A", "rsv_\0", "rsv_é", "rsv_ ", "rsv_====", "x" * 10_000),
        *(coded(""), coded("1 2 u"), coded("1 2 u m x"), coded("1 2  m"), coded("1 2 u "), coded("x 2 u m")),
        *(coded("01 2 u m"), coded("1 02 u m"), coded("+1 2 u m"), coded("-1 2 u m"), coded("1 2 u\n m")),
        *(coded("1 2 u m\n"), coded("1 2 u{ m"), coded("1 2 ü m"), coded("1 2 " + "u" * 201 + " m")),
        *(coded("1 2 u m").removeprefix("rsv_"), coded("1 2 u m").upper(), "rsv_" + coded("1 2 u m")),
        coded(f"{'9' * 17} 2 u m"),
    ],
)
def test_what_is_no_reservation_names_nothing(text: str) -> None:
    with pytest.raises(ReservationNotFound, match="no such reservation"):
        Reservation.parsed(text)


def test_a_reservation_has_one_spelling() -> None:
    """Base64 has several: padding, characters that are skipped, bits of the last character that stand for nothing."""
    text = str(Reservation(1, 2, "u", "m"))  # 7 bytes: the last character has bits to spare
    spare = text[:-1] + URL_SAFE[URL_SAFE.index(text[-1]) + 1]
    for other in (f"{text}=", f"{text}==", f"{text}\n", f" {text}", f"{text[:6]}\n{text[6:]}", f"{text}*", spare):
        with pytest.raises(ReservationNotFound):
            Reservation.parsed(other)


@calm
@given(reservations, st.data())
def test_a_reservation_that_was_tampered_with_never_stays_the_same(
    reservation: Reservation, data: st.DataObject
) -> None:
    text = str(reservation)
    place = data.draw(st.integers(0, len(text) - 1))
    tampered = text[:place] + data.draw(st.sampled_from(URL_SAFE)) + text[place + 1 :]
    assume(tampered != text)
    with suppress(ReservationNotFound):
        assert Reservation.parsed(tampered) != reservation


@calm
@given(st.text(max_size=60) | st.text(URL_SAFE + "=.", max_size=60).map("rsv_".__add__))
def test_nonsense_is_not_found_and_nothing_worse(text: str) -> None:
    for kind in (Receipt, Reservation):
        try:
            assert str(kind.parsed(text)) == text
        except QuotagateError as error:
            assert error.code.endswith("_NOT_FOUND")

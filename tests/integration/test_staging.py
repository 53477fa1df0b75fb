"""The words of an entry reach Postgres as they were, whatever characters they are made of."""

from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, text

from ledger import staging
from ledger.entries import Unacceptable
from ledger.store import ALL_TENANTS, transaction
from quota.formats import Part, Terms, Window
from quota.journal import About, Entry, Place
from quota.keys import AccountName
from quota.periods import Period, PeriodKind

AT_MS = 1_800_000_000_123
SHARP = [
    "",
    "\\N",
    "\\.",
    "\\",
    "\t",
    "\n",
    "\r\n",
    "a\\tb",
    "\\x41",
    "\x0b\x1f\x7f\x80\u2028",
    "\ufeff",
    "\U0001f9fe",
    '"',
    "NULL",
]
words = st.sampled_from(SHARP) | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
calm = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def entry(said: str, metadata: dict[str, str | int | float] | None) -> Entry:
    window = Window(Period(PeriodKind.MONTH, -62_000_000_000_000, None), Terms(said, PeriodKind.MONTH, None, (80,)))
    named = dict.fromkeys(("request_id", "attempt", "idempotency_key", "route", "operation", "reason", "actor"), said)
    about = About(metadata=metadata, **named)
    account = AccountName(said, said, said)
    parts, caps = (Part(1), Part(2, 7, -1, 99)), (("day", 5),)
    return Entry(3, Place(2**40, 9), AT_MS, "hold", 5, -5, 2**53 - 1, 9, 1, said, parts, caps, account, window, about)


@calm
@given(words, st.none() | st.dictionaries(words, words, max_size=2))
def test_whatever_an_entry_says_stands_in_the_staging_table(
    application: Engine, said: str, metadata: dict[str, str | int | float] | None
) -> None:
    with transaction(application, ALL_TENANTS) as connection:
        staging.stage(connection, [entry(said, metadata)])
        (row,) = connection.execute(text("SELECT * FROM staging")).mappings().all()
    names = ("tenant", "subject", "metric", "plan", "request_id", "idempotency_key", "operation", "reason", "detail")
    assert {name: row[name] for name in (*names, "attempt", "route", "actor")} == dict.fromkeys(
        (*names, "attempt", "route", "actor"), said
    )
    assert row["metadata"] == metadata
    assert (row["shard"], row["epoch"], row["n"], row["amount"], row["change"]) == (3, 2**40, 9, 5, -5)
    assert (row["used_after"], row["is_late"], row["period_end"]) == (2**53 - 1, False, None)
    assert (row["parts"], row["caps"], row["kind"], row["period_kind"]) == ("1,7:-1:99:2", "day:5", "hold", "month")
    assert row["window_words"] == f"-62000000000000 - {said or '~'} month - 80"
    assert row["occurred_at"].isoformat() == "2027-01-15T08:00:00.123000+00:00"
    assert row["period_start"].year == 5


def test_what_is_not_said_is_null(application: Engine) -> None:
    said = replace(entry("x", None), about=About(), detail=None, parts=(), cap_windows=())
    with transaction(application, ALL_TENANTS) as connection:
        staging.stage(connection, [said, replace(said, place=Place(2**40, 10), kind="consume")])
        rows = connection.execute(text("SELECT * FROM staging ORDER BY n")).mappings().all()
    nothing = (
        "request_id",
        "idempotency_key",
        "operation",
        "reason",
        "metadata",
        "detail",
        "attempt",
        "route",
        "actor",
    )
    assert [[name for name in (*nothing, "parts", "caps", "period_end") if row[name] is not None] for row in rows] == [
        [],
        [],
    ]
    assert rows[1]["window_words"] is None


@pytest.mark.parametrize("bad", [{"detail": "a\0b"}, {"amount": 2**64}])
def test_what_postgres_cannot_keep_is_refused_as_a_whole(application: Engine, bad: dict[str, object]) -> None:
    good = entry("x", None)
    with pytest.raises(Unacceptable), transaction(application, ALL_TENANTS) as connection:
        staging.stage(connection, [good, replace(good, **bad)])  # type: ignore[arg-type]

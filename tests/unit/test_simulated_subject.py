"""A history decided again: by the same catalog it comes out the same, by another one as the rules say."""

from types import SimpleNamespace
from typing import Any

import pytest

from ledger.instants import to_timestamp
from ledger.simulated_receipts import receipts
from ledger.simulated_subject import SimulatedSubject
from quota.buckets import Grant
from quota.catalog import parse_toml
from quota.entitlement import Subscription
from quota.periods import DAY_MS, from_rfc3339, to_rfc3339

BEGAN_MS = from_rfc3339("2026-11-10T12:00:00Z")
SECOND_MS = 1_000
CATALOG = """
default_plan = "free"
metrics.m = {}
metrics.n = {}
metrics.level = { kind = "level" }
plans.free.rank = 0
plans.free.limits.m = { limit = 10, period = "month" }
plans.free.limits.n = { limit = 10, period = "month" }
plans.free.limits.level = { limit = 3 }
plans.pro.rank = 1
plans.pro.limits.m = { limit = 100, period = "month" }
"""


class History:
    """Entries as the ledger has them, one a second."""

    def __init__(self) -> None:
        self.rows: list[Any] = []
        self.at_ms = BEGAN_MS

    def add(self, kind: str, amount: int, metric: str = "m", **words: Any) -> str:
        n = len(self.rows)
        usual = {
            "epoch": 1, "n": n, "occurred_at": to_timestamp(self.at_ms), "metric": metric, "kind": kind,
            "amount": amount, "change": 0, "plan": "free", "receipt_first_n": n, "receipt_count": 1, "detail": None,
            "is_late": False,
        }  # fmt: skip
        self.rows.append(SimpleNamespace(**usual | words))
        self.at_ms += SECOND_MS
        return f"1-{n}"

    def together(self, **amounts: int) -> None:
        first, at_ms = len(self.rows), self.at_ms
        for metric, amount in amounts.items():
            self.at_ms = at_ms
            self.add("consume", amount, metric, receipt_first_n=first, receipt_count=len(amounts))

    def refunded(self) -> set[str]:
        return {row.detail for row in self.rows if row.kind == "refund"}


def simulated(history: History, catalog: str = CATALOG, from_ms: int = BEGAN_MS, **how: Any) -> SimulatedSubject:
    refunded = history.refunded()
    subject = SimulatedSubject(
        parse_toml(catalog), how.get("subscription"), from_ms, lambda _: (0, None), refunded.__contains__
    )
    subject.run(history.rows)
    return subject


def denials(subject: SimulatedSubject) -> dict[tuple[str, str], tuple[int, int]]:
    return {place: (each.count, each.units) for place, each in subject.denied.items()}


def limited(limit: str) -> str:
    return CATALOG.replace('limits.m = { limit = 10, period = "month" }', f"limits.m = {limit}", 1)


class TestConsumes:
    def test_what_fits_is_allowed_and_what_does_not_is_denied_by_its_limit(self) -> None:
        history = History()
        for amount in (4, 4, 4, 2):
            history.add("consume", amount)
        subject = simulated(history)
        assert denials(subject) == {("m", "limit"): (1, 4)}
        document = subject.document("t", "u")
        assert document is not None
        at = to_rfc3339(BEGAN_MS + 2 * SECOND_MS)
        told = {"metric": "m", "limit": "period", "denied": 1, "units": 4, "first_at": at, "last_at": at}
        assert document["limits"] == [told]

    def test_a_cap_is_a_limit_of_its_own(self) -> None:
        history = History()
        for _ in range(4):
            history.add("consume", 2)
        assert denials(simulated(history, limited('{ period = "month", caps = { day = 5 } }'))) == {
            ("m", "day"): (2, 4)
        }

    def test_a_new_period_begins_from_zero(self) -> None:
        history = History()
        history.add("consume", 8)
        history.at_ms = from_rfc3339("2026-12-01T00:00:00Z")
        history.add("consume", 8)
        assert denials(simulated(history)) == {}

    def test_a_soft_limit_denies_nothing(self) -> None:
        history = History()
        history.add("consume", 50)
        assert denials(simulated(history, limited('{ limit = 1, period = "month", enforcement = "soft" }'))) == {}

    def test_of_an_operation_all_is_charged_or_none(self) -> None:
        history = History()
        history.together(m=2, n=11)
        history.add("consume", 10)
        assert denials(simulated(history)) == {("n", "limit"): (1, 11)}
        history.add("consume", 1)
        assert denials(simulated(history)) == {("n", "limit"): (1, 11), ("m", "limit"): (1, 1)}

    def test_what_was_used_before_the_stretch_counts_as_it_was(self) -> None:
        history = History()
        history.add("consume", 30)
        history.add("denied", 5, detail="limit")
        history.add("consume", 1)
        subject = simulated(history, from_ms=BEGAN_MS + 2 * SECOND_MS)
        assert (denials(subject), subject.denied_before) == ({("m", "limit"): (1, 1)}, 0)

    def test_a_plan_counts_from_the_entry_that_names_it(self) -> None:
        history = History()
        history.add("consume", 8)
        history.add("consume", 80, plan="pro")
        history.add("consume", 80, plan="pro")
        assert denials(simulated(history)) == {("m", "limit"): (1, 80)}

    def test_add_ons_of_today_count_and_a_plan_that_is_gone_is_the_default_one(self) -> None:
        history = History()
        history.add("consume", 15, plan="gone")
        catalog = CATALOG + "[add_ons.more]\nadds.m = 5\n"
        bought = Subscription("gone", "active", None, {"more": 1})
        assert denials(simulated(history, catalog)) == {("m", "limit"): (1, 15)}
        assert denials(simulated(history, catalog, subscription=bought)) == {}

    def test_a_metric_that_is_not_in_the_catalog_is_denied(self) -> None:
        history = History()
        history.add("consume", 1, "none")
        assert denials(simulated(history)) == {("none", "limit"): (1, 1)}

    def test_what_came_late_is_not_asked_again(self) -> None:
        history = History()
        history.add("consume", 99, is_late=True)
        assert denials(simulated(history)) == {}


class TestDenials:
    def test_one_that_would_have_fitted_is_none_any_more_and_uses_units(self) -> None:
        history = History()
        history.add("consume", 2)
        history.add("denied", 6, detail="limit")
        history.add("consume", 3)
        subject = simulated(history)
        assert (subject.denied_before, subject.allowed_now, subject.allowed_now_units) == (1, 1, 6)
        assert denials(subject) == {("m", "limit"): (1, 3)}

    @pytest.mark.parametrize(("limit", "allowed"), [(10, 2), (40, 10), (1, 0), (38, 9)])
    def test_a_sum_of_denials_is_asked_one_by_one(self, limit: int, allowed: int) -> None:
        history = History()
        history.add("denied", 40, detail="sum:10")
        subject = simulated(history, limited(f'{{ limit = {limit}, period = "month" }}'))
        assert (subject.denied_before, subject.allowed_now, subject.allowed_now_units) == (10, allowed, allowed * 4)

    def test_a_sum_of_very_many_has_an_end(self) -> None:
        history = History()
        history.add("denied", 2**53 - 1, detail="sum:1000000000")
        assert simulated(history, limited('{ limit = 9000000000000, period = "month" }')).allowed_now <= 10_000

    def test_nobody_is_told_of_when_nothing_changes(self) -> None:
        history = History()
        history.add("consume", 2)
        history.add("denied", 99, detail="limit")
        assert simulated(history).document("t", "u") is None


class TestWhatFollows:
    def test_the_refund_of_a_denied_consume_gives_nothing_back(self) -> None:
        history = History()
        history.add("consume", 8)
        denied = history.add("consume", 8)
        history.add("refund", 8, detail=denied, change=-8)
        history.add("consume", 2)
        history.add("consume", 1)
        assert denials(simulated(history)) == {("m", "limit"): (2, 9)}

    def test_a_refund_makes_room(self) -> None:
        history = History()
        taken = history.add("consume", 8)
        history.add("refund", 5, detail=taken, change=-5)
        history.add("consume", 7)
        assert denials(simulated(history)) == {}

    def test_a_refund_of_what_was_taken_before_anything_was_read_gives_back_what_is_there(self) -> None:
        history = History()
        history.add("consume", 3)
        history.add("refund", 5, detail="0-77", change=-5)
        history.add("consume", 10)
        assert denials(simulated(history)) == {}

    def test_a_hold_that_does_not_fit_is_denied_and_its_commit_did_not_happen(self) -> None:
        history = History()
        expires = str(BEGAN_MS + DAY_MS)
        kept = history.add("hold", 6, detail=expires)
        denied = history.add("hold", 6, detail=expires)
        history.add("commit", 6, detail=denied)
        history.add("commit", 4, detail=kept)
        history.add("consume", 6)
        assert denials(simulated(history)) == {("m", "limit"): (1, 6)}

    def test_a_hold_that_is_released_or_expires_makes_room(self) -> None:
        history = History()
        released = history.add("hold", 6, detail=str(BEGAN_MS + DAY_MS))
        history.add("release", 6, detail=released)
        expired = history.add("hold", 6, detail=str(BEGAN_MS + 3 * SECOND_MS))
        history.add("expire", 6, detail=expired)
        history.add("consume", 10)
        assert denials(simulated(history)) == {}

    def test_a_commit_of_more_than_there_is_is_denied(self) -> None:
        history = History()
        hold = history.add("hold", 6, detail=str(BEGAN_MS + DAY_MS))
        history.add("commit", 11, detail=hold)
        assert denials(simulated(history)) == {("m", "limit"): (1, 11)}

    def test_a_level_is_given_back_and_set(self) -> None:
        history = History()
        history.add("consume", 3, "level")
        history.add("release", 2, "level", change=-2)
        history.add("consume", 2, "level")
        history.add("set", 1, "level")
        history.add("consume", 2, "level")
        history.add("consume", 1, "level")
        assert denials(simulated(history)) == {("level", "limit"): (1, 1)}

    @pytest.mark.parametrize("kind", ["grant", "gift"])
    def test_a_grant_gives_room_from_its_entry(self, kind: str) -> None:
        history = History()
        history.add("consume", 11)
        history.add(kind, 5, detail="grant:7")
        history.add("consume", 15)
        history.add("consume", 1)
        assert denials(simulated(history)) == {("m", "limit"): (2, 12)}

    def test_a_grant_of_before_is_there_at_the_beginning(self) -> None:
        history = History()
        history.add("consume", 14)
        subject = SimulatedSubject(parse_toml(CATALOG), None, BEGAN_MS, lambda _: (0, None), lambda _: False)
        subject.begin("m", "free", BEGAN_MS - 1, [Grant(7, 0, None, 4)])
        subject.run(history.rows)
        assert denials(subject) == {}


def test_receipts_hold_the_entries_of_one_consume_together() -> None:
    history = History()
    history.add("consume", 1)
    history.together(m=1, n=1)
    history.together(m=1, n=1)
    history.add("warned", 80)
    history.rows += [SimpleNamespace(**vars(history.rows[1]) | {"n": 99, "receipt_first_n": 98})]
    assert [len(group) for group in receipts(iter(history.rows))] == [1, 2, 2, 1, 1]

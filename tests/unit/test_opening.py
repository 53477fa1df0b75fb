"""What an account is opened with: which of the ledger's balances is carried into which window."""

from gateway.provisioning import Reading, opening
from ledger.accounts import Balance
from quota.catalog import Catalog, Limit, Metric, Plan
from quota.entitlement import Subscription
from quota.journal import Place
from quota.keys import AccountName
from quota.periods import PeriodKind, period_at

NOW_MS = 1_795_000_000_000
ACCOUNT = AccountName("t", "u", "m")
CATALOG = Catalog(
    metrics={"m": Metric()},
    plans={
        "monthly": Plan(rank=0, limits={"m": Limit(limit=10, period="month")}),
        "daily": Plan(rank=1, limits={"m": Limit(limit=20, period="day")}),
    },
)
MONTH, DAY = period_at(PeriodKind.MONTH, NOW_MS), period_at(PeriodKind.DAY, NOW_MS)


def reading(plan: str | None, *balances: Balance) -> Reading:
    subscribed = {} if plan is None else {("t", "u"): Subscription(plan, "active", None, {})}
    return Reading({"t": (3, CATALOG)}, subscribed, {ACCOUNT: list(balances)})


def test_the_balance_of_the_window_that_holds_is_taken_as_it_is() -> None:
    found = opening(ACCOUNT, NOW_MS, reading("monthly", Balance(MONTH, "monthly", 7, Place(1, 4))))
    assert (found.period, found.used, found.entry, found.cut) == (MONTH, 7, "1-4", None)


def test_nothing_that_is_known_opens_at_zero() -> None:
    found = opening(ACCOUNT, NOW_MS, reading("monthly"))
    assert (found.period, found.used, found.entry, found.cut, found.ttl_ms) == (MONTH, 0, "-", None, 0)


def test_units_of_another_running_window_are_moved_here() -> None:
    found = opening(ACCOUNT, NOW_MS, reading("daily", Balance(MONTH, "monthly", 7, Place(1, 4))))
    assert (found.period, found.used) == (DAY, 7)
    assert found.cut is not None
    assert found.cut[0] == MONTH


def test_units_come_back_with_a_plan_that_comes_back() -> None:
    """Month, then day (the month handed its units on and stands at 0), then Redis is lost, then month again."""
    known = (Balance(DAY, "daily", 7, Place(1, 6)), Balance(MONTH, "monthly", 0, Place(1, 5)))
    found = opening(ACCOUNT, NOW_MS, reading("monthly", *known))
    assert (found.period, found.used) == (MONTH, 7)
    assert found.cut is not None
    assert found.cut[0] == DAY


def test_without_a_plan_the_window_that_runs_is_kept_and_the_note_expires() -> None:
    found = opening(ACCOUNT, NOW_MS, reading(None, Balance(MONTH, "monthly", 7, Place(1, 4))))
    assert (found.entitlement.plan, found.entitlement.limit, found.period, found.used) == (None, 0, MONTH, 7)
    assert found.keeps_window
    assert found.ttl_ms > 0

"""Demands: what a caller asks becomes a step that names its keys, its fingerprint and why."""

from dataclasses import replace
from typing import Any

import pytest

from quota import keys, protocol
from quota.catalog import Catalog, Metric, Operation
from quota.demands import MAX_METRICS_TOGETHER, Asked, Demand, step
from quota.errors import InvalidRequest, UnknownMetric, UnknownOperation
from quota.identifiers import MAX_AMOUNT
from quota.journal import About, decode_about
from quota.protocol import Charge, Mode

CATALOG = Catalog(
    metrics={"a": Metric(), "b": Metric()},
    operations={"reel": Operation(charges={"a": 5, "b": 1}), "post": Operation()},
)
ONE = (Asked("a", 5),)
DEMAND = Demand("t", "u", Mode.CONSUME, "r-1", ONE)
KEYED = replace(DEMAND, idempotency_key="k", route="consume", fingerprint="f")


def stepped(demand: Demand, charges: tuple[Asked, ...] = ONE) -> protocol.Step:
    return step(demand, charges, 3, 9)


def about(demand: Demand) -> About:
    return decode_about(stepped(demand).about)


def test_a_metric_is_charged_as_it_was_asked() -> None:
    assert DEMAND.charges(CATALOG) == ONE


def test_an_operation_is_charged_as_the_catalog_says_times_the_quantity() -> None:
    demand = replace(DEMAND, asked=(), operation="reel", quantity=3)
    assert demand.charges(CATALOG) == (Asked("a", 15), Asked("b", 3))


def test_an_operation_that_was_priced_keeps_its_price() -> None:
    """What was let through in an outage costs what it cost then."""
    assert replace(DEMAND, operation="gone", asked=ONE).charges(CATALOG) == ONE


def test_a_free_operation_charges_nothing() -> None:
    assert replace(DEMAND, asked=(), operation="post").charges(CATALOG) == ()


def test_what_the_catalog_does_not_know_is_refused() -> None:
    with pytest.raises(UnknownMetric, match="no metric c"):
        replace(DEMAND, asked=(*ONE, Asked("c", 1))).charges(CATALOG)
    with pytest.raises(UnknownOperation, match="no operation film"):
        replace(DEMAND, asked=(), operation="film").charges(CATALOG)
    with pytest.raises(InvalidRequest, match="quantity"):
        replace(DEMAND, asked=(), operation="reel", quantity=MAX_AMOUNT).charges(CATALOG)


@pytest.mark.parametrize("mode", [Mode.COMMIT, Mode.RELEASE, Mode.REFUND])
def test_what_was_taken_can_be_settled_when_its_metric_has_left_the_catalog(mode: Mode) -> None:
    demand = replace(DEMAND, mode=mode, asked=(Asked("c", None, "1-7"),))
    assert demand.charges(CATALOG) == demand.asked


REEL, POST = (replace(DEMAND, asked=(), operation=name) for name in ("reel", "post"))


def together(*demands: Demand) -> Demand:
    return Demand("t", "u", Mode.CONSUME, "r-1", together=demands)


def test_demands_that_are_made_as_one_are_added_up_metric_by_metric() -> None:
    only_b = replace(DEMAND, asked=(Asked("b", 2),))
    assert together(only_b, REEL, POST, DEMAND).charges(CATALOG) == (Asked("b", 3), Asked("a", 10))
    assert together(POST, POST).charges(CATALOG) == ()
    assert together(DEMAND).charges(CATALOG) == ONE


def test_they_cost_what_the_catalog_says_when_they_are_asked() -> None:
    """The counters may have told meanwhile that there is a newer one."""
    demand = together(REEL, DEMAND)
    assert demand.charges(CATALOG) == (Asked("a", 10), Asked("b", 1))
    cheaper = Catalog(metrics=CATALOG.metrics, operations={"reel": Operation(charges={"b": 7})})
    assert demand.charges(cheaper) == (Asked("b", 7), Asked("a", 5))


@pytest.mark.parametrize(
    ("demand", "error"),
    [
        (replace(DEMAND, asked=(Asked("c", 1),)), UnknownMetric),
        (replace(REEL, operation="film"), UnknownOperation),
        (replace(REEL, quantity=MAX_AMOUNT), InvalidRequest),
    ],
)
def test_one_that_cannot_be_priced_spoils_them_all(demand: Demand, error: type[Exception]) -> None:
    with pytest.raises(error):
        together(DEMAND, demand).charges(CATALOG)


def test_together_they_ask_for_no_more_than_can_be_counted() -> None:
    most = replace(DEMAND, asked=(Asked("a", MAX_AMOUNT - 5),))
    assert together(DEMAND, most).charges(CATALOG) == (Asked("a", MAX_AMOUNT),)
    with pytest.raises(InvalidRequest, match="together the items ask for more"):
        together(DEMAND, most, replace(DEMAND, asked=(Asked("a", 1),))).charges(CATALOG)


def test_together_they_charge_a_bounded_number_of_metrics() -> None:
    """All of them are charged in one script, during which Redis serves nobody else."""
    names = [f"m{n}" for n in range(MAX_METRICS_TOGETHER + 1)]
    catalog = Catalog(metrics=dict.fromkeys(names, Metric()))
    each = [replace(DEMAND, asked=(Asked(name, 1),)) for name in names]
    assert len(together(*each[:-1], *each[:-1]).charges(catalog)) == MAX_METRICS_TOGETHER == 100
    with pytest.raises(InvalidRequest, match="100 metrics"):
        together(*each).charges(catalog)


def test_a_step_names_each_account_with_its_amount_and_detail() -> None:
    found = stepped(DEMAND, (Asked("a", 5), Asked("b", None, "1-7")))
    assert (found.shard, found.mode, found.catalog_field, found.catalog_version) == (3, Mode.CONSUME, "catalog:t", 9)
    assert found.charges == (Charge("qg:{3}:a:t:u:a", 5), Charge("qg:{3}:a:t:u:b", None, "1-7"))
    assert (found.record_key, found.fingerprint, found.refunds_key) == (None, "", None)


def test_an_idempotency_key_has_a_record_and_a_fingerprint() -> None:
    found = stepped(KEYED)
    assert (found.record_key, found.fingerprint) == (keys.record(3, "t", "u", "consume", "k"), "f")


def test_without_a_key_a_fingerprint_is_not_sent() -> None:
    """The script takes a fingerprint for the sign that a record's key comes next."""
    assert stepped(replace(KEYED, idempotency_key=None)).fingerprint == ""


def test_a_check_has_no_record_and_says_nothing_to_the_ledger() -> None:
    found = stepped(replace(KEYED, mode=Mode.CHECK))
    assert (found.record_key, found.fingerprint, found.about) == (None, "", b"")


@pytest.mark.parametrize("missing", [{"route": None}, {"fingerprint": ""}])
def test_a_key_without_a_route_or_a_fingerprint_is_a_mistake_of_ours(missing: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        stepped(replace(KEYED, **missing))


def test_tenants_subjects_and_routes_have_records_of_their_own() -> None:
    others: list[dict[str, Any]] = [
        {"tenant": "t2"},
        {"subject": "u2"},
        {"route": "refunds"},
        {"idempotency_key": "k2"},
        {},
    ]
    assert len({stepped(replace(KEYED, **other)).record_key for other in others}) == len(others)


def test_a_refund_names_what_remembers_how_much_was_given_back() -> None:
    found = stepped(replace(DEMAND, mode=Mode.REFUND, receipt=(2, 7)))
    assert found.refunds_key == keys.refunds(3, 2, 7) == "qg:{3}:f:2-7"


def test_about_says_who_asked_for_what_and_why() -> None:
    whole = replace(
        KEYED,
        attempt="p.1",
        operation="reel",
        reason="late",
        actor="key-1",
        at_ms=42,
        metadata={"colour": "red", "n": 1},
    )
    assert about(whole) == About(
        request_id="r-1",
        attempt="p.1",
        idempotency_key="k",
        route="consume",
        operation="reel",
        reason="late",
        actor="key-1",
        at_ms=42,
        metadata={"colour": "red", "n": 1},
    )


def test_about_leaves_out_what_nobody_said_and_the_scope_of_no_key() -> None:
    assert stepped(replace(DEMAND, route="consume")).about == b'{"request_id":"r-1"}'


@pytest.mark.parametrize("demand", [DEMAND, KEYED, replace(KEYED, mode=Mode.CHECK)])
def test_the_keys_that_a_script_is_given_are_those_that_the_arguments_tell_of(demand: Demand) -> None:
    """Several steps share a call: one key too many, and each that follows would read its neighbour's."""
    refund = replace(demand, mode=Mode.REFUND, receipt=(2, 7)) if demand.mode is not Mode.CHECK else demand
    for each in (stepped(demand), stepped(refund)):
        call = protocol.consume([each], 1000)
        mode, count, fingerprint = call.arguments[3], call.arguments[4], call.arguments[7]
        assert len(call.keys) == 2 + int(count) + (fingerprint != "") + (mode == "refund")

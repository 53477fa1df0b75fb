"""An atomic batch: all of its items or none, with one answer of the counters."""

from typing import Any

import pytest

from quota import demands
from quota.demands import Asked
from quota.errors import IdempotencyKeyReused, InvalidRequest, UnknownMetric
from quota.identifiers import MAX_AMOUNT
from quota.protocol import Mode
from quota.replies import Outcome
from tests.unit.batch_scene import CATALOG, Scene, charged, item


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_an_atomic_batch_is_one_demand_of_all_its_amounts(scene: Scene) -> None:
    items = (
        item(amount=3),
        {"subject": "u", "operation": "reel", "quantity": 2},
        {"subject": "u", "operation": "post"},
    )
    found = scene.send(*items, atomic=True, key="k")
    whole = charged(scene)
    assert whole.charges(CATALOG) == (Asked("a", 13), Asked("b", 2))
    assert (whole.mode, whole.idempotency_key, whole.route) == (Mode.CONSUME, "k", "consume/batch")
    assert (whole.asked, whole.operation, whole.request_id, whole.subject) == ((), None, "r-1", "u")
    assert [(each.asked, each.operation, each.quantity) for each in whole.together] == [
        ((Asked("a", 3),), None, 1),
        ((), "reel", 2),
        ((), "post", 1),
    ]
    first, reel, post = found
    assert (first["metric"], first["amount"], "operation" in first) == ("a", 3, False)
    assert [(each["metric"], each["amount"]) for each in reel["charges"]] == [("a", 10), ("b", 2)]
    assert (post["operation"], post["charges"], post["allowed"]) == ("post", [], True)
    assert len({each["receipt"] for each in found}) == 1


def test_an_atomic_batch_that_is_denied_is_denied_for_every_item(scene: Scene) -> None:
    scene.admission.outcome = Outcome.DENIED
    found = scene.send(item(amount=3), item(metric="b"), atomic=True)
    assert [each["status"] for each in found] == [429, 429]


def test_an_atomic_batch_of_nothing_looks(scene: Scene) -> None:
    scene.send(item(amount=0), item(metric="b", amount=0), atomic=True)
    assert scene.admission.charged == []


def test_an_atomic_batch_that_only_looks_at_some_charges_the_others(scene: Scene) -> None:
    found = scene.send(item(amount=0), item(metric="b", amount=2), atomic=True)
    assert charged(scene).charges(CATALOG) == (Asked("a", 0), Asked("b", 2))
    assert [each["amount"] for each in found] == [0, 2]


def test_two_spellings_of_an_atomic_batch_are_the_same_batch(scene: Scene) -> None:
    scene.send(item(amount=3), item(), atomic=True, key="k")
    again = scene.send({"amount": 3, "metric": "a", "subject": "u"}, item(), atomic=True, key="k")
    assert [each["replayed"] for each in again] == [True, True]
    with pytest.raises(IdempotencyKeyReused):
        scene.send(item(), item(amount=3), atomic=True, key="k")


@pytest.mark.parametrize(
    ("items", "told"),
    [
        ([item("u"), item("v")], "one subject"),
        ([item(idempotency_key="k")], "keys of their own"),
        ([item(amount=MAX_AMOUNT), item(amount=1)], "together"),
        ([item(), {"colour": 1}], "colour"),
    ],
)
def test_an_atomic_batch_with_one_mistake_is_refused_whole(scene: Scene, items: list[Any], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        scene.send(*items, atomic=True)
    assert scene.admission.charged == []


def test_an_atomic_batch_that_names_an_unknown_metric_is_refused_whole(scene: Scene) -> None:
    with pytest.raises(UnknownMetric):
        scene.send(item(), item(metric="unheard_of"), atomic=True)
    assert scene.admission.charged == []


def test_an_atomic_batch_charges_a_bounded_number_of_metrics(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demands, "MAX_METRICS_TOGETHER", 1)
    scene.send(item(), item(), atomic=True)
    with pytest.raises(InvalidRequest, match="1 metrics can be charged at most"):
        scene.send(item(), item(metric="b"), atomic=True)
    assert len(scene.admission.charged) == 1

"""A batch while the counters are away: what may be used uncounted is let through and kept, item by item or whole."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from ledger import outages
from quota.catalog import Operation
from quota.errors import CountersUnavailable
from tests.unit.batch_scene import CATALOG, Scene, charged, item
from tests.unit.fakes import FakeStore


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_items_that_may_be_used_uncounted_are_let_through_and_kept(scene: Scene) -> None:
    """The others are refused, and what was decided before the counters went away stays as it was."""
    scene.counters.fails_at = 2
    known = [item(f"u{n}", "free") for n in range(128)]
    lost = [
        item("v1", "free", amount=3),
        item("v2"),
        {"subject": "v3", "operation": "open", "quantity": 2, "idempotency_key": "mine"},
        {"subject": "v4", "operation": "post"},
        item("v5", "free", amount=0),
        {"subject": "v6", "operation": "reel"},
    ]
    found = scene.send(*known, *lost, key="k")
    assert [each["status"] for each in found] == [200] * 128 + [200, 503, 200, 200, 200, 503]
    assert [each.get("degraded") for each in found] == [None] * 128 + [True, None, True, True, True, None]
    assert (found[128]["metric"], found[128]["amount"], found[128]["used"]) == ("free", 3, None)
    assert (found[130]["operation"], found[130]["amount"], found[131]["charges"]) == ("open", 14, [])
    assert found[129]["code"] == "COUNTERS_UNAVAILABLE"
    assert scene.let_through() == [
        ("v1", {"free": 3}, "k§128", "consume/batch"),
        ("v3", {"free": 14}, "mine", "consume/batch"),
    ]


def test_an_item_that_nothing_can_keep_is_refused_for_that_reason(scene: Scene) -> None:
    class Full:
        def append(self, _: Any) -> None:
            raise OSError("no space left")

    scene.keeping._spool, scene.store.is_away = Full(), True  # type: ignore[assignment]
    scene.counters.fails_at = 2
    found = scene.send(*(item(f"u{n}", "free") for n in range(129)), item(), {})
    assert [each["status"] for each in found] == [200] * 128 + [503, 503, 400]
    assert ["nor a disk" in each["detail"] for each in found[128:130]] == [True, False]


def test_an_atomic_batch_that_may_be_used_uncounted_is_let_through_whole(scene: Scene) -> None:
    scene.admission.is_away = True
    items = [
        item(metric="free", amount=3),
        {"subject": "u", "operation": "open"},
        {"subject": "u", "operation": "post"},
    ]
    first, opened, post = scene.send(*items, atomic=True, key="k")
    assert [(each["status"], each["degraded"], each["receipt"]) for each in (first, opened, post)] == [
        (200, True, None)
    ] * 3
    assert (first["metric"], first["amount"], "operation" in first) == ("free", 3, False)
    assert (opened["operation"], opened["amount"], post["charges"]) == ("open", 7, [])
    assert scene.let_through() == [("u", {"free": 10}, "k", "consume/batch")]
    (entry,) = scene.kept.entries.values()
    scene.admission.is_away = False
    scene.send(*items, atomic=True, key="k")
    assert entry.fingerprint == charged(scene).fingerprint != ""


def test_an_atomic_batch_with_one_metric_that_must_be_counted_is_refused_whole(scene: Scene) -> None:
    scene.admission.is_away = True
    with pytest.raises(CountersUnavailable):
        scene.send(item(metric="free"), item(metric="a"), atomic=True)
    assert scene.let_through() == []


def test_an_atomic_batch_that_charges_nothing_is_let_through_and_nothing_is_kept(scene: Scene) -> None:
    scene.admission.is_away = True
    found = scene.send(item(metric="free", amount=0), {"subject": "u", "operation": "post"}, atomic=True)
    assert [(each["status"], each["degraded"]) for each in found] == [(200, True)] * 2
    assert scene.kept.writes == []


def test_what_is_let_through_of_one_batch_is_written_down_together(scene: Scene) -> None:
    scene.counters.fails_at = 1
    scene.send(*(item(f"u{n}", "free") for n in range(100)))
    assert scene.kept.writes == [100]


def test_what_is_kept_of_an_atomic_batch_is_what_its_items_were_told(scene: Scene) -> None:
    """Also where its prices change while it is written down."""
    dearer = msgspec.structs.replace(CATALOG, operations={"open": Operation(charges={"free": 9})})

    class Changing(FakeStore):
        async def run(self, tenant: str, function: Callable[..., Any], *arguments: Any) -> Any:
            scene.admission.catalogs._known = dearer
            return await super().run(tenant, function, *arguments)

    scene.keeping._store = Changing({outages.keep: scene.kept.keep})  # type: ignore[assignment]
    scene.admission.is_away = True
    found = scene.send({"subject": "u", "operation": "open"}, item(metric="free"), atomic=True)
    assert [each["amount"] for each in found] == [7, 1]
    assert scene.let_through() == [("u", {"free": 8}, None, "consume/batch")]


def test_an_atomic_batch_that_cannot_be_priced_is_refused_for_the_outage(scene: Scene) -> None:
    scene.admission.is_away = True
    for items in ([item(metric="unheard_of")], [item(metric="free")]):
        with pytest.raises(CountersUnavailable, match="do not answer; nothing was charged"):
            scene.send(*items, atomic=True)
        scene.admission.catalogs._known = None
    assert scene.let_through() == []

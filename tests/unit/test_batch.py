"""A batch: each item has its own result, whatever becomes of the others; or all of them share one."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from gateway.batch import Batch
from gateway.hot import Asking
from gateway.outage import Outage
from quota import demands
from quota.catalog import Catalog, Limit, Metric, Operation, Plan
from quota.decisions import Decision, decision
from quota.demands import Asked, Demand
from quota.errors import CountersUnavailable, IdempotencyKeyReused, InvalidRequest, LedgerUnavailable, UnknownMetric
from quota.gathering import MAX_BATCH_STEPS
from quota.identifiers import MAX_AMOUNT
from quota.journal import decode_about
from quota.protocol import Mode, Step
from quota.replies import AccountState, Outcome, Reply, Verdict
from tests.unit.entries import MONTH
from tests.unit.fakes import FakeAdmission, FakeCatalogs, FakeCounters, FakeStore, KeptOutages

CATALOG = Catalog(
    metrics={"a": Metric(), "b": Metric(), "free": Metric(on_outage="allow")},
    operations={
        "reel": Operation(charges={"a": 5, "b": 1}),
        "post": Operation(),
        "open": Operation(charges={"free": 7}),
    },
    plans={"pro": Plan(limits={"a": Limit(limit=100, period="month")})},
)


class Admission(FakeAdmission):
    """Mends nothing; `decide` goes by way of `ask`, and denies where it is told to."""

    def __init__(self, catalogs: FakeCatalogs) -> None:
        super().__init__(catalogs)
        self.mended: list[Demand] = []
        self.first_answer: Reply | None = None
        self.mend_failure: Exception | None = None

    async def decide(self, demand: Demand) -> tuple[Decision, Catalog]:
        reply, catalog = await self.ask(demand)
        return decision(demand, 3, reply), catalog

    async def mend(self, demand: Demand, _shard: int, _reply: Reply) -> None:
        self.mended.append(demand)
        if self.mend_failure is not None:
            raise self.mend_failure

    async def replayed(self, demand: Demand, _shard: int, _version: int) -> Reply | None:
        return self.first_answer if demand.idempotency_key is not None else None


class Counters:
    """Answers each call of steps; `words` says what becomes of a subject, one word a try."""

    def __init__(self) -> None:
        self.calls: list[list[Step]] = []
        self.words: dict[str, list[Outcome]] = {}
        self.fails_at: int | None = None

    async def decide_in_order(self, steps: Sequence[Step]) -> list[Reply]:
        assert len(steps) <= MAX_BATCH_STEPS
        self.calls.append(list(steps))
        if len(self.calls) == self.fails_at:
            raise CountersUnavailable("the counters did not answer in time")
        return [self._reply(each) for each in steps]

    def _reply(self, each: Step) -> Reply:
        words = self.words.get(_subject(each), [])
        outcome = words.pop(0) if words else Outcome.ALLOWED
        verdict = Verdict.EXCEEDS if outcome is Outcome.DENIED else Verdict.FITS
        states = (
            AccountState(verdict, charge.account_key, charge.amount, limit=100, plan_limit=100, window=MONTH)
            for charge in each.charges
        )
        return Reply(outcome, 42, 1, "0", 7 if outcome is Outcome.ALLOWED else None, tuple(states))


def _subject(each: Step) -> str:
    return each.charges[0].account_key.split(":")[4]


class Scene:
    def __init__(self, newest: Catalog | None = None) -> None:
        self.admission = Admission(FakeCatalogs(CATALOG, newest))
        self.counters = Counters()
        self.kept = KeptOutages()
        self.store = FakeStore(self.kept.statements())
        around: Any = (self.admission, FakeCounters(), self.store, None)
        self.outage = Outage(*around)

    def send(self, *items: Any, key: str | None = None, **more: Any) -> list[dict[str, Any]]:
        parts: Any = (self.admission, self.counters, self.outage)
        body = msgspec.json.encode({"items": items} | more)
        asking = Asking("t", "r-1", None, key, "/v1/consume/batch", "/v1/consume/batch", "", body)
        answer = asyncio.run(Batch(*parts).consume(asking))
        assert answer.status == 200
        return list(msgspec.json.decode(answer.body)["results"])

    def let_through(self) -> list[tuple[str, dict[str, int], str | None, str | None]]:
        """Subject, charges, key and its scope of all that was kept."""
        kept = self.kept.entries.values()
        return [(each.subject, each.charges, each.idempotency_key, each.route) for each in kept]

    def steps(self) -> list[Step]:
        return [each for call in self.counters.calls for each in call]

    def names(self) -> list[tuple[str | None, str | None, str | None]]:
        """Request, attempt and idempotency key of each step."""
        abouts = [decode_about(each.about) for each in self.steps()]
        return [(about.request_id, about.attempt, about.idempotency_key) for about in abouts]


def item(subject: str = "u", metric: str = "a", **more: Any) -> dict[str, Any]:
    return {"subject": subject, "metric": metric} | more


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_a_bad_item_has_its_own_error_and_the_others_their_own_answers(scene: Scene) -> None:
    scene.counters.words = {"full": [Outcome.DENIED], "damaged": [Outcome.FAILED], "reused": [Outcome.KEY_REUSED]}
    found = scene.send(
        item("u1"),
        {"colour": "red"},
        item("u2", "unheard_of"),
        item("full", amount=200),
        5,
        item("damaged"),
        item("reused"),
        item("u3", idempotency_key="é"),
        {"subject": "u4", "operation": "reel"},
    )
    assert [each["status"] for each in found] == [200, 400, 404, 429, 400, 503, 422, 400, 200]
    assert [each.get("code") for each in found[1:3]] == ["INVALID_REQUEST", "UNKNOWN_METRIC"]
    assert (found[0]["subject"], found[3]["subject"], len(found[8]["charges"])) == ("u1", "full", 2)
    assert found[3]["code"] == "QUOTA_EXCEEDED"


def test_a_batch_of_nothing_but_mistakes_asks_the_counters_nothing(scene: Scene) -> None:
    assert [each["status"] for each in scene.send({}, None)] == [400, 400]
    assert scene.counters.calls == []


def test_a_thousand_items_are_asked_in_their_order_in_calls_of_bounded_size(scene: Scene) -> None:
    found = scene.send(*(item(f"u{n}", amount=n) for n in range(1, 1001)))
    assert [each["amount"] for each in found] == list(range(1, 1001))
    assert [len(call) for call in scene.counters.calls] == [128] * 7 + [104]
    assert [each.charges[0].amount for each in scene.steps()] == list(range(1, 1001))


def test_what_is_not_ready_is_mended_and_asked_again_in_its_order(scene: Scene) -> None:
    scene.counters.words = {f"u{n}": [Outcome.UNREADY, Outcome.LATE] for n in (1, 3)} | {"u2": [Outcome.DENIED]}
    found = scene.send(*(item(f"u{n}") for n in range(4)))
    assert [each["status"] for each in found] == [200, 200, 429, 200]
    assert [[_subject(each) for each in call] for call in scene.counters.calls] == [
        ["u0", "u1", "u2", "u3"],
        ["u1", "u3"],
        ["u1", "u3"],
    ]


def test_what_never_gets_ready_is_a_503_of_its_own(scene: Scene) -> None:
    scene.counters.words = {"u1": [Outcome.UNREADY] * 100}
    assert [each["status"] for each in scene.send(item("u0"), item("u1"), item("u2"))] == [200, 503, 200]


def test_what_cannot_be_mended_fails_alone(scene: Scene) -> None:
    scene.counters.words = {"u1": [Outcome.UNREADY]}
    scene.admission.mend_failure = LedgerUnavailable("away")
    assert [each["status"] for each in scene.send(item("u0"), item("u1"))] == [200, 503]


def test_a_call_without_a_reply_fails_for_its_own_items_alone(scene: Scene) -> None:
    scene.counters.fails_at = 2
    statuses = [each["status"] for each in scene.send(*(item(f"u{n}") for n in range(300)))]
    assert statuses == [200] * 128 + [503] * 128 + [200] * 44


def test_while_the_ledger_is_away_only_items_that_need_it_fail(scene: Scene) -> None:
    """An unknown metric is looked up anew: that must not undo what other items were told."""
    scene.admission.catalogs.is_away = True
    items = [*(item(f"u{n}") for n in range(128)), item("u", "unheard_of"), item("v")]
    assert [each["status"] for each in scene.send(*items)] == [200] * 128 + [503, 200]


def test_a_metric_that_another_gateway_has_added_is_found(scene: Scene) -> None:
    newest = msgspec.structs.replace(CATALOG, metrics=CATALOG.metrics | {"new": Metric()})
    for atomic in (False, True):
        found = Scene(newest).send(item("u"), item("u", "new"), atomic=atomic)
        assert [each["status"] for each in found] == [200, 200]


def test_the_first_answer_under_a_key_outlives_its_metric(scene: Scene) -> None:
    scene.admission.first_answer = Reply(
        Outcome.ALLOWED, 42, 1, "0", 7, (AccountState(Verdict.FITS, "qg:{3}:a:t:u:gone", 5, window=MONTH),), True
    )
    found = scene.send(item("u", "gone", idempotency_key="k"), item("u", "gone"))
    assert [(each["status"], each.get("replayed")) for each in found] == [(200, True), (404, None)]


def test_each_item_is_a_try_of_its_own(scene: Scene) -> None:
    """Where the reply to some is lost, what those took is taken back: not what the others were told of."""
    scene.send(*(item("u") for _ in range(300)))
    assert len(set(scene.names())) == 300
    assert {request_id for request_id, _, _ in scene.names()} == {"r-1"}


def test_the_headers_key_gives_every_item_its_own(scene: Scene) -> None:
    scene.send(item(), item(idempotency_key="mine"), {"colour": 1}, item(), key="whole")
    assert [key for _, _, key in scene.names()] == ["whole#0", "mine", "whole#3"]
    assert len({each.record_key for each in scene.steps()}) == 3
    assert all(each.fingerprint for each in scene.steps())


def test_without_any_key_nothing_is_remembered(scene: Scene) -> None:
    scene.send(item(), item())
    assert [(each.record_key, each.fingerprint) for each in scene.steps()] == [(None, "")] * 2


def test_nothing_of_a_metric_is_only_looked_at(scene: Scene) -> None:
    scene.send(item(amount=0), item(amount=1))
    assert [each.mode for each in scene.steps()] == [Mode.CHECK, Mode.CONSUME]


def charged(scene: Scene) -> Demand:
    (found,) = scene.admission.charged
    return found


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
        ("v1", {"free": 3}, "k#128", "consume/batch"),
        ("v3", {"free": 14}, "mine", "consume/batch"),
    ]


def test_an_item_that_nothing_can_keep_is_refused_for_that_reason(scene: Scene) -> None:
    class Full:
        def append(self, _: Any) -> None:
            raise OSError("no space left")

    scene.outage._spool, scene.store.is_away = Full(), True  # type: ignore[assignment]
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

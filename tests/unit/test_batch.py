"""A batch: each item has its own result, whatever becomes of the others."""

import msgspec
import pytest
from prometheus_client import REGISTRY
from redis.exceptions import OutOfMemoryError

from quota.catalog import Metric
from quota.errors import CountersUnavailable, InvalidRequest, LedgerUnavailable
from quota.protocol import Mode
from quota.replies import AccountState, Outcome, Reply, Verdict
from tests.unit.batch_scene import CATALOG, Scene, item, outcomes, subject_of
from tests.unit.entries import MONTH


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
    assert [[subject_of(each) for each in call] for call in scene.counters.calls] == [
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


TAKEN_BACK = "whatever was charged without an answer is taken back"
REPEAT = "it may have been charged: send it again under the same key"


def test_once_redis_has_not_answered_nothing_more_is_sent(scene: Scene) -> None:
    """However many calls a batch would have been, its caller waits for one deadline."""
    scene.counters.fails_at = 2
    found = scene.send(*(item(f"u{n}") for n in range(1000)))
    assert len(scene.counters.calls) == 2
    assert outcomes(found[:128]) == {"200": 128}
    assert outcomes(found[128:256]) == {f"503 {TAKEN_BACK}": 128}
    assert outcomes(found[256:]) == {"503 nothing was charged": 744}


def test_each_item_without_a_reply_is_told_what_may_have_come_of_it(scene: Scene) -> None:
    scene.counters.fails_at = 1
    found = scene.send(item(), item(idempotency_key="k"), item(amount=0))
    assert [each["detail"].rpartition("; ")[2] for each in found] == [
        TAKEN_BACK,
        REPEAT,
        "the counters did not answer in time",
    ]


def test_what_redis_never_got_charged_nothing(scene: Scene) -> None:
    scene.counters.fails_at, scene.counters.failure = 1, None
    found = scene.send(*(item(f"u{n}") for n in range(300)))
    assert (len(scene.counters.calls), outcomes(found)) == (1, {"503 nothing was charged": 300})


def test_a_call_that_redis_refuses_does_not_end_the_batch(scene: Scene) -> None:
    """It answers, so nobody waits for it; and the next call may be one that it takes."""
    scene.counters.fails_at, scene.counters.failure = 2, OutOfMemoryError()
    statuses = [each["status"] for each in scene.send(*(item(f"u{n}") for n in range(300)))]
    assert statuses == [200] * 128 + [503] * 128 + [200] * 44


def test_a_redis_that_is_lost_while_an_item_is_mended_is_not_asked_again(scene: Scene) -> None:
    scene.counters.words = {"u1": [Outcome.UNREADY]}
    scene.admission.mend_failure = CountersUnavailable("the counters did not answer in time")
    scene.admission.mend_failure.__cause__ = TimeoutError()
    statuses = [each["status"] for each in scene.send(*(item(f"u{n}") for n in range(129)))]
    assert (len(scene.counters.calls), statuses) == (1, [200, 503] + [200] * 126 + [503])


def test_items_are_counted_each_by_what_came_of_it(scene: Scene) -> None:
    def counted() -> dict[str, float]:
        labels = ({"route": "/v1/consume/batch", "outcome": outcome} for outcome in ("allowed", "denied", "degraded"))
        return {each["outcome"]: REGISTRY.get_sample_value("quotagate_decisions_total", each) or 0.0 for each in labels}

    before = counted()
    scene.counters.words = {"full": [Outcome.DENIED]}
    scene.counters.fails_at = 2
    known = [item("full"), {}, item("u", "unheard_of"), *(item(f"u{n}") for n in range(126))]
    scene.send(*known, item("v1", "free"), item("v2"))
    scene.send(item(amount=3), item(metric="b"), atomic=True)
    scene.admission.is_away = True
    scene.send(item(metric="free"), {"subject": "u", "operation": "open"}, atomic=True)
    after = counted()
    assert {outcome: after[outcome] - before[outcome] for outcome in after} == {
        "allowed": 126 + 2,
        "denied": 1,
        "degraded": 1 + 2,
    }


def test_while_the_ledger_is_away_only_items_that_need_it_fail(scene: Scene) -> None:
    """An unknown metric is looked up anew: that must not undo what other items were told."""
    scene.admission.catalogs.is_away = True
    items = [*(item(f"u{n}") for n in range(128)), item("u", "unheard_of"), item("v")]
    assert [each["status"] for each in scene.send(*items)] == [200] * 128 + [503, 200]


def test_a_metric_that_another_gateway_has_added_is_found() -> None:
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
    assert [key for _, _, key in scene.names()] == ["whole§0", "mine", "whole§3"]
    assert len({each.record_key for each in scene.steps()}) == 3
    assert all(each.fingerprint for each in scene.steps())


@pytest.mark.parametrize("own", ["whole#1", "whole1", "whole"])
def test_an_items_own_key_is_never_that_of_anothers_place(scene: Scene, own: str) -> None:
    scene.send(item(idempotency_key=own), item(), key="whole")
    assert len({each.record_key for each in scene.steps()}) == 2


def test_the_key_of_a_place_cannot_be_sent(scene: Scene) -> None:
    scene.send(item(), key="whole")
    ((_, _, of_place),) = scene.names()
    (refused,) = scene.send(item(idempotency_key=of_place))
    assert (refused["status"], refused["code"]) == (400, "INVALID_REQUEST")


def test_an_item_that_asks_for_more_than_there_ever_is_is_not_told_to_wait(scene: Scene) -> None:
    scene.counters.words = {"full": [Outcome.DENIED] * 2}
    found = scene.send(item("full", amount=100), item("full", amount=101))
    assert [each["status"] for each in found] == [429, 429]
    assert [each["retry_after_s"] is None for each in found] == [False, True]


def test_broken_text_in_an_item_is_that_items_mistake_and_broken_json_that_of_the_whole(scene: Scene) -> None:
    good = msgspec.json.encode(item())
    broken = msgspec.json.encode(item("v")).replace(b'"v"', b'"\xff"')
    assert [each["status"] for each in scene.send(msgspec.Raw(broken), msgspec.Raw(good))] == [400, 200]
    with pytest.raises(InvalidRequest, match="not valid JSON"):
        scene.send(msgspec.Raw(good), msgspec.Raw(b'{"subject":}'))
    assert len(scene.counters.calls) == 1


def test_without_any_key_nothing_is_remembered(scene: Scene) -> None:
    scene.send(item(), item())
    assert [(each.record_key, each.fingerprint) for each in scene.steps()] == [(None, "")] * 2


def test_nothing_of_a_metric_is_only_looked_at(scene: Scene) -> None:
    scene.send(item(amount=0), item(amount=1))
    assert [each.mode for each in scene.steps()] == [Mode.CHECK, Mode.CONSUME]

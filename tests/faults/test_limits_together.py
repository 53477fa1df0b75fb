"""Many clients over two gateways, and an operation that charges three metrics, of which one or another binds first."""

from collections import Counter, defaultdict

import httpx

from tests.faults.conftest import assert_the_two_agree, status
from tests.load import Request, hammer
from tests.system import Gateway, System

COSTS = {"tokens": 5, "frames": 2, "minutes": 1}
BOUND = {"tokens_first": "tokens", "frames_first": "frames", "minutes_first": "minutes"}
REQUESTS = 3_000


def _request(place: int) -> Request:
    """Mostly the operation, once or twice; between, each of its metrics alone, so that less than one of it is left."""
    subject = list(BOUND)[place % 3]
    if place % 4:
        return Request({"subject": subject, "operation": "render", "quantity": 1 + place % 2})
    return Request({"subject": subject, "metric": list(COSTS)[place // 4 % 3], "amount": 1})


def test_64_clients_over_two_gateways_never_exceed_one_of_three_limits_nor_charge_a_part(
    faulty: System, apart: tuple[Gateway, Gateway], client: httpx.Client
) -> None:
    for subject in BOUND:
        assert client.put(f"/v1/subjects/{subject}/subscription", json={"plan": subject}).status_code == 200
    requests = [_request(place) for place in range(REQUESTS)]
    log = hammer([gateway.url for gateway in apart], faulty.admin_key, requests, keep_bodies=True)
    assert set(log.counts) == {200, 429}
    allowed: dict[str, Counter[str]] = defaultdict(Counter)
    for place, request in enumerate(requests):
        if log.status[f"r-{place}"] == 200:
            body = request.body
            if "operation" in body:
                charges = {metric: cost * body["quantity"] for metric, cost in COSTS.items()}
            else:
                charges = {body["metric"]: body["amount"]}
            allowed[body["subject"]].update(charges)
    for subject, metric in BOUND.items():
        found = {each: status(client, subject, each) for each in COSTS}
        assert {each: found[each]["used"] for each in COSTS} == dict(allowed[subject])
        assert all(found[each]["used"] <= found[each]["limit"] for each in COSTS), found
        cap = found["minutes"].get("caps") or [{"used": 0, "limit": 0}]
        assert cap[0]["used"] <= cap[0]["limit"]
        left = cap[0]["remaining"] if metric == "minutes" else found[metric]["remaining"]
        assert left < COSTS[metric], f"{metric} binds {subject}"
    assert_no_part_was_charged(faulty)
    assert_the_two_agree(faulty)
    ledger = faulty.sql("SELECT subject, metric, used FROM balances WHERE subject = ANY(%s) AND used > 0", list(BOUND))
    assert {(subject, metric): used for subject, metric, used in ledger} == {
        (subject, metric): used for subject, of_metrics in allowed.items() for metric, used in of_metrics.items()
    }


def assert_no_part_was_charged(system: System) -> None:
    """Every receipt of the operation has one entry of each metric, neighbours of one instant."""
    system.drained()
    rows = system.sql(
        "SELECT shard, epoch, receipt_first_n, receipt_count, count(*), count(DISTINCT occurred_at), "
        "array_agg(metric ORDER BY metric), max(n) - min(n) FROM entries "
        "WHERE operation = 'render' AND kind = 'consume' GROUP BY 1, 2, 3, 4"
    )
    assert rows
    assert {(*row[3:6], tuple(row[6]), row[7]) for row in rows} == {(3, 3, 1, tuple(sorted(COSTS)), 2)}

"""What went wrong in systems like this one, each from a report that its docstring names."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
import redis

from quota import protocol
from quota.formats import Terms, Window
from quota.periods import PeriodKind, period_at
from tests.faults.conftest import Door, assert_the_two_agree, consume, status, used
from tests.integration.shard import ClockedShard
from tests.load import Request, hammer
from tests.system import System, eventually

HOUR_MS = 3_600_000
CATALOG: dict[str, Any] = {
    "default_plan": "free",
    "metrics": {"m": {}, "n": {}, "seats": {"kind": "level", "on_outage": "allow"}},
    "operations": {"both": {"charges": {"m": 1, "n": 1}}},
    "plans": {
        "free": {
            "rank": 0,
            "limits": {
                "m": {"limit": 100, "period": "month"},
                "n": {"limit": 5, "period": "month"},
                "seats": {"limit": 50},
            },
        },
        "pro": {"rank": 1, "limits": {"m": {"limit": 200, "period": "month"}, "n": {"limit": 8, "period": "month"}}},
    },
}


@dataclass(frozen=True)
class Shop:
    """A tenant that is asked through the system's gateway (`here`) and through another one, which has faults."""

    system: System
    key: str
    here: httpx.Client
    there: httpx.Client
    doors: tuple[Door, Door]

    def subscribe(self, subject: str, plan: str, **more: Any) -> None:
        answer = self.here.put(f"/v1/subjects/{subject}/subscription", json={"plan": plan, **more})
        assert answer.status_code == 200, answer.text

    def hammer(self, *requests: dict[str, Any], times: int) -> dict[int, int]:
        sent = [Request(request) for request in requests] * times
        log = hammer([door.url for door in self.doors], self.key, sent, clients=32, keep_bodies=True)
        assert [each["detail"] for each in log.bodies.values() if each.get("status") == 503] == []
        return dict(log.counts)


@pytest.fixture(scope="module")
def shop(faulty: System, doors: tuple[Door, Door]) -> Iterator[Shop]:
    key = faulty.make_key("shop")
    with faulty.client(key) as here, doors[0].gateway.client(key) as there:
        assert here.put("/v1/catalog", json=CATALOG).status_code == 200
        yield Shop(faulty, key, here, there, doors)
    assert_the_two_agree(faulty)


@pytest.fixture
def shard(connection: "redis.Redis") -> ClockedShard:
    """A shard on a clock of the test's."""
    return ClockedShard(connection)


def test_reservations_do_not_leak_on_error_paths(shop: Shop) -> None:
    """BerriAI/litellm#27639: a request that failed after it had reserved kept its reservation for ever."""
    body = {"subject": "leak", "metric": "n", "amount": 5, "ttl_s": 3600}
    path = f"/v1/reservations/{shop.there.post('/v1/reservations', json=body).json()['id']}"
    assert shop.there.post("/v1/reservations", json=body).status_code == 429
    assert shop.there.post(f"{path}/commit", json={"amount": 6}).status_code == 429
    assert shop.there.post(f"{path}/commit", json={"amount": "all"}).status_code == 400
    assert status(shop.here, "leak", "n")["held"] == 5
    assert shop.there.post(f"{path}/release").status_code == 200
    shop.doors[0].redis.faults.drop_next = 1
    assert shop.there.post("/v1/reservations", json=body).status_code == 503
    eventually(lambda: status(shop.here, "leak", "n")["held"] == 0, "what nobody was told of is not held")
    assert status(shop.here, "leak", "n")["remaining"] == 5


def test_a_hold_that_nobody_settles_is_free_when_it_expires(shop: Shop) -> None:
    """BerriAI/litellm#27639: the process that had reserved died."""
    body = {"subject": "expiring", "metric": "n", "amount": 5, "ttl_s": 1}
    assert shop.there.post("/v1/reservations", json=body).status_code == 201
    assert consume(shop.here, "expiring", "n").status_code == 429
    eventually(lambda: consume(shop.here, "expiring", "n", 5).status_code == 200, "all of it is free")


def test_denied_calls_burn_no_quota(shop: Shop) -> None:
    """envoyproxy/ratelimit#185: a counter went on counting above its limit, so that a higher limit did nothing."""
    assert consume(shop.there, "burn", "n", 3).status_code == 200
    assert shop.hammer({"subject": "burn", "metric": "n", "amount": 3}, times=100) == {429: 100}
    assert used(shop.here, "burn", "n") == 3
    shop.subscribe("burn", "pro")
    assert consume(shop.there, "burn", "n", 5).json()["remaining"] == 0


def test_a_counter_is_not_inflated_by_time_outs_and_retries(shop: Shop) -> None:
    """BerriAI/litellm#30460: each retry of a call that had timed out was counted again."""
    shop.doors[0].redis.faults.drop_next = 2
    statuses = []
    for _ in range(10):
        answer = consume(shop.there, "inflated", "m", 7, **{"Idempotency-Key": "retried"})
        statuses.append(answer.status_code)
    assert statuses[:2] == [503, 503]
    assert set(statuses[2:]) == {200}
    assert used(shop.here, "inflated", "m") == 7


def test_two_limits_are_not_checked_and_then_charged_apart(shop: Shop) -> None:
    """BerriAI/litellm#34732: of two limits, the first was charged though the second denied."""
    assert shop.hammer({"subject": "apart", "operation": "both"}, times=200) == {200: 5, 429: 195}
    assert (used(shop.here, "apart", "m"), used(shop.here, "apart", "n")) == (5, 5)


def test_a_lowered_limit_is_seen_by_the_next_request_of_every_gateway(shop: Shop) -> None:
    """TykTechnologies/tyk#265: the old limit stayed in force until the key expired."""
    shop.subscribe("lowered", "pro")
    assert consume(shop.there, "lowered", "n", 6).status_code == 200
    shop.subscribe("lowered", "free")
    denied = consume(shop.there, "lowered", "n")
    assert (denied.status_code, denied.json()["limit"], denied.json()["used"]) == (429, 5, 6)


def test_who_paid_for_the_upgrade_is_served_by_the_next_request_of_every_gateway(shop: Shop) -> None:
    """twentyhq/twenty#26275: blocked for 60 s more, by what a process remembered."""
    assert consume(shop.there, "paid", "n", 5).status_code == 200
    assert consume(shop.there, "paid", "n", 3).status_code == 429
    shop.subscribe("paid", "pro")
    assert consume(shop.there, "paid", "n", 3).json()["remaining"] == 0


def test_what_is_charged_late_adds_to_what_an_admin_set_and_does_not_overwrite_it(shop: Shop) -> None:
    """unkeyed/unkey#5529: a replay that came late wrote the number that it had seen."""
    first = shop.doors[0]
    assert consume(shop.there, "late", "seats", 30).status_code == 200
    with first.broken(refuses=True):
        first.database.faults.refuses = True
        first.database.cut()
        assert consume(shop.there, "late", "seats", 2).json()["degraded"] is True
        said = shop.here.put("/v1/subjects/late/levels/seats", json={"used": 7, "reason": "counted by hand"})
        assert (said.status_code, said.json()["used"]) == (200, 7)
        first.database.heal()
    eventually(lambda: used(shop.here, "late", "seats") == 9, "what was let through is charged")
    eventually(
        lambda: (
            shop.system.sql("SELECT kind, change, used_after FROM entries WHERE subject = 'late' ORDER BY n")
            == [("consume", 30, 30), ("set", -23, 7), ("consume", 2, 9)]
        ),
        "the ledger tells it in that order",
    )


def test_a_period_that_is_over_leaves_no_counter_behind_and_a_refund_of_it_makes_no_lasting_units(shop: Shop) -> None:
    """BerriAI/litellm#30002: the reset was undone by a copy of the counter. kortix-ai/suna#5869: a refund came back as
    credits without an end."""
    seconds, _ = shop.system.redis().time()
    end = datetime.fromtimestamp(int(seconds) + 2, UTC)
    shop.subscribe("over", "free", anchor=(end - timedelta(days=4 * 365 + 1)).isoformat())
    receipt = consume(shop.there, "over", "n", 5).json()["receipt"]
    assert consume(shop.there, "over", "n").status_code == 429
    first = eventually(lambda: _if_allowed(consume(shop.there, "over", "n")), "the new period is open")
    assert (first["used"], first["remaining"]) == (1, 4)
    back = shop.there.post("/v1/refunds", json={"receipt": receipt, "amount": 4})
    assert (back.status_code, back.json()["refunded_total"]) == (200, 4)
    shop.system.drained()
    shop.system.redis().flushall()
    eventually(lambda: consume(shop.there, "anybody", "m").status_code == 200, "Redis is provisioned from the ledger")
    now = status(shop.there, "over", "n")
    assert (now["used"], now["limit"], now["remaining"], now["grants"]) == (1, 5, 4, [])
    balances = "SELECT used FROM balances WHERE subject = 'over' AND metric = 'n' ORDER BY period_start"
    assert shop.system.sql(balances) == [(1,), (1,)]


def _if_allowed(answer: httpx.Response) -> dict[str, Any]:
    return dict(answer.json()) if answer.status_code == 200 else {}


def test_each_warning_is_told_once_however_many_gateways_see_it(shop: Shop) -> None:
    """aws-solutions/quota-monitor-for-aws#235: the same alert twelve times."""
    assert shop.hammer({"subject": "warned", "metric": "m"}, times=130) == {200: 100, 429: 30}
    shop.system.drained()
    rows = "SELECT amount FROM entries WHERE subject = 'warned' AND kind = 'warned' ORDER BY n"
    assert shop.system.sql(rows) == [(80,), (95,), (100,)]


def test_a_counter_that_many_gateways_find_cold_is_seeded_once(shop: Shop) -> None:
    """BerriAI/litellm#28247: each of N pods added what it had read, N times the spend."""
    assert consume(shop.there, "cold", "m", 60).status_code == 200
    shop.system.drained()
    shop.system.redis().flushall()
    subject = {"subject": "cold", "metric": "m"}
    log = hammer(
        [shop.system.urls["gateway"], *(door.url for door in shop.doors)],
        shop.key,
        [subject] * 100,
        clients=48,
        until_answered=True,
    )
    assert log.counts == {200: 40, 429: 60}
    assert used(shop.here, "cold", "m") == 100


def _month(shard: ClockedShard) -> Window:
    period = period_at(PeriodKind.MONTH, shard.now_ms())
    return Window(period, Terms("free", PeriodKind.MONTH, None, ()))


def test_a_month_has_as_many_days_as_it_has(shard: ClockedShard) -> None:
    """Kong/kong#9581: a month was 30 days, and the counter gone on day 31."""
    shard.set_clock(int(datetime(2027, 1, 1, tzinfo=UTC).timestamp()) * 1000)
    january = _month(shard)
    shard.open(limit=3, period=january.period)
    assert [each.outcome.value for each in shard.consume(shard.step(2))] == ["allowed"]
    shard.set_clock(int(datetime(2027, 2, 1, tzinfo=UTC).timestamp()) * 1000 - 1)
    assert [each.outcome.value for each in shard.consume(shard.step(2), shard.step(1))] == ["denied", "allowed"]
    assert (shard.used(), shard.connection.ttl(shard.key())) == (3, -1)
    shard.step_clock(1)
    (reply,) = shard.consume(shard.step(1))
    assert (reply.outcome.value, reply.accounts[0].verdict.value) == ("unready", "period_over")


def test_the_last_to_roll_a_window_does_not_win(shard: ClockedShard) -> None:
    """BerriAI/litellm#34733: of two that saw the window's end, the last one wrote its zero over the other's count."""
    shard.open(period=_month(shard).period)
    shard.consume(shard.step(4))
    seen = _month(shard).period
    shard.set_clock(seen.end_ms or 0)
    roll = protocol.roll(shard.number, shard.key(), seen, _month(shard))
    assert shard.run(roll) == "rolled"
    shard.consume(shard.step(5))
    assert [shard.run(roll) for _ in range(3)] == ["moved"] * 3
    assert shard.used() == 5


def test_a_clock_that_steps_back_opens_no_period_again(shard: ClockedShard) -> None:
    """Of section 9's `a clock step backwards`: what is counted is never counted in a period that was closed."""
    shard.open(limit=6, period=_month(shard).period)
    shard.consume(shard.step(4))
    old = _month(shard)
    shard.set_clock(old.period.end_ms or 0)
    new = _month(shard)
    assert shard.run(protocol.roll(shard.number, shard.key(), old.period, new)) == "rolled"
    shard.consume(shard.step(1))
    shard.step_clock(-HOUR_MS)
    assert shard.run(protocol.roll(shard.number, shard.key(), new.period, old)) == "not_over"
    assert [each.outcome.value for each in shard.consume(shard.step(5), shard.step(1))] == ["allowed", "denied"]
    assert shard.used() == 6
    assert Window.parsed(shard.account()["window"]).period == new.period
    numbers = [each.place.n for each in shard.entries()]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))

"""The five example catalogs as short stories through HTTP, each with its end in the ledger; and tenants kept apart."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.conftest import Tenant
from tests.system import System, eventually

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
PROBLEM_MEMBERS = {"type", "title", "status", "detail", "code", "instance"}
DENIAL_MEMBERS = PROBLEM_MEMBERS | {
    "violated-policies", "subject", "metric", "amount", "limit", "used", "held", "remaining", "plan", "period",
    "retry_after_s", "upgrade",
}  # fmt: skip
METRIC_MEMBERS = {
    "metric", "limit", "used", "held", "remaining", "unlimited", "enforcement", "overage", "warning", "period",
    "grants",
}  # fmt: skip
LIFETIME = {"kind": "lifetime", "start": None, "end": None}
RESET_AFTER_S = 2.0
"""From a subscription to the end of its first period: long enough for a handful of requests on a busy machine."""


def _window(kind: str, at: datetime) -> dict[str, str]:
    """The calendar period in UTC that an instant lies in."""
    day = at.replace(hour=0, minute=0, second=0, microsecond=0)
    if kind == "day":
        start, end = day, day + timedelta(days=1)
    elif kind == "week":
        start = day - timedelta(days=day.weekday())
        end = start + timedelta(days=7)
    else:
        start = day.replace(day=1)
        end = (start + timedelta(days=32)).replace(day=1)
    return {"kind": kind, "start": f"{start:%Y-%m-%dT%H:%M:%SZ}", "end": f"{end:%Y-%m-%dT%H:%M:%SZ}"}


def _assert_runs_now(period: dict[str, Any], kind: str) -> None:
    """The request was decided a moment ago: the period is the one of now, or of then if a boundary lay between."""
    now = datetime.now(UTC)
    assert period in (_window(kind, now), _window(kind, now - timedelta(seconds=10)))


class Book:
    """What was acknowledged in one story, to be found again in the ledger."""

    def __init__(self, system: System, tenant: Tenant) -> None:
        self._system = system
        self._tenant = tenant
        self._expected: list[tuple[Any, ...]] = []

    def allowed(self, answer: httpx.Response) -> dict[str, Any]:
        """The body of an answer that must be a 200; its charges go into the book."""
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "application/json"
        body = dict(answer.json())
        assert body["allowed"] is True
        charges = body.get("charges", [body])
        for charge in charges:
            self._expected.append(
                (body["subject"], charge["metric"], charge["amount"], charge["used"], charge["plan"], body["receipt"])
            )
        assert bool(body["receipt"]) == bool(charges)
        return body

    def denied(self, answer: httpx.Response) -> dict[str, Any]:
        """The body of an answer that must be the problem of a quota that does not suffice."""
        assert answer.status_code == 429, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        body = dict(answer.json())
        assert body.keys() >= DENIAL_MEMBERS
        assert (body["type"], body["title"], body["status"], body["code"], body["instance"]) == (
            "https://iana.org/assignments/http-problem-types#quota-exceeded",
            "Quota exceeded",
            429,
            "QUOTA_EXCEEDED",
            "/v1/consume",
        )
        assert body["metric"] in body["violated-policies"]
        wait = answer.headers.get("retry-after")
        assert (None if wait is None else int(wait)) == body["retry_after_s"]
        return body

    def agrees(self) -> None:
        """The ledger has exactly the acknowledged consumes, and its balances are what they add up to."""
        self._system.drained()
        name = self._tenant.name
        found = self._system.sql(
            "SELECT subject, metric, amount, used_after, plan, "
            "concat(shard, '.', epoch, '-', receipt_first_n, '.', receipt_count), change "
            "FROM entries WHERE tenant = %s AND kind = 'consume'",
            name,
        )
        assert sorted(row[:6] for row in found) == sorted(self._expected)
        assert all(row[6] == row[2] for row in found)
        sums = self._system.sql(
            "SELECT subject, metric, sum(change) FROM entries WHERE tenant = %s GROUP BY 1, 2 ORDER BY 1, 2", name
        )
        for subject, metric, change in sums:
            balances = self._system.sql(
                "SELECT used FROM balances WHERE tenant = %s AND subject = %s AND metric = %s", name, subject, metric
            )
            assert sum(used for (used,) in balances) == change, (subject, metric)


def _metrics_of(status: dict[str, Any]) -> dict[str, dict[str, Any]]:
    for metric in status["metrics"]:
        assert metric.keys() == METRIC_MEMBERS
    return {metric["metric"]: metric for metric in status["metrics"]}


def test_remixes_are_counted_by_calendar_month_and_an_upgrade_and_add_ons_make_room(
    system: System, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant("remix")
    book = Book(system, tenant)
    for used in range(1, 6):
        body = book.allowed(tenant.consume("u_1", "remixes"))
        assert (body["used"], body["limit"], body["remaining"], body["plan"]) == (used, 5, 5 - used, "free")
        _assert_runs_now(body["period"], "month")
    denied = book.denied(tenant.consume("u_1", "remixes"))
    assert (denied["used"], denied["limit"], denied["remaining"], denied["amount"]) == (5, 5, 0, 1)
    assert denied["upgrade"] == {
        "plan": "creator",
        "limit": 100,
        "url": "https://example.com/upgrade?plan=creator",
    }
    until_reset = datetime.fromisoformat(denied["period"]["end"]) - datetime.now(UTC)
    assert abs(denied["retry_after_s"] - until_reset.total_seconds()) < 10
    assert tenant.subscribe("u_1", "creator").json()["plan"] == "creator"
    assert book.allowed(tenant.consume("u_1", "remixes", 95))["remaining"] == 0
    assert book.denied(tenant.consume("u_1", "remixes"))["upgrade"]["plan"] == "studio"
    tenant.subscribe("u_1", "creator", add_ons={"extra_50": 2})
    body = book.allowed(tenant.consume("u_1", "remixes", 100))
    assert (body["used"], body["limit"], body["remaining"]) == (200, 200, 0)
    status = tenant.status("u_1")
    assert (status["subject"], status["plan"]) == ("u_1", "creator")
    assert status["subscription"] == {
        "status": "active",
        "status_until": None,
        "anchor": None,
        "scheduled": None,
        "add_ons": {"extra_50": 2},
    }
    assert _metrics_of(status)["remixes"]["used"] == 200
    book.agrees()


def test_a_new_period_starts_from_zero_with_its_first_request(system: System, make_tenant: MakeTenant) -> None:
    tenant = make_tenant("remix")
    book = Book(system, tenant)
    end = datetime.now(UTC) + timedelta(seconds=RESET_AFTER_S)
    end = end.replace(microsecond=end.microsecond // 1000 * 1000)
    tenant.subscribe("u_1", "free", anchor=end.isoformat().replace("+00:00", "Z"))
    assert datetime.fromisoformat(book.allowed(tenant.consume("u_1", "remixes", 5))["period"]["end"]) == end
    book.denied(tenant.consume("u_1", "remixes"))

    def passes() -> httpx.Response | None:
        answer = tenant.consume("u_1", "remixes")
        return answer if answer.status_code == 200 else None

    first = book.allowed(eventually(passes, "the period is over"))
    assert datetime.now(UTC) >= end
    assert (first["used"], first["remaining"]) == (1, 4)
    assert datetime.fromisoformat(first["period"]["start"]) == end
    book.agrees()


def test_credits_are_one_pool_that_operations_draw_on_by_their_cost(system: System, make_tenant: MakeTenant) -> None:
    tenant = make_tenant("credits")
    book = Book(system, tenant)
    costs = {"create_reel": 5, "create_carousel": 1, "generate_ai_image": 3, "regenerate_copy": 1, "publish": 1}
    used = 0
    for operation, cost in costs.items():
        used += cost
        body = book.allowed(tenant.operate("u_1", operation))
        assert (body["operation"], body["metric"], body["amount"], body["used"]) == (operation, "credits", cost, used)
    assert book.allowed(tenant.operate("u_1", "create_reel", 4))["used"] == 31
    denied = book.denied(tenant.operate("u_1", "create_reel"))
    assert (denied["metric"], denied["amount"], denied["remaining"], denied["upgrade"]["plan"]) == (
        ("credits", 5, 4, "starter")
    )
    free = book.allowed(tenant.operate("u_1", "create_post", 1_000))
    assert (free["charges"], free["receipt"]) == ([], None)
    checked = tenant.client.post("/v1/check", json={"subject": "u_1", "operation": "create_reel"})
    assert (checked.status_code, checked.json()["allowed"], checked.json()["code"]) == (200, False, "QUOTA_EXCEEDED")
    assert book.allowed(tenant.operate("u_1", "generate_ai_image"))["remaining"] == 1
    book.allowed(tenant.consume("u_1", "connected_platforms"))
    assert book.denied(tenant.consume("u_1", "connected_platforms"))["retry_after_s"] is None
    for plan, credit_limit, platforms in (
        ("starter", 200, 3), ("pro", 700, 5), ("business", 2_000, 10), ("agency", 7_000, 50),
    ):  # fmt: skip
        tenant.subscribe("u_1", plan)
        metrics = _metrics_of(tenant.status("u_1"))
        assert {name: (each["limit"], each["used"]) for name, each in metrics.items()} == {
            "credits": (credit_limit, 34),
            "connected_platforms": (platforms, 1),
        }
    assert metrics["connected_platforms"]["period"] == LIFETIME
    book.agrees()


def test_a_builder_is_warned_before_each_of_three_limits_denies(system: System, make_tenant: MakeTenant) -> None:
    tenant = make_tenant("builder")
    book = Book(system, tenant)
    warnings = [book.allowed(tenant.consume("u_1", "ai_generations"))["warning"] for _ in range(10)]
    assert warnings == [None] * 7 + [80, 80, 100]
    assert book.denied(tenant.consume("u_1", "ai_generations"))["upgrade"]["limit"] == 100
    for _ in range(3):
        body = book.allowed(tenant.consume("u_1", "projects"))
        assert body["period"] == LIFETIME
    level = tenant.consume("u_1", "projects")
    assert book.denied(level)["retry_after_s"] is None
    assert (level.headers["ratelimit-policy"], level.headers["ratelimit"]) == ('"projects";q=3', '"projects";r=0')
    book.allowed(tenant.consume("u_1", "exports"))
    assert book.denied(tenant.consume("u_1", "exports", 10))["upgrade"]["plan"] == "growth"
    tenant.subscribe("u_1", "starter")
    assert book.allowed(tenant.consume("u_1", "ai_generations", 84))["warning"] == 80
    assert book.allowed(tenant.consume("u_1", "ai_generations"))["warning"] == 95
    assert book.allowed(tenant.consume("u_1", "ai_generations", 5))["warning"] == 100
    tenant.subscribe("u_1", "growth")
    metrics = _metrics_of(tenant.status("u_1"))
    assert {name: (each["limit"], each["used"], each["warning"]) for name, each in metrics.items()} == {
        "ai_generations": (500, 100, None),
        "projects": (50, 3, None),
        "exports": (50, 1, None),
    }
    assert {name: each["used"] for name, each in _metrics_of(tenant.status("u_2")).items()} == {
        "ai_generations": 0,
        "projects": 0,
        "exports": 0,
    }
    book.agrees()


def test_features_run_by_day_week_and_month_or_without_a_limit_and_only_with_a_plan(
    system: System, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant("features")
    book = Book(system, tenant)
    _assert_no_subscription(tenant)
    tenant.subscribe("u_1", "basic", status="trialing")
    for metric, limit, kind, seconds in (("summaries", 10, "day", 86_400), ("reports", 3, "week", 604_800)):
        answer = tenant.consume("u_1", metric, limit)
        _assert_runs_now(book.allowed(answer)["period"], kind)
        assert answer.headers["ratelimit-policy"] == f'"{metric}";q={limit};w={seconds}'
        left = book.denied(tenant.consume("u_1", metric))["retry_after_s"]
        assert 0 < left <= seconds
        assert answer.headers["ratelimit"].startswith(f'"{metric}";r=0;t=')
    _assert_runs_now(book.allowed(tenant.consume("u_1", "transcriptions", 20))["period"], "month")
    searched = tenant.consume("u_1", "searches", 1_000_000_000)
    body = book.allowed(searched)
    assert (body["limit"], body["remaining"], body["unlimited"], body["used"]) == (None, None, True, 1_000_000_000)
    assert body["warning"] is None
    assert "ratelimit" not in searched.headers
    not_in_plan = book.denied(tenant.consume("u_1", "voice_clones"))
    assert (not_in_plan["limit"], not_in_plan["upgrade"]["plan"], not_in_plan["upgrade"]["limit"]) == (0, "pro", 5)
    assert _metrics_of(tenant.status("u_1")).keys() == {"summaries", "reports", "transcriptions", "searches"}
    tenant.subscribe("u_1", "pro")
    body = book.allowed(tenant.consume("u_1", "summaries", 100))
    assert (body["unlimited"], body["used"]) == (True, 110)
    assert book.allowed(tenant.consume("u_1", "reports", 47))["remaining"] == 0
    assert book.allowed(tenant.consume("u_1", "voice_clones"))["remaining"] == 4
    assert len(_metrics_of(tenant.status("u_1"))) == 5
    tenant.subscribe("u_1", "pro", status="canceled")
    _assert_no_subscription(tenant)
    book.agrees()


def _assert_no_subscription(tenant: Tenant) -> None:
    answer = tenant.consume("u_1", "summaries")
    assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
    body = answer.json()
    assert body.keys() >= PROBLEM_MEMBERS
    assert (body["code"], body["subject"]) == ("NO_SUBSCRIPTION", "u_1")
    checked = tenant.check("u_1", "summaries")
    assert (checked.status_code, checked.json()["allowed"], checked.json()["code"]) == (200, False, "NO_SUBSCRIPTION")
    assert tenant.status("u_1")["plan"] is None


def test_an_organisation_goes_over_its_soft_limit_and_not_over_its_hard_one(
    system: System, make_tenant: MakeTenant
) -> None:
    tenant = make_tenant("tenants")
    book = Book(system, tenant)
    assert book.allowed(tenant.consume("org/42", "tracked_products", 50))["remaining"] == 0
    assert book.denied(tenant.consume("org/42", "tracked_products"))["upgrade"]["plan"] == "enterprise"
    body = book.allowed(tenant.consume("org/42", "api_calls", 9_999))
    assert (body["enforcement"], body["overage"], body["warning"], body["remaining"]) == ("soft", 0, 95, 1)
    body = book.allowed(tenant.consume("org/42", "api_calls"))
    assert (body["overage"], body["warning"]) == (0, 100)
    body = book.allowed(tenant.consume("org/42", "api_calls", 500))
    assert (body["used"], body["overage"], body["remaining"], body["warning"]) == (10_500, 500, 0, 100)
    status = _metrics_of(tenant.status("org/42"))
    assert (status["api_calls"]["overage"], status["tracked_products"]["period"]) == (500, LIFETIME)
    tenant.subscribe("org/42", "team", add_ons={"products_25": 1})
    assert book.allowed(tenant.consume("org/42", "tracked_products", 25))["limit"] == 75
    tenant.subscribe("org/42", "enterprise")
    assert book.allowed(tenant.consume("org/42", "api_calls"))["overage"] == 0
    assert tenant.status("org/43")["metrics"][0]["used"] == 0
    book.agrees()


def test_an_operation_charges_all_of_its_metrics_or_none(system: System, make_tenant: MakeTenant) -> None:
    limits = {"images": {"limit": 10, "period": "day"}, "renders": {"limit": 2}}
    tenant = make_tenant(
        {
            "default_plan": "free",
            "metrics": {"images": {}, "renders": {"kind": "level"}},
            "operations": {"film": {"charges": {"images": 3, "renders": 1}}},
            "plans": {"free": {"limits": limits}},
        }
    )
    book = Book(system, tenant)
    answer = tenant.operate("u_1", "film", 2)
    body = book.allowed(answer)
    charges = {charge["metric"]: (charge["amount"], charge["used"]) for charge in body["charges"]}
    assert charges == {"images": (6, 6), "renders": (2, 2)}
    denied = book.denied(tenant.operate("u_1", "film"))
    assert (denied["metric"], denied["violated-policies"], denied["upgrade"]) == ("renders", ["renders"], None)
    assert {name: each["used"] for name, each in _metrics_of(tenant.status("u_1")).items()} == {
        "images": 6,
        "renders": 2,
    }
    book.agrees()


def test_a_slash_in_a_subject_is_one_subject_in_body_and_path(make_tenant: MakeTenant) -> None:
    tenant = make_tenant("credits")
    assert tenant.consume("acme/bob", "credits", 3).status_code == 200
    for path in (
        "/v1/subjects/acme%2Fbob/status",
        "/v1/subjects/acme%2fbob/status",
        "/v1/subjects/%61cme%2Fbob/status",
    ):
        answer = tenant.client.get(path)
        assert (answer.json()["subject"], answer.json()["metrics"]) == (
            "acme/bob",
            tenant.status("acme/bob")["metrics"],
        )
    assert {each["metric"]: each["used"] for each in tenant.status("acme/bob")["metrics"]}["credits"] == 3


def test_two_tenants_share_nothing_even_under_names_that_read_alike(system: System) -> None:
    limits = {"c": {"limit": 100}, "b:c": {"limit": 100}, "c:d": {"limit": 100}}
    catalog = {"default_plan": "free", "metrics": {name: {} for name in limits}, "plans": {"free": {"limits": limits}}}
    accounts = [
        ("colons", "a:b", "c"), ("colons", "a", "b:c"), ("colons", "a:b:c", "c:d"), ("colons:a", "b", "c"),
        ("colons:a", "a:b", "c"), ("colons:a:b", "c", "c:d"), ("colons:a", "b:c", "c:d"), ("colons", "a:b/c", "c"),
    ]  # fmt: skip
    clients = {name: system.client(system.make_key(name)) for name in sorted({name for name, _, _ in accounts})}
    try:
        for client in clients.values():
            assert client.put("/v1/catalog", json=catalog).status_code == 200
        for amount, (name, subject, metric) in enumerate(accounts, start=1):
            body = {"subject": subject, "metric": metric, "amount": amount}
            answer = clients[name].post("/v1/consume", json=body, headers={"Idempotency-Key": "the same"})
            assert (answer.status_code, answer.json()["used"], answer.json()["replayed"]) == (200, amount, False)
        for amount, (name, subject, metric) in enumerate(accounts, start=1):
            body = {"subject": subject, "metric": metric, "amount": 1}
            assert clients[name].post("/v1/check", json=body).json()["used"] == amount
        assert clients["colons:a"].get("/v1/subjects/a:b:c/subscription").status_code == 404
    finally:
        for client in clients.values():
            client.close()
    system.drained()
    found = system.sql(
        "SELECT tenant, subject, metric, change FROM entries WHERE tenant = ANY(%s) AND kind = 'consume'", list(clients)
    )
    assert sorted(found) == sorted((*account, amount) for amount, account in enumerate(accounts, start=1))


def test_a_subscription_of_one_tenant_means_nothing_to_another(make_tenant: MakeTenant) -> None:
    one, other = make_tenant("credits"), make_tenant("credits")
    one.subscribe("u_1", "agency")
    assert one.consume("u_1", "credits", 7_000).status_code == 200
    assert other.status("u_1")["plan"] == "free"
    assert other.consume("u_1", "credits", 1).json()["used"] == 1
    answer = other.client.get("/v1/subjects/u_1/subscription")
    assert (answer.status_code, answer.json()["code"]) == (404, "NOT_FOUND")

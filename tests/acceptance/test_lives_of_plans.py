"""Each example catalog through the life of its subscriptions: upgrade, add-on, downgrade, cancellation, and the turn of
the month, which is a few seconds away because an anchor says when months begin.

A life is told in two halves: the first is over before the month turns, the second begins when it has turned. All of
them wait for the same turn.
"""

import secrets
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quota.catalog import parse_toml, to_document
from quota.periods import to_rfc3339
from tests.conftest import Tenant
from tests.system import System, eventually

EXAMPLES = Path(__file__).parents[2] / "examples"
TURNS_IN_MS = 9_000
"""Long enough for the first halves, one after the other, on a busy machine; the fixture says so if it was not."""


@dataclass
class Scene:
    """A tenant with an example's catalog, and the instant at which the months of its subscriptions turn."""

    tenant: Tenant
    turn: str

    def subscribe(self, subject: str, plan: str, **fields: Any) -> dict[str, Any]:
        return dict(self.tenant.subscribe(subject, plan, **{"anchor": self.turn} | fields).json())

    def passes(self, subject: str, metric: str, amount: int = 1) -> dict[str, Any]:
        answer = self.tenant.consume(subject, metric, amount)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def denied(self, subject: str, metric: str, amount: int = 1) -> dict[str, Any]:
        answer = self.tenant.consume(subject, metric, amount)
        assert (answer.status_code, answer.json()["code"]) == (429, "QUOTA_EXCEEDED"), answer.text
        return dict(answer.json())

    def stands(self, subject: str, metric: str) -> tuple[str | None, int | None, int]:
        """Plan, limit and used, as status shows them."""
        status = self.tenant.status(subject)
        found = {each["metric"]: each for each in status["metrics"]}[metric]
        return status["plan"], found["limit"], found["used"]


Life = Generator[None, None, None]


def remixes(scene: Scene) -> Life:
    scene.subscribe("goes_up", "free")
    scene.passes("goes_up", "remixes", 5)
    assert scene.denied("goes_up", "remixes")["upgrade"]["plan"] == "creator"
    scene.subscribe("goes_up", "creator")
    assert (body := scene.passes("goes_up", "remixes"))["used"] == 6, "what was used is kept"
    assert (body["plan"], body["limit"], body["period"]["end"]) == ("creator", 100, scene.turn)
    scene.subscribe("goes_up", "creator", add_ons={"extra_50": 3})
    assert scene.passes("goes_up", "remixes", 244)["remaining"] == 0
    scheduled = scene.subscribe("goes_up", "free", effective="period_end")
    assert (scheduled["plan"], scheduled["scheduled"]["plan"], scheduled["scheduled"]["at"]) == (
        ("creator", "free", scene.turn)
    )
    assert scene.stands("goes_up", "remixes") == ("creator", 250, 250)
    scene.subscribe("goes_down", "studio")
    scene.passes("goes_down", "remixes", 500)
    scene.subscribe("goes_down", "creator")
    assert scene.denied("goes_down", "remixes")["remaining"] == 0
    assert scene.stands("goes_down", "remixes") == ("creator", 100, 500), "nothing is taken away"
    scene.subscribe("goes", "studio", add_ons={"extra_50": 1})
    scene.passes("goes", "remixes", 7)
    scene.subscribe("goes", "studio", status="canceled")
    assert scene.denied("goes", "remixes")["limit"] == 5, "the default plan, without what was sold beside the other"
    yield
    first = scene.passes("goes_up", "remixes")
    assert (first["plan"], first["limit"], first["used"], first["period"]["start"]) == ("free", 5, 1, scene.turn)
    assert scene.passes("goes_down", "remixes")["remaining"] == 99
    assert scene.stands("goes", "remixes") == ("free", 5, 7), "no subscription, no anchor: the calendar's month goes on"


def credits(scene: Scene) -> Life:
    scene.subscribe("goes_up", "starter")
    scene.passes("goes_up", "credits", 198)
    assert scene.tenant.operate("goes_up", "create_reel").status_code == 429
    scene.subscribe("goes_up", "pro")
    assert scene.tenant.operate("goes_up", "create_reel").json()["used"] == 203
    scene.subscribe("goes_up", "pro", add_ons={"credits_100": 2})
    assert scene.stands("goes_up", "credits") == ("pro", 900, 203)
    scene.passes("goes_up", "connected_platforms", 5)
    assert scene.subscribe("goes_up", "starter", effective="period_end")["scheduled"]["plan"] == "starter"
    scene.subscribe("goes_down", "pro")
    scene.passes("goes_down", "connected_platforms", 5)
    scene.subscribe("goes_down", "starter")
    assert scene.denied("goes_down", "connected_platforms")["used"] == 5
    released = {"subject": "goes_down", "metric": "connected_platforms", "amount": 3}
    assert scene.tenant.client.post("/v1/release", json=released).status_code == 200
    assert scene.passes("goes_down", "connected_platforms")["used"] == 3, "below the new limit there is room again"
    scene.subscribe("goes", "agency")
    scene.passes("goes", "credits", 1_000)
    scene.subscribe("goes", "agency", status="canceled")
    assert scene.tenant.operate("goes", "create_post").status_code == 200, "what costs nothing goes on"
    assert scene.denied("goes", "credits")["limit"] == 35
    yield
    first = scene.passes("goes_up", "credits", 200)
    assert (first["plan"], first["remaining"]) == ("starter", 0)
    assert scene.denied("goes_up", "connected_platforms")["used"] == 5, "a level has no months"
    assert scene.passes("goes_down", "credits")["used"] == 1


def builder(scene: Scene) -> Life:
    scene.subscribe("goes_up", "starter")
    assert scene.passes("goes_up", "ai_generations", 100)["warning"] == 100
    scene.subscribe("goes_up", "growth")
    assert scene.passes("goes_up", "ai_generations", 300)["warning"] == 80, "armed again, because the limit rose"
    scene.passes("goes_up", "projects", 50)
    scene.subscribe("goes_up", "growth", add_ons={"projects_5": 1, "generations_50": 2})
    assert scene.passes("goes_up", "projects", 5)["limit"] == 55
    assert scene.passes("goes_up", "ai_generations", 200)["remaining"] == 0
    scene.subscribe("goes_up", "starter", effective="period_end")
    scene.subscribe("goes_down", "growth")
    scene.passes("goes_down", "exports", 11)
    scene.subscribe("goes_down", "starter")
    assert scene.denied("goes_down", "exports")["used"] == 11
    scene.subscribe("goes", "growth")
    scene.passes("goes", "projects", 4)
    scene.subscribe("goes", "growth", status="canceled")
    assert scene.denied("goes", "projects")["limit"] == 3
    yield
    assert scene.passes("goes_up", "ai_generations")["limit"] == 100
    assert scene.denied("goes_up", "projects")["used"] == 55
    assert scene.passes("goes_down", "exports", 10)["remaining"] == 0
    assert scene.denied("goes", "projects")["used"] == 4


def features(scene: Scene) -> Life:
    scene.subscribe("goes_up", "basic", status="trialing")
    scene.passes("goes_up", "transcriptions", 20)
    assert scene.denied("goes_up", "voice_clones")["upgrade"]["plan"] == "pro"
    scene.subscribe("goes_up", "pro")
    assert scene.passes("goes_up", "voice_clones")["remaining"] == 4
    assert scene.passes("goes_up", "summaries", 5_000)["unlimited"]
    scene.subscribe("goes_up", "pro", add_ons={"transcriptions_100": 1})
    assert scene.passes("goes_up", "transcriptions", 580)["remaining"] == 0
    scene.subscribe("goes_up", "basic", effective="period_end")
    scene.subscribe("goes_down", "pro")
    scene.passes("goes_down", "summaries", 60)
    scene.subscribe("goes_down", "basic")
    assert scene.denied("goes_down", "summaries")["period"]["kind"] == "day"
    assert scene.stands("goes_down", "summaries") == ("basic", 10, 60)
    for status in ("canceled", "paused"):
        scene.subscribe(status, "pro")
        scene.passes(status, "transcriptions", 3)
        scene.subscribe(status, "pro", status=status)
        answer = scene.tenant.consume(status, "transcriptions")
        assert (answer.status_code, answer.json()["code"]) == (403, "NO_SUBSCRIPTION")
    scene.subscribe("paused", "pro")
    assert scene.passes("paused", "transcriptions")["used"] == 4, "who comes back has used what he had"
    yield
    assert scene.passes("goes_up", "transcriptions")["limit"] == 20
    assert scene.denied("goes_up", "voice_clones")["limit"] == 0
    assert scene.denied("goes_down", "summaries")["used"] == 60, "a day does not end with an anchored month"
    assert scene.tenant.consume("canceled", "transcriptions").status_code == 403
    assert scene.passes("paused", "transcriptions")["used"] == 1


def tenants(scene: Scene) -> Life:
    scene.subscribe("goes_up", "team")
    scene.passes("goes_up", "tracked_products", 50)
    assert scene.passes("goes_up", "api_calls", 10_500)["overage"] == 500
    scene.subscribe("goes_up", "team", add_ons={"products_25": 2})
    assert scene.passes("goes_up", "tracked_products", 50)["limit"] == 100
    scene.subscribe("goes_up", "enterprise")
    assert (body := scene.passes("goes_up", "api_calls"))["overage"] == 0
    assert (body["used"], body["remaining"]) == (10_501, 989_499)
    assert scene.passes("goes_up", "tracked_products", 900)["used"] == 1_000
    scene.subscribe("goes_up", "team", effective="period_end", add_ons={"products_25": 1})
    scene.subscribe("goes_down", "enterprise")
    scene.passes("goes_down", "api_calls", 20_000)
    scene.subscribe("goes_down", "team")
    assert scene.passes("goes_down", "api_calls")["overage"] == 10_001, "a soft limit lets through, and counts"
    scene.subscribe("goes", "enterprise")
    scene.passes("goes", "tracked_products", 51)
    scene.subscribe("goes", "enterprise", status="canceled")
    assert scene.denied("goes", "tracked_products")["limit"] == 50
    yield
    assert scene.passes("goes_up", "api_calls")["overage"] == 0
    assert scene.denied("goes_up", "tracked_products")["limit"] == 75
    assert scene.stands("goes_up", "tracked_products") == ("team", 75, 1_000)
    assert scene.passes("goes_down", "api_calls")["used"] == 1


LIVES: dict[str, Callable[[Scene], Life]] = {
    "remix": remixes,
    "credits": credits,
    "builder": builder,
    "features": features,
    "tenants": tenants,
}


@dataclass
class Turned:
    """The lives after the turn of their month: of each what is left to be told, and the scene of it."""

    lives: dict[str, tuple[Scene, Life]]
    untold: dict[str, AssertionError]


@pytest.fixture(scope="module")
def turned(system: System) -> Iterator[Turned]:
    with ExitStack() as clients:
        scenes = {}
        for name in LIVES:
            tenant = f"tenant-{secrets.token_hex(4)}"
            key = system.make_key(tenant)
            client = clients.enter_context(system.client(key))
            catalog = to_document(parse_toml((EXAMPLES / f"{name}.toml").read_text()))
            assert client.put("/v1/catalog", json=catalog).status_code == 200
            scenes[name] = Tenant(tenant, key, client)
        seconds, microseconds = system.redis().time()
        turn_ms = int(seconds) * 1000 + int(microseconds) // 1000 + TURNS_IN_MS
        found = Turned({}, {})
        for name, tell in LIVES.items():
            scene = Scene(scenes[name], to_rfc3339(turn_ms))
            life = tell(scene)
            try:
                next(life)
            except AssertionError as error:
                found.untold[name] = error
            found.lives[name] = scene, life
        assert time.time() * 1000 < turn_ms, "the first halves took longer than the month: TURNS_IN_MS is too short"
        eventually(lambda: time.time() * 1000 > turn_ms + 50, "the month has turned")
        yield found


@pytest.mark.parametrize("name", LIVES)
def test_an_example_through_upgrade_add_on_downgrade_cancellation_and_the_turn_of_the_month(
    system: System, turned: Turned, name: str
) -> None:
    scene, life = turned.lives[name]
    if name in turned.untold:
        raise turned.untold[name]

    with pytest.raises(StopIteration):
        next(life)

    _agrees(system, scene.tenant)


def _agrees(system: System, tenant: Tenant) -> None:
    """What the ledger adds up to is what status shows, of every account."""
    system.drained()
    balances = system.sql(
        "SELECT b.subject, b.metric, b.used, (SELECT sum(change) FROM entries e WHERE (e.tenant, e.subject, e.metric, "
        "e.period_kind, e.period_start) = (b.tenant, b.subject, b.metric, b.period_kind, b.period_start)) "
        "FROM balances b WHERE tenant = %s",
        tenant.name,
    )
    assert balances and all(used == added_up for _, _, used, added_up in balances)
    for subject in {subject for subject, *_ in balances}:
        for shown in tenant.status(subject)["metrics"]:
            counted = {used for other, metric, used, _ in balances if (other, metric) == (subject, shown["metric"])}
            assert shown["used"] in counted | {0}, (subject, shown)

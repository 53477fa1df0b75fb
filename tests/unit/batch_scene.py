"""Batches with their surroundings."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import msgspec

from gateway.batch import Batch
from gateway.hot import Asking
from gateway.keeping import Keeping
from gateway.outage import Outage
from ledger import outages
from quota.catalog import Catalog, Limit, Metric, Operation, Plan
from quota.decisions import Decision, decision
from quota.demands import Demand
from quota.errors import CountersUnavailable
from quota.gathering import MAX_BATCH_STEPS, told_of
from quota.journal import decode_about
from quota.protocol import Step
from quota.replies import AccountState, Outcome, Reply, Verdict
from tests.unit.entries import MONTH
from tests.unit.fakes import FakeAdmission, FakeCatalogs, FakeStore, KeptOutages

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
        self.failure: Exception | None = TimeoutError()

    async def decide_in_order(self, steps: Sequence[Step]) -> list[Reply | CountersUnavailable]:
        """`failure` is what the call that fails ends with; without one it is never sent."""
        assert len(steps) <= MAX_BATCH_STEPS
        self.calls.append(list(steps))
        if len(self.calls) != self.fails_at:
            return [self._reply(each) for each in steps]
        if self.failure is None:
            raise CountersUnavailable("the counters do not answer; nothing was charged")
        error = CountersUnavailable("the counters did not answer in time")
        error.__cause__ = self.failure
        return [told_of(each, error) for each in steps]

    def _reply(self, each: Step) -> Reply:
        words = self.words.get(subject_of(each), [])
        outcome = words.pop(0) if words else Outcome.ALLOWED
        verdict = Verdict.EXCEEDS if outcome is Outcome.DENIED else Verdict.FITS
        states = (
            AccountState(verdict, charge.account_key, charge.amount, limit=100, plan_limit=100, window=MONTH)
            for charge in each.charges
        )
        return Reply(outcome, 42, 1, "0", 7 if outcome is Outcome.ALLOWED else None, tuple(states))


def subject_of(each: Step) -> str:
    return each.charges[0].account_key.split(":")[4]


class Scene:
    def __init__(self, newest: Catalog | None = None) -> None:
        self.admission = Admission(FakeCatalogs(CATALOG, newest))
        self.counters = Counters()
        self.kept = KeptOutages()
        self.store = FakeStore({outages.keep: self.kept.keep})
        nowhere: Any = None
        self.keeping = Keeping(self.store, nowhere)  # type: ignore[arg-type]
        asked: Any = SimpleNamespace(catalogs=self.admission.catalogs, now_ms=lambda: 42)
        self.outage = Outage(asked, self.keeping)

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


def charged(scene: Scene) -> Demand:
    (found,) = scene.admission.charged
    return found


def outcomes(results: Sequence[dict[str, Any]]) -> Counter[str]:
    """How the items ended: their status, and the last words of what those that failed were told."""
    return Counter(f"{each['status']} {each.get('detail', '').rpartition('; ')[2]}".strip() for each in results)

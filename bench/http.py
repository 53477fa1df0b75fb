"""What the gateway does in one process: `quotagate up` as a user runs it, and a load client beside it.

The figure to trust is the gateway's CPU a request: on a machine that is busy elsewhere, requests a second are noise.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from urllib.parse import urlsplit

import msgspec
import psutil

from bench.client import Outcome, Plan
from bench.lag import lags_s
from bench.redis_load import work
from bench.scripts import LIMIT, METRIC, SUBJECTS, subject
from quota.journal import Journal, Place
from quota.settings import Settings
from tests.system import ROOT, System

CONNECTIONS = 64
CLIENT_TIMEOUT_S = 120
BEGINNING = Place(0, 0)
SHARDS = Settings().shards


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of request."""

    name: str
    path: str
    with_idempotency_key: bool = False


KINDS = (
    Kind("check", "/v1/check"),
    Kind("consume", "/v1/consume"),
    Kind("consume with Idempotency-Key", "/v1/consume", with_idempotency_key=True),
)


@dataclass(frozen=True, slots=True)
class Run:
    """One load. CPU in microseconds a request; `busy` is the part of one core that the gateway used."""

    outcome: Outcome
    gateway_us: float
    redis_us: float
    client_us: float
    busy: float
    gathered: float
    lags_s: list[float]
    left_entries: int

    @property
    def requests_a_second(self) -> float:
        return self.outcome.requests / self.outcome.seconds

    @property
    def failed(self) -> int:
        return self.outcome.requests - self.outcome.statuses.get("200", 0)


@dataclass(slots=True)
class Result:
    """The rounds of one kind."""

    kind: Kind
    saturated: list[Run] = field(default_factory=list)
    halved: list[Run] = field(default_factory=list)
    rate: float = 0.0

    def of(self, runs: list[Run], attribute: str) -> float:
        return float(median(getattr(run, attribute) for run in runs))


class Bench:
    """A running system, and what is known of it."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._redis = system.redis()
        self._journal = Journal(self._redis)
        self._gateway = _one_gateway(system)
        self._url = urlsplit(system.urls["gateway"])
        self._seed = 0

    def prepare(self) -> None:
        """A catalog, and every subject's account in Redis."""
        catalog = {
            "default_plan": "pro",
            "metrics": {METRIC: {"unit": "call"}},
            "plans": {"pro": {"rank": 0, "limits": {METRIC: {"limit": LIMIT, "period": "month"}}}},
        }
        with self._system.client() as client:
            answer = client.put("/v1/catalog", json=catalog)
            assert answer.status_code == 200, answer.text
        # Many at once, because accounts are brought in by the batch.
        self._client(KINDS[1], seconds=0, connections=CONNECTIONS * 2, once=True)

    def run(self, kind: Kind, seconds: float, rate: float | None = None) -> Run:
        before, cpu_before = work(self._redis), _cpu_s(self._gateway)
        with lags_s(self._system.urls["database"]) as lags:
            outcome = self._client(kind, seconds=seconds, connections=CONNECTIONS, rate=rate)
            done, cpu_s = work(self._redis) - before, _cpu_s(self._gateway) - cpu_before
            left = self._journal.waiting(dict.fromkeys(range(SHARDS), BEGINNING))
            self._system.drained(60)
        a_request = 1e6 / outcome.requests
        return Run(
            outcome,
            cpu_s * a_request,
            done.cpu_us / outcome.requests,
            outcome.cpu_s * a_request,
            cpu_s / outcome.seconds,
            outcome.requests / max(1, done.script_calls),
            lags,
            left,
        )

    def forget_records(self) -> None:
        pipeline = self._redis.pipeline(transaction=False)
        for key in self._redis.scan_iter(match="qg:{*}:i:*", count=1000):
            pipeline.unlink(key)
        pipeline.execute()

    def _client(
        self, kind: Kind, *, seconds: float, connections: int, rate: float | None = None, once: bool = False
    ) -> Outcome:
        self._seed += 1
        plan = Plan(
            host=self._url.hostname or "127.0.0.1",
            port=self._url.port or 80,
            path=kind.path,
            api_key=self._system.admin_key,
            subjects=[subject(place) for place in range(SUBJECTS)],
            metric=METRIC,
            seconds=seconds,
            connections=connections,
            rate=rate,
            with_idempotency_key=kind.with_idempotency_key,
            once=once,
            seed=self._seed,
        )
        done = subprocess.run(
            [sys.executable, "-m", "bench.client"],
            cwd=ROOT,
            input=msgspec.json.encode(plan),
            capture_output=True,
            check=False,
            timeout=CLIENT_TIMEOUT_S,
        )
        assert done.returncode == 0, done.stderr.decode()
        return msgspec.json.decode(done.stdout, type=Outcome)


def _one_gateway(system: System) -> psutil.Process:
    found = system.parts("gateway", "--fd")
    assert len(found) == 1, "one gateway process is measured"
    return found[0]


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    spent: float = times.user + times.system
    return spent


def measure(rounds: int, seconds: float) -> list[Result]:
    """Saturation in interleaved rounds, then the latency at half of it."""
    results = [Result(kind) for kind in KINDS]
    with tempfile.TemporaryDirectory(prefix="quotagate-bench-") as folder:
        Path(folder).chmod(0o711)  # Postgres may run as another user
        system = System(Path(folder) / "data", gateway_processes="1").start()
        try:
            bench = Bench(system)
            bench.prepare()
            bench.run(KINDS[1], min(2.0, seconds))  # warms up
            for _ in range(rounds):
                for result in results:
                    result.saturated.append(bench.run(result.kind, seconds))
                    bench.forget_records()
            for result in results:
                result.rate = result.of(result.saturated, "requests_a_second") / 2
            for _ in range(rounds):
                for result in results:
                    result.halved.append(bench.run(result.kind, seconds, result.rate))
                    bench.forget_records()
        finally:
            began = time.monotonic()
            status = system.stop()
            assert status == 0, f"quotagate up ended with {status} after {time.monotonic() - began:.1f} s"
    return results

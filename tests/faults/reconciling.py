"""Reconciles again and again while a system serves a mix of everything, and keeps what was told."""

import random
import time
from collections.abc import Iterator

from ledger.reconciliations import Reconciliation
from quota.periods import to_rfc3339
from quota.settings import Settings
from tests.load import Log, Request, hammer
from tests.system import System
from workers.context import open_context

SUBJECTS = 50
CLIENTS, PAUSE_S = 16, 0.01


def reconciling(system: System, seconds: float, seed: int) -> tuple[Log, list[Reconciliation]]:
    """The clients' log, and the runs: one after the other, without a pause, as long as requests go on."""
    chances = random.Random(seed)
    end = time.monotonic() + seconds
    urls = system.urls
    held = open_context(Settings(redis_url=urls["redis"], database_url=urls["application_database"]))
    runs: list[Reconciliation] = []

    def requests() -> Iterator[Request]:
        while time.monotonic() < end:
            yield _some_request(chances)

    def reconcile(_log: Log) -> None:
        while time.monotonic() < end:
            runs.append(held.reconcile.run_once())

    log = hammer([urls["gateway"]], system.admin_key, requests(), clients=CLIENTS, meanwhile=reconcile, pause_s=PAUSE_S)
    held.engine.dispose()
    return log, runs


def _some_request(chances: random.Random) -> Request:
    subject = f"calm_{chances.randrange(SUBJECTS)}"
    key = f"k-{chances.randrange(2_000)}" if chances.random() < 0.2 else None
    if chances.random() < 0.02:
        expires_ms = int(time.time() * 1000) + chances.randrange(1_000, 20_000)
        body = {"metric": "units", "amount": 3, "reason": "a gift", "expires_at": to_rfc3339(expires_ms)}
        return Request(body, path=f"/v1/subjects/{subject}/grants")
    kind = chances.randrange(10)
    if kind < 5:
        return Request({"subject": subject, "metric": "units", "amount": chances.randrange(1, 5)}, key=key)
    if kind < 7:
        return Request({"subject": subject, "operation": "look"})
    if kind < 9:
        body = {"subject": subject, "metric": "calls", "amount": 2, "ttl_s": chances.randrange(1, 4)}
        return Request(body, path="/v1/reservations")
    return Request({"subject": subject, "metric": "calls", "amount": 1})


def alarms(runs: list[Reconciliation]) -> list[object]:
    """What was told of a system that is well."""
    return [each for run in runs for each in (*run.drifts, *([run.refusal] if run.refusal else []))]

"""What people on call and machines look at: reconciliation, health, metrics."""

import asyncio
from typing import Any

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from sqlalchemy import Connection, text

from gateway import metrics
from ledger import reconciliations
from ledger.store import ALL_TENANTS, Store
from quota.counters import Counters
from quota.errors import NotFound, QuotagateError

READY_TIMEOUT_S = 2.0


@get("/v1/ops/reconciliation", opt={"scopes": ("ops",)}, summary="The last reconciliation")
async def read_reconciliation(store: NamedDependency[Store]) -> dict[str, Any]:
    run = await store.run(ALL_TENANTS, reconciliations.last)
    if run is None:
        raise NotFound("nothing was reconciled yet; the worker does so every minute, `quotagate reconcile` at once")
    return run.to_document()


@get("/health/live", opt={"scopes": ()}, summary="Whether this process runs")
async def live() -> dict[str, str]:
    return {"status": "live"}


@get("/health/ready", opt={"scopes": ()}, summary="Whether this process can decide, and if not, which part fails")
async def ready(counters: NamedDependency[Counters], store: NamedDependency[Store]) -> Response[bytes]:
    states = await asyncio.gather(_state(counters.ping()), _state(store.run(ALL_TENANTS, _select_one)))
    parts = dict(zip(("counters", "ledger"), states, strict=True))
    is_ready = all(state == "ok" for state in states)
    body = msgspec.json.encode({"status": "ready" if is_ready else "not ready", "parts": parts})
    return Response(body, status_code=200 if is_ready else 503, media_type="application/json")


def _select_one(connection: Connection) -> None:
    connection.execute(text("SELECT 1"))


async def _state(check: Any) -> str:
    # Not a timeout around it: one that hangs may also hang when it is cancelled.
    task = asyncio.ensure_future(check)
    done, _ = await asyncio.wait({task}, timeout=READY_TIMEOUT_S)
    if not done:
        task.cancel()
        return f"no answer within {READY_TIMEOUT_S:.0f} s"
    error = task.exception()
    if error is not None and not isinstance(error, QuotagateError):
        raise error
    return "ok" if error is None else str(error)


@get("/metrics", opt={"scopes": ()}, summary="Prometheus text")
async def exposition() -> Response[bytes]:
    content_type, body = metrics.exposition()
    return Response(body, headers={"content-type": content_type}, media_type="text/plain")

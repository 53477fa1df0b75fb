"""POST /v1/ops/jobs and GET /v1/ops/jobs/{id}: what workers are asked to do now, and how far they are with it.

The gateway writes a row and nothing more. Scope ops is one view of the whole process: a job counts everything, but it
names the subjects of the key's own tenant alone, and so is seen by that tenant's keys alone.
"""

import time
from typing import Any

import msgspec
import structlog
from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath

from gateway.bodies import Identifier, Instant, decoded
from gateway.resources import StrictRequest, asked_by, caller, ident_of
from ledger import jobs
from ledger.store import Store
from quota.catalog import parse_json, to_document
from quota.errors import CatalogInvalid, InvalidRequest, NotFound
from quota.identifiers import checked_identifier
from quota.periods import from_rfc3339

log = structlog.get_logger()


class _Job(msgspec.Struct, forbid_unknown_fields=True, frozen=True, tag_field="job", kw_only=True):
    """`job` says which one it is."""


class DrainJob(_Job, frozen=True, tag="drain"):
    """Moves what waits in the journals into the ledger."""


class ReconcileJob(_Job, frozen=True, tag="reconcile"):
    """Compares every counter with the ledger."""


class ResetJob(_Job, frozen=True, tag="reset"):
    """Goes through the periods that are over."""


class RebuildJob(_Job, frozen=True, tag="rebuild"):
    """Brings in again what Redis has not got: everybody's, or one subject's."""

    subject: Identifier | None = None


class VerifyJob(_Job, frozen=True, tag="verify"):
    """Recomputes every balance from entries and compares: everybody's, or one subject's."""

    subject: Identifier | None = None


class ReplayJob(_Job, frozen=True, tag="replay"):
    """Adds up the balances at an instant from entries, now if it is left out: everybody's, or one subject's."""

    subject: Identifier | None = None
    at: Instant | None = None


class SimulateJob(_Job, frozen=True, tag="simulate"):
    """Runs the tenant's history from one instant to another against another catalog."""

    catalog: msgspec.Raw
    from_: Instant = msgspec.field(name="from")
    to: Instant


AnyJob = DrainJob | ReconcileJob | ResetJob | RebuildJob | VerifyJob | ReplayJob | SimulateJob


@post("/v1/ops/jobs", opt={"scopes": ("ops",)}, status_code=202, summary="Run a job now")
async def start_job(request: StrictRequest, store: NamedDependency[Store]) -> Response[dict[str, Any]]:
    principal = caller(request)
    wanted: AnyJob = decoded(AnyJob, await request.body())  # type: ignore[arg-type]
    name, arguments = str(wanted.__struct_config__.tag), arguments_of(wanted, principal.tenant, _now_ms())
    job = await store.run(principal.tenant, jobs.add, principal.tenant, name, arguments, asked_by(request))
    log.info("a job was asked for", job=name, id=job.id, tenant=principal.tenant, request_id=ident_of(request))
    return Response(job.to_document(), status_code=202, headers={"location": f"/v1/ops/jobs/{job.id}"})


@get("/v1/ops/jobs/{id:str}", opt={"scopes": ("ops",)}, summary="How far a job is, and what came of it")
async def read_job(request: StrictRequest, store: NamedDependency[Store], id: FromPath[str]) -> dict[str, Any]:
    tenant = caller(request).tenant
    job = await store.run(tenant, jobs.read, id)
    if job is None or job.tenant != tenant:
        raise NotFound("there is no such job")
    return job.to_document()


def arguments_of(wanted: AnyJob, tenant: str, now_ms: int) -> dict[str, Any]:
    """What the worker is told. InvalidRequest, CatalogInvalid. Pure."""
    arguments: dict[str, Any] = {"names_of": tenant}
    subject = getattr(wanted, "subject", None)
    if subject is not None:
        arguments |= {"tenant": tenant, "subject": checked_identifier(subject, "subject")}
    if isinstance(wanted, ReplayJob):
        arguments["at_ms"] = now_ms if wanted.at is None else _instant(wanted.at, "at")
    if isinstance(wanted, SimulateJob):
        stretch = {"from_ms": _instant(wanted.from_, "from"), "to_ms": _instant(wanted.to, "to")}
        if stretch["from_ms"] >= stretch["to_ms"]:
            raise InvalidRequest("from must lie before to", field="from")
        arguments |= {"tenant": tenant, "catalog": _catalog(bytes(wanted.catalog)), **stretch}
    return arguments


def _catalog(text: bytes) -> dict[str, Any]:
    try:
        return to_document(parse_json(text))
    except CatalogInvalid as error:
        raise CatalogInvalid([f"catalog: {each}" for each in error.errors]) from error


def _instant(text: str, field: str) -> int:
    try:
        return from_rfc3339(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"{field}: {error}", field=field) from error


def _now_ms() -> int:
    # Only a default for people who look back; what is counted goes by Redis's clock.
    return time.time_ns() // 1_000_000

"""What is held and given back: POST /v1/release, and PUT /v1/subjects/{subject}/levels/{metric} for operators."""

from typing import Any

import structlog
from litestar import put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import UNSET

from gateway import answers
from gateway.admission import Admission
from gateway.answers import Answer, metric_document
from gateway.bodies import LevelRequest, ReleaseRequest, decoded, fingerprint
from gateway.hot import Asking
from gateway.resources import StrictRequest, asked_by, caller, from_path, ident_of
from ledger.acts import By
from quota.decisions import decision
from quota.demands import Asked, Demand
from quota.errors import BelowZero, InvalidRequest, TooMany, UnknownMetric
from quota.keys import AccountName
from quota.protocol import Mode
from quota.replies import Outcome

log = structlog.get_logger()


class Levels:
    """The hot route, bound to what decides."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission

    async def release(self, asking: Asking) -> Answer:
        request = decoded(ReleaseRequest, asking.body)
        await _require_level(self._admission, asking.tenant, request.metric)
        demand = Demand(
            asking.tenant,
            request.subject,
            Mode.GIVE if request.amount else Mode.CHECK,
            asking.request_id,
            (Asked(request.metric, request.amount),),
            metadata=None if request.metadata is UNSET else request.metadata,
            attempt=asking.attempt,
            idempotency_key=asking.idempotency_key,
            route="release",
            fingerprint="" if asking.idempotency_key is None else fingerprint(request),
        )
        reply, _ = await self._admission.ask(demand)
        decided = decision(demand, self._admission.shard_of(asking.tenant, request.subject), reply)
        if reply.outcome is Outcome.BELOW_ZERO:
            used = decided.charges[0].used
            raise BelowZero(
                f"{request.subject} has {used} of {request.metric}: {request.amount} cannot be given back",
                subject=request.subject,
                metric=request.metric,
                used=used,
            )
        return answers.released(decided)


async def _require_level(admission: Admission, tenant: str, metric: str) -> None:
    _, catalog = await admission.catalogs.get(tenant)
    if metric not in catalog.metrics or catalog.metrics[metric].kind != "level":
        _, catalog = await admission.catalogs.refresh(tenant)
    if metric not in catalog.metrics:
        raise UnknownMetric(f"the catalog has no metric {metric}", metric=metric)
    if catalog.metrics[metric].kind != "level":
        raise InvalidRequest(
            f"{metric} is counted by period and not held: give a charge back with /v1/refunds", field="metric"
        )


@put(
    "/v1/subjects/{subject:str}/levels/{metric:str}",
    opt={"scopes": ("admin",)},
    summary="Say what a level is, whatever it was counted to be",
)
async def write_level(
    request: StrictRequest,
    admission: NamedDependency[Admission],
    subject: FromPath[str],
    metric: FromPath[str],
    data: JSONBody[LevelRequest],
) -> dict[str, Any]:
    tenant, subject, metric = caller(request).tenant, from_path(subject, "subject"), from_path(metric, "metric")
    by = asked_by(request, data.reason)
    return await set_level(admission, AccountName(tenant, subject, metric), data, by=by, request_id=ident_of(request))


async def set_level(
    admission: Admission, account: AccountName, data: LevelRequest, *, by: By, request_id: str
) -> dict[str, Any]:
    """Sets the level; where the metric stands then. The drain notes the act, with the entry. UnknownMetric,
    InvalidRequest, TooMany."""
    tenant, subject, metric = account
    await _require_level(admission, tenant, metric)
    demand = Demand(
        tenant,
        subject,
        Mode.SET,
        request_id,
        (Asked(metric, data.used),),
        reason=data.reason,
        actor=by.actor,
        origin=by.origin,
    )
    decided, _ = await admission.decide(demand)
    if not decided.allowed:
        raise TooMany(f"{subject} holds more of {metric} than can be counted together with that", metric=metric)
    log.info("level set", tenant=tenant, subject=subject, metric=metric, used=data.used, request_id=request_id)
    return {"subject": subject, **metric_document(decided.charges[0])}

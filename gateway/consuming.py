"""POST /v1/consume and /v1/check."""

from msgspec import UNSET

from gateway import answers, metrics
from gateway.admission import Admission
from gateway.answers import Answer
from gateway.bodies import ConsumeRequest, decoded, fingerprint
from gateway.hot import Asking
from gateway.outage import Outage
from quota.demands import Asked, Demand
from quota.errors import CountersUnavailable
from quota.protocol import Mode


def demand_of(asking: Asking, request: ConsumeRequest, mode: Mode, key: str | None, route: str) -> Demand:
    """What a consume, or an item of a batch, asks for. Nothing of a metric is only looked at."""
    by_metric = request.metric is not UNSET
    amount = 1 if request.amount is UNSET else request.amount
    return Demand(
        asking.tenant,
        request.subject,
        Mode.CHECK if by_metric and amount == 0 else mode,
        asking.request_id,
        asked=(Asked(request.metric, amount),) if request.metric is not UNSET else (),
        operation=None if request.operation is UNSET else request.operation,
        quantity=1 if request.quantity is UNSET else request.quantity,
        metadata=None if request.metadata is UNSET else request.metadata,
        attempt=asking.attempt,
        idempotency_key=key,
        route=route,
        fingerprint="" if key is None else fingerprint(request),
    )


class Consuming:
    """The two routes that ask whether something may be used."""

    def __init__(self, admission: Admission, outage: Outage) -> None:
        self._admission = admission
        self._outage = outage

    async def consume(self, asking: Asking) -> Answer:
        request = decoded(ConsumeRequest, asking.body)
        demand = demand_of(asking, request, Mode.CONSUME, asking.idempotency_key, "consume")
        try:
            decision, catalog = await self._admission.decide(demand)
        except CountersUnavailable as error:
            charges = await self._outage.let_through(demand, error)
            metrics.decisions_of(asking.route, "degraded").inc()
            return answers.degraded(demand.subject, charges, demand.operation)
        metrics.decisions_of(asking.route, "allowed" if decision.allowed else "denied").inc()
        return answers.consumed(decision, catalog, asking.path)

    async def check(self, asking: Asking) -> Answer:
        request = decoded(ConsumeRequest, asking.body)
        demand = demand_of(asking, request, Mode.CHECK, None, "check")
        decision, catalog = await self._admission.decide(demand)
        metrics.decisions_of(asking.route, "allowed" if decision.allowed else "denied").inc()
        return answers.checked(decision, catalog)

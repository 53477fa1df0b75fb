"""POST /v1/reservations, and their commit and release."""

from dataclasses import replace

from msgspec import UNSET

from gateway import answers, metrics
from gateway.admission import Admission
from gateway.answers import Answer
from gateway.bodies import CommitRequest, NothingRequest, ReservationRequest, decoded, fingerprint
from gateway.hot import Asking
from gateway.lookups import Lookups
from quota.decisions import Decision, decision
from quota.demands import Asked, Demand
from quota.errors import ReservationNotFound, ReservationSettled, TooMany
from quota.handles import Reservation
from quota.protocol import Mode
from quota.replies import Outcome, Reply

MS = 1000


class Reservations:
    """Units set aside, and what becomes of them."""

    def __init__(self, admission: Admission, lookups: Lookups) -> None:
        self._admission = admission
        self._lookups = lookups

    async def hold(self, asking: Asking) -> Answer:
        request = decoded(ReservationRequest, asking.body)
        ttl_ms = request.ttl_s * MS
        demand = Demand(
            asking.tenant,
            request.subject,
            Mode.HOLD,
            asking.request_id,
            (Asked(request.metric, request.amount, str(ttl_ms)),),
            metadata=None if request.metadata is UNSET else request.metadata,
            attempt=asking.attempt,
            idempotency_key=asking.idempotency_key,
            route="reservations",
            fingerprint="" if asking.idempotency_key is None else fingerprint(request),
        )
        reply, catalog = await self._admission.ask(demand)
        if reply.outcome is Outcome.CROWDED:
            raise TooMany(
                f"{request.subject} has as many open reservations of {request.metric} as one account may have; "
                "commit or release some",
                subject=request.subject,
                metric=request.metric,
            )
        decided = self._decision(demand, reply)
        metrics.decisions_of(asking.route, "allowed" if decided.allowed else "denied").inc()
        if not decided.allowed:
            return answers.consumed(decided, catalog, asking.path)
        assert reply.first_n is not None, "a hold that was made has an entry"
        name = Reservation(reply.epoch, reply.first_n, request.subject, request.metric)
        return answers.reserved(decided, str(name), decided.now_ms + ttl_ms)

    async def commit(self, asking: Asking) -> Answer:
        name = Reservation.parsed(asking.name)
        request = decoded(CommitRequest, asking.body or b"{}")
        amount = None if request.amount is UNSET else request.amount
        demand = self._settling(asking, name, Mode.COMMIT, amount, fingerprint(request, asking.name))
        if request.metadata is not UNSET:
            demand = replace(demand, metadata=request.metadata)
        reply, catalog = await self._admission.ask(demand)
        if reply.outcome is Outcome.NOT_HELD:
            raise ReservationSettled(f"this reservation {_WAS[await self._end_of(asking.tenant, name)]}")
        decided = self._decision(demand, reply)
        if not decided.allowed:
            metrics.decisions_of(asking.route, "denied").inc()
            decided = await self._with_hold(asking.tenant, name, decided)
        return answers.consumed(decided, catalog, asking.path)

    async def release(self, asking: Asking) -> Answer:
        name = Reservation.parsed(asking.name)
        request = decoded(NothingRequest, asking.body or b"{}")
        demand = self._settling(asking, name, Mode.RELEASE, None, fingerprint(request, asking.name))
        reply, _ = await self._admission.ask(demand)
        if reply.outcome is Outcome.NOT_HELD and await self._end_of(asking.tenant, name) == "commit":
            raise ReservationSettled(f"this reservation {_WAS['commit']}: refund its receipt to give the units back")
        return answers.released(self._decision(demand, reply), asking.name)

    def _settling(self, asking: Asking, name: Reservation, mode: Mode, amount: int | None, body: str) -> Demand:
        return Demand(
            asking.tenant,
            name.subject,
            mode,
            asking.request_id,
            (Asked(name.metric, amount, name.place),),
            attempt=asking.attempt,
            idempotency_key=asking.idempotency_key,
            route=f"reservations/{mode}",
            fingerprint=body,
        )

    def _decision(self, demand: Demand, reply: Reply) -> Decision:
        return decision(demand, self._admission.shard_of(demand.tenant, demand.subject), reply)

    async def _with_hold(self, tenant: str, name: Reservation, decided: Decision) -> Decision:
        """A denied commit needs only what is more than was held."""
        (charge,) = decided.charges
        shard = self._admission.shard_of(tenant, name.subject)
        held = await self._lookups.held(tenant, shard, name, charge.period.start_ms)
        return replace(decided, charges=(replace(charge, of_hold=held),))

    async def _end_of(self, tenant: str, name: Reservation) -> str:
        """The kind of the entry that settled a reservation which is not open any more."""
        shard = self._admission.shard_of(tenant, name.subject)
        found = await self._lookups.end_of_hold(tenant, shard, name)
        if found is None:
            raise ReservationNotFound("there is no such reservation")
        return found


_WAS = {"commit": "was committed", "release": "was released", "expire": "has expired; nothing was charged"}

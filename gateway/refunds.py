"""POST /v1/refunds: gives back what a receipt names, to the very buckets and period that it came from."""

from collections.abc import Sequence
from dataclasses import replace

from msgspec import UNSET

from gateway import answers, metrics
from gateway.admission import Admission
from gateway.answers import Answer
from gateway.bodies import RefundRequest, decoded, fingerprint
from gateway.hot import Asking
from gateway.lookups import REFUNDS, Lookups
from ledger.earlier_uses import GivenBack
from ledger.receipts import Taken
from quota.decisions import decision
from quota.demands import Asked, Demand
from quota.errors import AlreadyRefunded, BelowZero, IdempotencyKeyReused, InvalidRequest, NotFound
from quota.formats import detail_of_refund
from quota.handles import Receipt
from quota.protocol import Mode
from quota.replies import Outcome


class Refunds:
    """The route, bound to what decides and what remembers."""

    def __init__(self, admission: Admission, lookups: Lookups) -> None:
        self._admission = admission
        self._lookups = lookups

    async def refund(self, asking: Asking) -> Answer:
        request = decoded(RefundRequest, asking.body)
        receipt = Receipt.parsed(request.receipt)
        epoch, taken = await self._lookups.taken(asking.tenant, receipt)
        subject, chosen = taken[0].account.subject, _chosen(request, taken)
        if asking.idempotency_key is not None:
            first = await self._lookups.first_refund(asking.tenant, receipt.shard, subject, asking.idempotency_key)
            if first:
                return await self._again(asking, request, chosen, first)
        demand = Demand(
            asking.tenant,
            subject,
            Mode.REFUND,
            asking.request_id,
            asked_of(chosen, epoch, None if request.amount is UNSET else request.amount),
            metadata=None if request.metadata is UNSET else request.metadata,
            attempt=asking.attempt,
            idempotency_key=asking.idempotency_key,
            route=REFUNDS,
            fingerprint="" if asking.idempotency_key is None else fingerprint(request),
            reason=None if request.reason is UNSET else request.reason,
            receipt=(receipt.epoch, receipt.first_n),
        )
        reply, _ = await self._admission.ask(demand)
        match reply.outcome:
            case Outcome.ALREADY_REFUNDED:
                raise AlreadyRefunded("all that this receipt names was given back before", receipt=request.receipt)
            case Outcome.BELOW_ZERO:
                raise BelowZero(
                    "less than that is in use now, or a person put units back in its period, which is over: "
                    "these units were given back before, or nobody can tell; grant them if they were not",
                    receipt=request.receipt,
                )
        metrics.decisions_of(asking.route, "refunded").inc()
        return answers.refunded(decision(demand, receipt.shard, reply), request.receipt)

    async def _again(
        self, asking: Asking, request: RefundRequest, chosen: list[Taken], first: Sequence[GivenBack]
    ) -> Answer:
        """The first answer from the ledger, because Redis has lost it: with what was given back then, and the balances
        as they are now."""
        given = {each.place: each for each in first}
        most = max(each.amount for each in first)
        if given.keys() - {each.place for each in chosen} or (request.amount is not UNSET and most > request.amount):
            raise IdempotencyKeyReused("this idempotency key was used for another refund; use a new key for a new one")
        subject = chosen[0].account.subject
        looks = tuple(Asked(each.account.metric, 0) for each in chosen)
        demand = Demand(asking.tenant, subject, Mode.CHECK, asking.request_id, looks)
        decided, _ = await self._admission.decide(demand)
        charges = []
        for each, charge in zip(chosen, decided.charges, strict=True):
            back = given.get(each.place, GivenBack(each.place, 0, each.refunded))
            charges.append(replace(charge, amount=back.amount, refunded=back.total))
        metrics.decisions_of(asking.route, "refunded").inc()
        return answers.refunded(replace(decided, charges=tuple(charges), replayed=True), request.receipt)


def _chosen(request: RefundRequest, taken: list[Taken]) -> list[Taken]:
    if request.metric is not UNSET:
        taken = [each for each in taken if each.account.metric == request.metric]
        if not taken:
            raise NotFound(f"this receipt charges no {request.metric}", metric=request.metric)
    if request.amount is not UNSET and len(taken) > 1:
        raise InvalidRequest("this receipt charges several metrics: say of which with metric", field="metric")
    return taken


def asked_of(taken: list[Taken], epoch: int, amount: int | None) -> tuple[Asked, ...]:
    """Of each charge that is given back: how much (None: all), and what the script must know of it. `epoch` is the one
    in which that was read."""
    return tuple(
        Asked(
            each.account.metric,
            each.amount if amount is None else min(amount, each.amount),
            detail_of_refund(
                str(each.place),
                each.amount,
                refunded=each.refunded,
                epoch=epoch,
                parts=each.parts,
                caps=each.caps,
                sealed=each.late or each.sealed,
            ),
        )
        for each in taken
    )

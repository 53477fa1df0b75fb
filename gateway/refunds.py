"""POST /v1/refunds: gives back what a receipt names, to the very buckets and period that it came from."""

from msgspec import UNSET

from gateway import answers
from gateway.admission import Admission
from gateway.answers import Answer
from gateway.bodies import RefundRequest, decoded, fingerprint
from gateway.hot import Asking
from gateway.lookups import Lookups
from ledger.receipts import Taken
from quota.decisions import decision
from quota.demands import Asked, Demand
from quota.errors import AlreadyRefunded, BelowZero, InvalidRequest, NotFound
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
        demand = Demand(
            asking.tenant,
            taken[0].account.subject,
            Mode.REFUND,
            asking.request_id,
            asked_of(_chosen(request, taken), epoch, None if request.amount is UNSET else request.amount),
            metadata=None if request.metadata is UNSET else request.metadata,
            attempt=asking.attempt,
            idempotency_key=asking.idempotency_key,
            route="refunds",
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
                    "less than that is in use now: the units were given back before", receipt=request.receipt
                )
        return answers.refunded(decision(demand, receipt.shard, reply), request.receipt)


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
            f"{each.place} {each.amount} {each.refunded} {epoch} {each.parts} {each.caps} "
            + (each.late or each.sealed or ""),
        )
        for each in taken
    )

"""What happens to a consume while the counters are away: by its metrics' `on_outage` it is refused, or let through and
charged later.

What is let through is kept before the caller hears of it (gateway/keeping.py), and charged once the counters are back
(gateway/settling.py).
"""

from uuid import uuid4

from gateway.admission import Admission
from gateway.keeping import Keeping
from ledger.outages import LetThrough
from quota.catalog import Catalog
from quota.demands import Asked, Demand
from quota.errors import CountersDamaged, CountersUnavailable, QuotagateError


class Outage:
    """One a process."""

    def __init__(self, admission: Admission, keeping: Keeping) -> None:
        self._admission = admission
        self._keeping = keeping

    async def let_through(self, demand: Demand, error: CountersUnavailable) -> tuple[Asked, ...]:
        """What a consume that the counters did not decide will be charged, once that is kept; raises the error where a
        metric is not to be used without being counted."""
        catalog = self._admission.catalogs.known(demand.tenant)
        charges = None if catalog is None else _charges(demand, catalog)
        if (
            charges is None
            or catalog is None
            or isinstance(error, CountersDamaged)
            or any(catalog.metrics[each.metric].on_outage != "allow" for each in charges)
        ):
            try:
                raise error
            finally:
                # Its traceback holds this frame: what they make of each other, ten thousand times over, the collector
                # would take apart in one pause of 80 ms, while everybody is to be refused at once.
                del error
        if any(each.amount for each in charges):
            try:
                await self._keeping.keep(_let_through(demand, charges, self._admission.now_ms()))
            except CountersUnavailable as unkept:
                raise CountersUnavailable(f"{error}; and {unkept}") from unkept
        return charges


def _charges(demand: Demand, catalog: Catalog) -> tuple[Asked, ...] | None:
    try:
        return demand.charges(catalog)
    except QuotagateError:
        return None  # it cannot be known now what that is


def _let_through(demand: Demand, charges: tuple[Asked, ...], at_ms: int) -> LetThrough:
    return LetThrough(
        id=str(uuid4()),
        tenant=demand.tenant,
        subject=demand.subject,
        at_ms=at_ms,
        charges={each.metric: each.amount or 0 for each in charges},
        operation=demand.operation,
        metadata=None if demand.metadata is None else dict(demand.metadata),
        request_id=demand.request_id,
        idempotency_key=demand.idempotency_key,
        route=demand.route,
        fingerprint=demand.fingerprint,
    )

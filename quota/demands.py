"""Demands: what a caller asks, and the step that it becomes. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from quota import keys
from quota.catalog import Catalog
from quota.entitlement import charges_of
from quota.errors import InvalidRequest, UnknownMetric
from quota.identifiers import MAX_AMOUNT
from quota.journal import About, encode_about
from quota.keys import AccountName
from quota.protocol import Charge, Mode, Step

MAX_METRICS_TOGETHER = 100
"""All of them are charged in one script, during which Redis serves nobody else."""


_OF_WHAT_WAS_TAKEN = frozenset((Mode.COMMIT, Mode.RELEASE, Mode.REFUND))
"""What was taken or set aside can be settled and given back when the catalog has lost its metric since."""


@dataclass(frozen=True, slots=True)
class Asked:
    """An amount of one metric; None is all that was held. `detail` is what the mode needs besides."""

    metric: str
    amount: int | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a caller asks: amounts of metrics, or an operation that many times; all of it or none.

    An amount of 0 charges nothing and only looks. `fingerprint` stands for the body that an idempotency key came with,
    `route` for the key's scope. `attempt` names one try of one request, where the caller's own id may name several.
    `receipt` is the (epoch, first_n) of what a refund gives back. `together` are demands that are made as one.
    """

    tenant: str
    subject: str
    mode: Mode
    request_id: str
    asked: tuple[Asked, ...] = ()
    operation: str | None = None
    quantity: int = 1
    metadata: Mapping[str, str | int | float] | None = None
    attempt: str | None = None
    idempotency_key: str | None = None
    route: str | None = None
    fingerprint: str = ""
    reason: str | None = None
    actor: str | None = None
    origin: str | None = None
    at_ms: int | None = None
    receipt: tuple[int, int] | None = None
    together: tuple["Demand", ...] = ()

    def charges(self, catalog: Catalog) -> tuple[Asked, ...]:
        """What it charges; nothing for a free operation. UnknownMetric, UnknownOperation, InvalidRequest."""
        if self.together:
            return _added_up([each.charges(catalog) for each in self.together])
        if self.operation is not None and not self.asked:
            costs = charges_of(catalog, self.operation, self.quantity)
            return tuple(Asked(metric, amount) for metric, amount in costs.items())
        for each in self.asked:
            if each.metric not in catalog.metrics and self.mode not in _OF_WHAT_WAS_TAKEN:
                raise UnknownMetric(f"the catalog has no metric {each.metric}", metric=each.metric)
        return self.asked


def _added_up(charges: Sequence[Sequence[Asked]]) -> tuple[Asked, ...]:
    amounts: dict[str, int] = {}
    for each in chain.from_iterable(charges):
        amounts[each.metric] = amounts.get(each.metric, 0) + (each.amount or 0)
    if max(amounts.values(), default=0) > MAX_AMOUNT:
        raise InvalidRequest(f"together the items ask for more than {MAX_AMOUNT}", field="items")
    if len(amounts) > MAX_METRICS_TOGETHER:
        raise InvalidRequest(f"at once {MAX_METRICS_TOGETHER} metrics can be charged at most", field="items")
    return tuple(Asked(metric, amount) for metric, amount in amounts.items())


def step(demand: Demand, charges: tuple[Asked, ...], shard: int, catalog_version: int) -> Step:
    """The step for one shard."""
    tenant, subject = demand.tenant, demand.subject
    record_key = refunds_key = None
    if demand.mode is not Mode.CHECK and demand.idempotency_key is not None:
        assert demand.route is not None, "an idempotency key has a route"
        assert demand.fingerprint, "the script finds a record by the fingerprint that comes with it"
        record_key = keys.record(shard, tenant, subject, demand.route, demand.idempotency_key)
    if demand.receipt is not None:
        refunds_key = keys.refunds(shard, *demand.receipt)
    return Step(
        shard,
        demand.mode,
        keys.catalog_field(tenant),
        catalog_version,
        tuple(
            Charge(AccountName(tenant, subject, each.metric).key(shard), each.amount, each.detail) for each in charges
        ),
        b"" if demand.mode is Mode.CHECK else _about(demand),
        record_key,
        demand.fingerprint if record_key else "",
        refunds_key,
    )


def _about(demand: Demand) -> bytes:
    return encode_about(
        About(
            request_id=demand.request_id,
            attempt=demand.attempt,
            idempotency_key=demand.idempotency_key,
            route=demand.route if demand.idempotency_key is not None else None,
            operation=demand.operation,
            reason=demand.reason,
            actor=demand.actor,
            origin=demand.origin,
            at_ms=demand.at_ms,
            metadata=None if demand.metadata is None else dict(demand.metadata),
        )
    )

"""Decisions: what came of a request, in the words that callers get. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from quota.catalog import Catalog
from quota.entitlement import charges_of, warning_level
from quota.errors import UnknownMetric
from quota.periods import Period
from quota.protocol import AccountState, Outcome, Reply, Verdict


@dataclass(frozen=True, slots=True)
class Demand:
    """What a caller asks: `amount` of a metric, or an operation that many times; all of it or none.

    An amount of 0 charges nothing and only looks. `fingerprint` stands for the body that an idempotency key came with.
    """

    tenant: str
    subject: str
    consumes: bool
    request_id: str
    amount: int
    metric: str | None = None
    operation: str | None = None
    metadata: Mapping[str, str | int | float] | None = None
    idempotency_key: str | None = None
    fingerprint: str = ""

    def amounts(self, catalog: Catalog) -> dict[str, int]:
        """What it charges, by metric; nothing for a free operation. UnknownMetric, UnknownOperation, InvalidRequest."""
        if self.operation is not None:
            return charges_of(catalog, self.operation, self.amount)
        assert self.metric is not None, "a demand names a metric or an operation"
        if self.metric not in catalog.metrics:
            raise UnknownMetric(f"the catalog has no metric {self.metric}", metric=self.metric)
        return {self.metric: self.amount}


@dataclass(frozen=True, slots=True)
class Charged:
    """One metric of a decision, as it is after it. `limit` None is unlimited."""

    metric: str
    amount: int
    fits: bool
    plan: str | None
    limit: int | None
    used: int
    held: int
    enforcement: str
    period: Period
    warning: int | None

    @property
    def remaining(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.used - self.held)

    @property
    def overage(self) -> int:
        """What a soft limit let through above the limit."""
        return 0 if self.limit is None else max(0, self.used - self.limit)


@dataclass(frozen=True, slots=True)
class Decision:
    """`receipt` names the entries; None where nothing was charged."""

    allowed: bool
    subject: str
    charges: tuple[Charged, ...]
    now_ms: int
    receipt: str | None = None
    replayed: bool = False
    operation: str | None = None

    @property
    def binding(self) -> Charged:
        """The charge that people are told of: the first that did not fit, else the first."""
        return next((charge for charge in self.charges if not charge.fits), self.charges[0])

    @property
    def lacks_plan(self) -> bool:
        """Whether it was denied because the subject is on no plan at all."""
        return not self.allowed and all(charge.plan is None for charge in self.charges)


def receipt_of(shard: int, epoch: int, first_n: int, count: int) -> str:
    """Names neighbouring entries of one journal."""
    return f"{shard}.{epoch}-{first_n}.{count}"


def _charged(state: AccountState) -> Charged:
    return Charged(
        state.metric,
        state.amount,
        state.verdict is Verdict.FITS,
        state.terms.plan,
        state.limit,
        state.used,
        state.held,
        state.enforcement,
        state.period,
        warning_level(state.used, state.limit, state.terms.warn_at_pct),
    )


def decision(demand: Demand, shard: int, reply: Reply) -> Decision:
    """The decision that an `allowed` or `denied` reply stands for."""
    charges = tuple(map(_charged, reply.accounts))
    receipt = None if reply.first_n is None else receipt_of(shard, reply.epoch, reply.first_n, len(charges))
    return Decision(
        reply.outcome is Outcome.ALLOWED,
        demand.subject,
        charges,
        reply.now_ms,
        receipt,
        reply.replayed,
        demand.operation,
    )

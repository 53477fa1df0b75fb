"""One entry, and the catalog of its day: what the plan allowed when it was made, and what it allows now."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from ledger import catalogs, subscriptions
from ledger.catalogs import Version
from ledger.instants import from_timestamp
from ledger.reports import SHOWN
from ledger.tables import entries
from quota.catalog import Catalog, Limit
from quota.entitlement import plan_in_force
from quota.errors import NotFound


@dataclass(frozen=True, slots=True)
class Terms:
    """What a version of the catalog says of a metric on a plan. `plan` None: none was in force; `limit` None: the
    plan, or the version's catalog, does not name the metric."""

    version: Version | None
    plan: str | None
    limit: Limit | None


@dataclass(frozen=True, slots=True)
class Explained:
    """`row` is the entry, with its tenant. Add-ons, grants and overrides came on top of what `then` says."""

    row: Any
    then: Terms
    today: Terms


_shown = select(*SHOWN, entries.c.tenant, entries.c.period_end, entries.c.operation, entries.c.actor, entries.c.is_late)


MOST_OF_A_NAME = 10


def explained(connection: Connection, shard: int, epoch: int, n: int, now_ms: int) -> list[Explained]:
    """The entry of this name, in the scope of every tenant; where Redis went back and gave the name out again, all of
    them by their instants. NotFound."""
    query = _shown.where(entries.c.shard == shard, entries.c.epoch == epoch, entries.c.n == n)
    rows = connection.execute(query.order_by(entries.c.occurred_at).limit(MOST_OF_A_NAME)).all()
    if not rows:
        raise NotFound(
            f"the ledger has no entry {shard}.{epoch}-{n}: it may wait in the journal still, or be of an archived "
            "month (`quotagate ledger export --archive DIR` reads those)"
        )
    return [_explained(connection, row, now_ms) for row in rows]


def _explained(connection: Connection, row: Any, now_ms: int) -> Explained:
    version, catalog = _held(connection, row.tenant, from_timestamp(row.occurred_at))
    then = Terms(version, row.plan, _limit(catalog, row.plan, row.metric))
    version, catalog = _held(connection, row.tenant, now_ms)
    subscription = subscriptions.of_subject(connection, row.tenant, row.subject)
    plan = plan_in_force(catalog, None if subscription is None else subscription.at(now_ms))
    return Explained(row, then, Terms(version, plan, _limit(catalog, plan, row.metric)))


def _held(connection: Connection, tenant: str, at_ms: int) -> tuple[Version | None, Catalog]:
    try:
        return catalogs.kept(connection, tenant, at_ms=at_ms)
    except NotFound:
        return None, Catalog()


def _limit(catalog: Catalog, plan: str | None, metric: str) -> Limit | None:
    return catalog.plans[plan].limits.get(metric) if plan in catalog.plans else None

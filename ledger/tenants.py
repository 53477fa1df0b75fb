"""Tenants: whose keys, catalogs and subjects there are."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from ledger import acts
from ledger.acts import By
from ledger.instants import from_timestamp
from ledger.tables import api_keys, balances, tenants
from quota.errors import NotFound
from quota.periods import to_rfc3339


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant, and how many of its keys were not revoked and have not expired."""

    name: str
    created_at_ms: int
    living_keys: int

    def to_document(self) -> dict[str, Any]:
        return {"tenant": self.name, "created_at": to_rfc3339(self.created_at_ms), "living_keys": self.living_keys}


def ensure(connection: Connection, tenant: str, by: By) -> bool:
    """Makes the tenant if it is missing; whether it was."""
    made = insert(tenants).values(tenant=tenant).on_conflict_do_nothing().returning(tenants.c.tenant)
    if connection.execute(made).one_or_none() is None:
        return False
    acts.note(connection, tenant, by, "tenant.made", object=tenant, after={"tenant": tenant})
    return True


def exists(connection: Connection, tenant: str) -> bool:
    """Whether there is a tenant of that name."""
    return connection.execute(select(tenants.c.tenant).where(tenants.c.tenant == tenant)).one_or_none() is not None


def must_exist(connection: Connection, tenant: str) -> None:
    """NotFound, for whoever has mistyped its name: nothing found of it would look like health."""
    if not exists(connection, tenant):
        raise NotFound(f"there is no tenant {tenant}: `quotagate tenant list` shows them")


def must_be_known(connection: Connection, tenant: str | None) -> None:
    """NotFound as above; but what accounts there are can be looked at, and mended, if the tenant's own row is lost.
    None is all of them."""
    if tenant is not None:
        has_accounts = select(balances.c.tenant).where(balances.c.tenant == tenant).limit(1)
        if connection.execute(has_accounts).first() is None:
            must_exist(connection, tenant)


def listed(connection: Connection, after: str | None, most: int) -> list[Tenant]:
    """Those tenants that the scope sees, by name, from the first after this one."""
    is_living = api_keys.c.revoked_at.is_(None) & (
        api_keys.c.expires_at.is_(None) | (api_keys.c.expires_at > func.now())
    )
    keys = select(func.count()).where(api_keys.c.tenant == tenants.c.tenant, is_living).scalar_subquery()
    query = select(tenants.c.tenant, tenants.c.created_at, keys.label("living_keys"))
    if after is not None:
        query = query.where(tenants.c.tenant > after)
    rows = connection.execute(query.order_by(tenants.c.tenant).limit(most))
    return [Tenant(row.tenant, from_timestamp(row.created_at), row.living_keys) for row in rows]

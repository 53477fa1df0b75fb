"""Catalogs: one document a tenant, every version kept: an old entry can be explained with the plan of its day."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, desc, insert, select, text

from ledger import acts
from ledger.acts import By
from ledger.announcements import announce
from ledger.tables import catalogs
from quota.catalog import Catalog, Change, difference, parse_json, to_document


def newest(connection: Connection, tenant: str) -> tuple[int, Catalog]:
    """The newest version and its catalog; version 0 and an empty catalog when there is none yet."""
    query = (
        select(catalogs.c.version, catalogs.c.document)
        .where(catalogs.c.tenant == tenant)
        .order_by(desc(catalogs.c.version))
        .limit(1)
    )
    row = connection.execute(query).one_or_none()
    if row is None:
        return 0, Catalog()
    return row.version, parse_json(msgspec.json.encode(row.document))


def apply(
    connection: Connection, tenant: str, catalog: Catalog, by: By, *, dry_run: bool
) -> tuple[int, list[Change], int | None]:
    """Writes a new version if anything differs: its number, what changes, and the announcement to be made, if any."""
    # One writer a tenant at a time; two would take the same number.
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('catalog'), hashtext(:tenant))"), {"tenant": tenant})
    current_version, current = newest(connection, tenant)
    changes = difference(current, catalog)
    if dry_run or not changes:
        return current_version, changes, None
    connection.execute(
        insert(catalogs).values(
            tenant=tenant, version=current_version + 1, document=to_document(catalog), applied_by=by.actor
        )
    )
    after = {"version": current_version + 1, "changes": [str(change) for change in changes]}
    acts.note(connection, tenant, by, "catalog.applied", before={"version": current_version}, after=after)
    return current_version + 1, changes, announce(connection, tenant, None)


_versions = text("SELECT tenant, max(version) AS newest FROM catalogs WHERE tenant = ANY (:tenants) GROUP BY tenant")


def versions(connection: Connection, tenants: Sequence[str]) -> dict[str, int]:
    """The newest version of each tenant's catalog."""
    rows = connection.execute(_versions, {"tenants": list(tenants)})
    return {row.tenant: row.newest for row in rows}

"""Catalogs: one document a tenant, every version kept: an old entry can be explained with the plan of its day."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, bindparam, desc, insert, select, text

from ledger import acts
from ledger.acts import By
from ledger.announcements import announce
from ledger.instants import from_timestamp, to_timestamp
from ledger.tables import catalogs
from quota.catalog import Catalog, Change, difference, stored, to_document
from quota.errors import CatalogChanged, NotFound
from quota.periods import to_rfc3339


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
    return row.version, stored(row.document)


def lock(connection: Connection, tenant: str) -> None:
    """One writer a tenant at a time, until the transaction ends; two would take the same number."""
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtext('catalog'), hashtext(:tenant))"), {"tenant": tenant})


def apply(
    connection: Connection, tenant: str, catalog: Catalog, by: By, *, dry_run: bool, based_on: int | None = None
) -> tuple[int, list[Change], int | None]:
    """Writes a new version if anything differs: its number, what changes, and the announcement to be made, if any.
    CatalogChanged if somebody was shown what changes since the version `based_on`, and another one holds by now."""
    lock(connection, tenant)
    current_version, current = newest(connection, tenant)
    if based_on is not None and based_on != current_version:
        words = f"version {current_version} was applied meanwhile, nothing was changed; compare again"
        raise CatalogChanged(words, version=current_version)
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


@dataclass(frozen=True, slots=True)
class Version:
    """When a catalog came to hold, and by whom. `reason` and `changes` are None where the audit log does not go back
    so far."""

    version: int
    applied_at_ms: int
    applied_by: str
    reason: str | None
    changes: int | None

    def to_document(self) -> dict[str, Any]:
        """As GET /v1/catalog/versions shows it."""
        return {
            "version": self.version,
            "applied_at": to_rfc3339(self.applied_at_ms),
            "applied_by": self.applied_by,
            "reason": self.reason,
            "changes": self.changes,
        }


# One act at most is of a version, and all of a tenant's acts are looked at once for a page.
_history = text(
    """
    SELECT c.version, c.applied_at, c.applied_by, a.reason, a.changes
    FROM catalogs c LEFT JOIN (
        SELECT CAST(after ->> 'version' AS bigint) AS version, reason, jsonb_array_length(after -> 'changes') AS changes
        FROM acts WHERE tenant = :tenant AND act = 'catalog.applied'
    ) AS a USING (version)
    WHERE c.tenant = :tenant AND c.version < :before AND (CAST(:version AS bigint) IS NULL OR c.version = :version)
      AND (CAST(:at AS timestamptz) IS NULL OR date_trunc('milliseconds', c.applied_at) <= :at)
    ORDER BY c.version DESC LIMIT :most
    """
)
_document = select(catalogs.c.document).where(
    catalogs.c.tenant == bindparam("tenant"), catalogs.c.version == bindparam("version")
)
_BEYOND = 2**63 - 1


def history(
    connection: Connection,
    tenant: str,
    most: int,
    *,
    before: int | None = None,
    version: int | None = None,
    at_ms: int | None = None,
) -> list[Version]:
    """Versions, the newest first: of those below `before`, that one alone, or those applied until an instant."""
    wanted = {
        "tenant": tenant,
        "before": _BEYOND if before is None else before,
        "version": version,
        "at": None if at_ms is None else to_timestamp(at_ms),
        "most": most,
    }
    return [
        Version(row.version, from_timestamp(row.applied_at), row.applied_by, row.reason, row.changes)
        for row in connection.execute(_history, wanted)
    ]


def kept(
    connection: Connection, tenant: str, *, version: int | None = None, at_ms: int | None = None
) -> tuple[Version, Catalog]:
    """A version by its number, or the one that held at an instant; the newest if neither is named. NotFound."""
    found = history(connection, tenant, 1, version=version, at_ms=at_ms)
    if not found:
        if version is not None:
            raise NotFound(f"the catalog has no version {version}", version=version)
        raise NotFound("the tenant had no catalog then" if at_ms is not None else "the tenant has no catalog yet")
    wanted = {"tenant": tenant, "version": found[0].version}
    document = connection.execute(_document, wanted).scalar_one()
    return found[0], stored(document)


_versions = text("SELECT tenant, max(version) AS newest FROM catalogs WHERE tenant = ANY (:tenants) GROUP BY tenant")


def versions(connection: Connection, tenants: Sequence[str]) -> dict[str, int]:
    """The newest version of each tenant's catalog."""
    rows = connection.execute(_versions, {"tenants": list(tenants)})
    return {row.tenant: row.newest for row in rows}

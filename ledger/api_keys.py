"""API keys, as the table has them: an id to look up, and a keyed digest instead of the key."""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, select
from sqlalchemy.dialects.postgresql import insert

from ledger.instants import from_timestamp
from ledger.tables import api_keys, tenants


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key. `digest` is HMAC-SHA256 of the whole key under the deployment's pepper."""

    id: str
    tenant: str
    digest: bytes
    scopes: frozenset[str]
    expires_at_ms: int | None


def living(connection: Connection, ids: Sequence[str]) -> dict[str, KeyRecord]:
    """Those of the keys that exist and were not revoked."""
    query = select(api_keys).where(api_keys.c.id.in_(ids), api_keys.c.revoked_at.is_(None))
    return {
        row.id: KeyRecord(
            row.id,
            row.tenant,
            bytes(row.digest),
            frozenset(row.scopes),
            None if row.expires_at is None else from_timestamp(row.expires_at),
        )
        for row in connection.execute(query)
    }


def ensure(connection: Connection, tenant: str, key_id: str, digest: bytes, scopes: Sequence[str]) -> None:
    """Makes the tenant and the key if they are missing; a key that was revoked stays revoked."""
    connection.execute(insert(tenants).values(tenant=tenant).on_conflict_do_nothing())
    connection.execute(
        insert(api_keys)
        .values(id=key_id, tenant=tenant, digest=digest, scopes=list(scopes), created_at=func.now())
        .on_conflict_do_nothing()
    )

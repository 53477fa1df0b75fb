"""API keys, as the table has them: an id to look up, and a keyed digest instead of the key.

What changes what a tenant's keys add up to (how many live, who may still make others) happens one at a time a tenant.
A key's row is never deleted: what it did is in the ledger under its id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select, text, tuple_, update
from sqlalchemy.dialects.postgresql import insert

from ledger import acts, tenants
from ledger.acts import By
from ledger.instants import from_timestamp, to_timestamp
from ledger.tables import api_keys
from quota.errors import Conflict, TooMany
from quota.periods import to_rfc3339

SCOPES = ("consume", "read", "admin", "ops")
BY_SETTINGS = By("settings")
"""Who makes the key that QUOTAGATE_ADMIN_KEY names."""
MAX_LIVING_KEYS = 1_000
"""Of one tenant; far more than it has services, and few enough to be looked through."""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """What a request's key is held against. `digest` is HMAC-SHA256 of the whole key under the deployment's pepper."""

    id: str
    tenant: str
    digest: bytes
    scopes: frozenset[str]
    expires_at_ms: int | None


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that is to be made."""

    id: str
    tenant: str
    digest: bytes
    scopes: Sequence[str]
    name: str | None = None
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ListedKey:
    """A key as it is shown: without its secret, which nobody has, and without its digest."""

    id: str
    tenant: str
    name: str | None
    scopes: tuple[str, ...]
    created_at_ms: int
    created_by: str | None
    expires_at_ms: int | None
    last_used_at_ms: int | None
    revoked_at_ms: int | None
    replaces: str | None

    def to_document(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "tenant": self.tenant,
            "name": self.name,
            "scopes": list(self.scopes),
            "created_at": to_rfc3339(self.created_at_ms),
            "created_by": self.created_by,
            "expires_at": _told(self.expires_at_ms),
            "last_used_at": _told(self.last_used_at_ms),
            "revoked_at": _told(self.revoked_at_ms),
            "replaces": self.replaces,
        }


_LISTED = [column for column in api_keys.c if column.name != "digest"]
_lives: ColumnElement[bool] = and_(
    api_keys.c.revoked_at.is_(None), or_(api_keys.c.expires_at.is_(None), api_keys.c.expires_at > func.now())
)
# Until the transaction ends. Otherwise two keys could revoke each other, and nobody would be left.
_one_at_a_time = text("SELECT pg_advisory_xact_lock(hashtext(:name))")

# Skips what another gateway notes just now: it knows as well as this one, and neither waits for the other.
_note_uses = text(
    """
    WITH used AS (
        SELECT k.id, u.at
        FROM api_keys k JOIN unnest(CAST(:ids AS text[]), CAST(:instants AS timestamptz[])) AS u (id, at) ON u.id = k.id
        WHERE k.last_used_at IS NULL OR k.last_used_at < u.at
        ORDER BY k.id
        FOR UPDATE OF k SKIP LOCKED
    )
    UPDATE api_keys k SET last_used_at = used.at FROM used WHERE k.id = used.id
    """
)


def living(connection: Connection, ids: Sequence[str]) -> dict[str, KeyRecord]:
    """Those of the keys that exist and were not revoked; that one has expired, whoever asks sees for himself."""
    query = select(api_keys).where(api_keys.c.id.in_(ids), api_keys.c.revoked_at.is_(None))
    return {
        row.id: KeyRecord(row.id, row.tenant, bytes(row.digest), frozenset(row.scopes), _ms(row.expires_at))
        for row in connection.execute(query)
    }


def ensure(
    connection: Connection,
    tenant: str,
    key_id: str,
    digest: bytes,
    scopes: Sequence[str],
    *,
    name: str | None = None,
    by: By = BY_SETTINGS,
) -> None:
    """Makes the tenant and the key if they are missing; a key that was revoked stays revoked."""
    tenants.ensure(connection, tenant, by)
    values = _values(NewKey(key_id, tenant, digest, scopes, name), by)
    made = connection.execute(insert(api_keys).values(values).on_conflict_do_nothing().returning(*_LISTED))
    if (row := made.one_or_none()) is not None:
        acts.note(connection, tenant, by, "api_key.made", object=key_id, after=_listed(row).to_document())


def add(connection: Connection, key: NewKey, by: By) -> ListedKey:
    """Makes a key of a tenant that there is. TooMany."""
    made = _added(connection, key, by, None)
    acts.note(connection, key.tenant, by, "api_key.made", object=key.id, after=made.to_document())
    return made


def _added(connection: Connection, key: NewKey, by: By, replaces: str | None) -> ListedKey:
    connection.execute(_one_at_a_time, {"name": f"quotagate.api_keys.{key.tenant}"})
    if _count_living(connection, key.tenant) >= MAX_LIVING_KEYS:
        raise TooMany(
            f"{key.tenant} has {MAX_LIVING_KEYS:,} keys, and no more are made: revoke those that nobody uses",
            limit=MAX_LIVING_KEYS,
        )
    made = connection.execute(insert(api_keys).values(**_values(key, by), replaces=replaces).returning(*_LISTED))
    return _listed(made.one())


def read(connection: Connection, key_id: str) -> ListedKey | None:
    row = connection.execute(select(*_LISTED).where(api_keys.c.id == key_id)).one_or_none()
    return None if row is None else _listed(row)


def page_after(connection: Connection, tenant: str, after: str | None, most: int) -> list[ListedKey] | None:
    """The tenant's keys that were made after this one, the oldest first; None if it has no such key."""
    of_tenant, place = api_keys.c.tenant == tenant, tuple_(api_keys.c.created_at, api_keys.c.id)
    query = select(*_LISTED).where(of_tenant).order_by(api_keys.c.created_at, api_keys.c.id).limit(most)
    if after is not None:
        last = select(api_keys.c.created_at, api_keys.c.id).where(of_tenant, api_keys.c.id == after)
        row = connection.execute(last).one_or_none()
        if row is None:
            return None
        query = query.where(place > tuple_(row.created_at, row.id))
    return [_listed(row) for row in connection.execute(query)]


def newest(connection: Connection, tenant: str | None, most: int, *, is_living: bool) -> list[ListedKey]:
    """The newest keys of a tenant, or of all that the scope sees, the newest last."""
    query = select(*_LISTED).order_by(api_keys.c.created_at.desc(), api_keys.c.id.desc()).limit(most)
    if tenant is not None:
        query = query.where(api_keys.c.tenant == tenant)
    if is_living:
        query = query.where(_lives)
    return [_listed(row) for row in connection.execute(query)][::-1]


def revoke(connection: Connection, tenant: str, key_id: str, by: By, *, keeps_an_admin: bool) -> ListedKey | None:
    """Revokes a key for ever; the key as it was before, None if the tenant has none of that id. Conflict if nobody of
    the tenant could make a key any more, and that is asked for."""
    connection.execute(_one_at_a_time, {"name": f"quotagate.api_keys.{tenant}"})
    found = read(connection, key_id)
    if found is None or found.tenant != tenant:
        return None
    if found.revoked_at_ms is not None:
        return found
    if keeps_an_admin and living_admins(connection, tenant) == {key_id}:
        raise Conflict(
            "this is the tenant's last key with the scope admin, and without one nobody could make another: "
            "make that first, with POST /v1/api_keys, and revoke this one with it"
        )
    changed = update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=func.now()).returning(*_LISTED)
    after = _listed(connection.execute(changed).one())
    told, before = after.to_document(), found.to_document()
    acts.note(connection, tenant, by, "api_key.revoked", object=key_id, before=before, after=told)
    return found


def rotate(connection: Connection, old: ListedKey, key: NewKey, by: By, grace_s: int) -> tuple[ListedKey, ListedKey]:
    """Makes a key in place of an old one, which expires after the grace, or when it would have; the new and the old.
    Conflict as of `check_rotates`."""
    check_rotates(connection, old)
    made = _added(connection, key, by, old.id)
    ends = func.least(api_keys.c.expires_at, func.now() + timedelta(seconds=grace_s))
    changed = update(api_keys).where(api_keys.c.id == old.id).values(expires_at=ends).returning(*_LISTED)
    after = _listed(connection.execute(changed).one())
    told = {"old": after.to_document(), "new": made.to_document()}
    acts.note(connection, old.tenant, by, "api_key.rotated", object=old.id, before=old.to_document(), after=told)
    return made, after


def check_rotates(connection: Connection, old: ListedKey) -> None:
    """Conflict if the key does not live, or was replaced by one that does."""
    connection.execute(_one_at_a_time, {"name": f"quotagate.api_keys.{old.tenant}"})
    still = select(api_keys.c.id).where(api_keys.c.id == old.id, _lives)
    if connection.execute(still).one_or_none() is None:
        raise Conflict(f"the key {old.id} was revoked or has expired: make a new one with `quotagate key create`")
    successor = select(api_keys.c.id).where(api_keys.c.replaces == old.id, _lives)
    if (already := connection.execute(successor).scalars().first()) is not None:
        raise Conflict(
            f"the key {old.id} was replaced by {already} already: rotate that one, or revoke it first with "
            f"`quotagate key revoke {already}`"
        )


def living_admins(connection: Connection, tenant: str) -> set[str]:
    """The ids of the tenant's keys with which others can be made."""
    query = select(api_keys.c.id).where(api_keys.c.tenant == tenant, api_keys.c.scopes.any_() == "admin", _lives)
    return set(connection.execute(query).scalars())


def note_uses(connection: Connection, used_at_ms: Mapping[str, int]) -> None:
    """Notes when keys were used last, by their ids; what is noted already never goes back."""
    instants = [to_timestamp(each) for each in used_at_ms.values()]
    connection.execute(_note_uses, {"ids": list(used_at_ms), "instants": instants})


def _count_living(connection: Connection, tenant: str) -> int:
    query = select(func.count()).select_from(api_keys).where(api_keys.c.tenant == tenant, _lives)
    return int(connection.execute(query).scalar_one())


def _values(key: NewKey, by: By) -> dict[str, Any]:
    return {
        "id": key.id,
        "tenant": key.tenant,
        "digest": key.digest,
        "scopes": list(key.scopes),
        "created_by": by.actor,
        "name": key.name,
        "expires_at": None if key.expires_at_ms is None else to_timestamp(key.expires_at_ms),
    }


def _listed(row: Any) -> ListedKey:
    return ListedKey(
        id=row.id,
        tenant=row.tenant,
        name=row.name,
        scopes=tuple(row.scopes),
        created_at_ms=from_timestamp(row.created_at),
        created_by=row.created_by,
        expires_at_ms=_ms(row.expires_at),
        last_used_at_ms=_ms(row.last_used_at),
        revoked_at_ms=_ms(row.revoked_at),
        replaces=row.replaces,
    )


def _ms(instant: Any) -> int | None:
    return None if instant is None else from_timestamp(instant)


def _told(instant_ms: int | None) -> str | None:
    return None if instant_ms is None else to_rfc3339(instant_ms)

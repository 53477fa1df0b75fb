"""Who is asking: from an API key to a tenant and its scopes.

A key is `qg_<id>_<secret>`; the table holds its HMAC-SHA256 under the deployment's pepper. A slow hash would add
nothing: the secret has 256 random bits. Keys that were seen are kept in memory and looked up anew every half second in
one query, so that a revocation reaches every gateway within a second, and checks go on while Postgres is away.
"""

import hmac
import re
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway.for_ever import for_ever
from gateway.key_lookups import KeyLookups
from ledger import api_keys
from ledger.api_keys import SCOPES
from ledger.store import ALL_TENANTS, Store
from quota.errors import Forbidden, Unauthenticated

KEY_ID_BYTES = 6
KEY_SECRET_BYTES = 32
REFRESH_EVERY_S = 0.5
FORGET_UNUSED_S = 600.0
MAX_KEYS = 10_000
MAX_KEY_CHARACTERS = 255

_own_form = re.compile(r"qg_([A-Za-z0-9]{8,32})_[A-Za-z0-9_-]{32,}\Z")


@dataclass(slots=True)
class Principal:
    """A verified key."""

    key_id: str
    tenant: str
    scopes: frozenset[str]
    expires_at_ms: int | None
    digest: bytes
    used_at: float

    def require(self, scope: str) -> "Principal":
        """Itself, or Forbidden."""
        if scope not in self.scopes:
            raise Forbidden(f"this key lacks the scope {scope}", scope=scope)
        return self


def key_id_of(pepper: str, secret: str) -> str:
    """The id that a key is looked up by. One that is not of our own form (QUOTAGATE_ADMIN_KEY) is known by its digest,
    so that two deployments with peppers of their own on one database do not take it from each other."""
    found = _own_form.match(secret)
    return found[1] if found else "own" + digest_of(pepper, secret).hex()[:16]


def digest_of(pepper: str, secret: str) -> bytes:
    return hmac.digest(pepper.encode(), secret.encode(), "sha256")


def made_up_key() -> str:
    """A new key of our own form, which nobody has seen."""
    return f"qg_{secrets.token_hex(KEY_ID_BYTES)}_{secrets.token_urlsafe(KEY_SECRET_BYTES)}"


class Authenticator:
    """Knows the keys that this process has seen."""

    def __init__(self, store: Store, pepper: str) -> None:
        self._store = store
        self._pepper = pepper
        self._known: dict[bytes, Principal] = {}
        self._lookups = KeyLookups(store)

    async def identify(self, header: bytes | None) -> Principal:
        """The principal behind an Authorization header. Unauthenticated, LedgerUnavailable."""
        principal = self._known.get(header) if header is not None else None
        if principal is None:
            principal = await self._verify(header)
        now = time.time()
        if principal.expires_at_ms is not None and now * 1000 >= principal.expires_at_ms:
            raise Unauthenticated("this API key has expired")
        principal.used_at = now  # and nothing more: it is written down beside the requests (gateway/key_uses.py)
        return principal

    async def ensure_admin_key(self, secret: str) -> None:
        """Makes the first key, of the tenant `default`, with every scope."""
        key_id, digest = key_id_of(self._pepper, secret), digest_of(self._pepper, secret)
        name, by = "QUOTAGATE_ADMIN_KEY", replace(api_keys.BY_SETTINGS, origin=socket.gethostname())
        await self._store.run("default", api_keys.ensure, "default", key_id, digest, SCOPES, name=name, by=by)

    def made_up(self) -> tuple[str, str, bytes]:
        """A new key: its id, the whole of it, and its digest."""
        secret = made_up_key()
        return key_id_of(self._pepper, secret), secret, digest_of(self._pepper, secret)

    async def keep_fresh(self) -> None:
        """Looks the seen keys up anew, for ever: whatever goes wrong with it, revocations must be heard of after it."""
        await for_ever(REFRESH_EVERY_S, "hearing of revoked keys", self.refresh)

    async def refresh(self) -> None:
        """Looks the seen keys up anew, in one query. LedgerUnavailable: those that are known stay good meanwhile."""
        self._forget(time.time() - FORGET_UNUSED_S)
        if not self._known:
            return
        ids = sorted({principal.key_id for principal in self._known.values()})
        living = await self._store.run(ALL_TENANTS, api_keys.living, ids)
        for header, principal in list(self._known.items()):
            record = living.get(principal.key_id)
            if record is None or record.digest != principal.digest:
                del self._known[header]
            else:
                principal.scopes, principal.expires_at_ms = record.scopes, record.expires_at_ms

    def used_at(self) -> dict[str, float]:
        """When each key that is known was used last, in seconds since 1970, by its id."""
        found: dict[str, float] = {}
        for each in self._known.values():
            if each.expires_at_ms is None or each.used_at * 1000 < each.expires_at_ms:  # else it was refused
                found[each.key_id] = max(each.used_at, found.get(each.key_id, 0.0))
        return found

    async def _verify(self, header: bytes | None) -> Principal:
        secret = _bearer(header)
        record = await self._lookups.find(key_id_of(self._pepper, secret))
        digest = digest_of(self._pepper, secret)
        # Compared in constant time, and also when there is no such key, which then takes as long.
        if not hmac.compare_digest(record.digest if record else b"\0" * 32, digest) or record is None:
            raise Unauthenticated("this API key is not known")
        principal = Principal(record.id, record.tenant, record.scopes, record.expires_at_ms, digest, time.time())
        if len(self._known) >= MAX_KEYS:
            self._forget(time.time() - REFRESH_EVERY_S)
        if len(self._known) < MAX_KEYS and header is not None:
            self._known[header] = principal
        return principal

    def _forget(self, unused_since: float) -> None:
        for header, principal in list(self._known.items()):
            if principal.used_at < unused_since:
                del self._known[header]


def _bearer(header: bytes | None) -> str:
    if header is None:
        raise Unauthenticated("send an API key: Authorization: Bearer <key>")
    scheme, _, secret = header.decode("latin-1").partition(" ")
    secret = secret.strip()
    if scheme.lower() != "bearer" or not secret:
        raise Unauthenticated("send an API key: Authorization: Bearer <key>")
    if len(secret) > MAX_KEY_CHARACTERS or not secret.isascii() or not secret.isprintable():
        raise Unauthenticated("this API key is not known")
    return secret


def single(headers: Sequence[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """The header's value, None if it is missing; Unauthenticated if two were sent, of which either could be meant."""
    values = [value for key, value in headers if key == name]
    if len(values) > 1:
        raise Unauthenticated(f"send one {name.decode()} header, not {len(values)}")
    return values[0] if values else None

"""POST, GET and DELETE /v1/api_keys: a tenant's own keys. The secret is in the first answer, and nowhere else.

A tenant's last key with the scope admin does not revoke itself: nobody in the tenant could make another. Whoever wants
to be rid of it makes its successor first, which costs one request and no gap; the operator's command line may do both.
"""

import time
from typing import Any, NamedTuple

import structlog
from litestar import Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from gateway import paging
from gateway.auth import Authenticator, Principal
from gateway.bodies import ApiKeyRequest, Identifier
from gateway.resources import StrictRequest, asked_by, caller, from_path, ident_of
from ledger import api_keys
from ledger.api_keys import NewKey
from ledger.store import Store
from quota.errors import Forbidden, InvalidRequest, NotFound
from quota.periods import from_rfc3339

log = structlog.get_logger()


class _Place(NamedTuple):
    """Of a list of keys: the last one that was seen."""

    id: Identifier


@post("/v1/api_keys", opt={"scopes": ("admin",)}, status_code=201, summary="Make an API key; its secret is shown once")
async def create_api_key(
    request: StrictRequest,
    store: NamedDependency[Store],
    authenticator: NamedDependency[Authenticator],
    data: JSONBody[ApiKeyRequest],
) -> Response[dict[str, Any]]:
    maker = caller(request)
    check_scopes(data.scopes, maker)
    expires_ms = None if data.expires_at is None else from_rfc3339(data.expires_at)
    # Our own clock and not Redis's: it is the one that keys are held against.
    if expires_ms is not None and expires_ms <= time.time() * 1000:
        raise InvalidRequest("expires_at lies in the past", field="expires_at")
    key_id, secret, digest = authenticator.made_up()
    scopes = [scope for scope in api_keys.SCOPES if scope in data.scopes]
    key = NewKey(key_id, maker.tenant, digest, scopes, data.name, expires_ms)
    made = await store.run(maker.tenant, api_keys.add, key, asked_by(request))
    log.info("an API key was made", id=made.id, tenant=maker.tenant, by=maker.key_id, request_id=ident_of(request))
    # Nobody but the caller is to keep it.
    return Response({**made.to_document(), "secret": secret}, status_code=201, headers={"cache-control": "no-store"})


@get("/v1/api_keys", opt={"scopes": ("admin", "read"), "query": paging.QUERY}, summary="The tenant's API keys")
async def list_api_keys(request: StrictRequest, store: NamedDependency[Store]) -> dict[str, Any]:
    tenant, query = caller(request).tenant, request.query_params
    limit, after = paging.limit_in(query), paging.place_in(query, _Place)
    found = await store.run(tenant, api_keys.page_after, tenant, after.id if after else None, limit + 1)
    if found is None:
        raise paging.unknown_cursor()
    shown = found[:limit]
    return {
        "items": [each.to_document() for each in shown],
        "next_cursor": paging.cursor_to(_Place(shown[-1].id)) if len(found) > limit else None,
    }


@delete("/v1/api_keys/{id:str}", opt={"scopes": ("admin",)}, status_code=204, summary="Revoke an API key for ever")
async def revoke_api_key(request: StrictRequest, store: NamedDependency[Store], id: FromPath[str]) -> None:
    asking, key_id = caller(request), from_path(id, "id")
    by = asked_by(request)
    found = await store.run(asking.tenant, api_keys.revoke, asking.tenant, key_id, by, keeps_an_admin=True)
    if found is None:
        raise NotFound("there is no such key")
    if found.revoked_at_ms is None:
        log.info(
            "an API key was revoked", id=key_id, tenant=asking.tenant, by=asking.key_id, request_id=ident_of(request)
        )


def check_scopes(wanted: list[Any], maker: Principal) -> None:
    """Forbidden where somebody would give what he has not got."""
    for scope in api_keys.SCOPES:
        if scope in wanted and scope not in maker.scopes:
            raise Forbidden(f"this key lacks the scope {scope}, and so cannot give it", scope=scope)

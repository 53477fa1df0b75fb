"""PUT, DELETE and GET of a subject's overrides: limits in place of the plan's."""

from typing import Any, NamedTuple

import structlog
from litestar import delete, get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from gateway import paging
from gateway.admission import Admission
from gateway.bodies import Identifier, OverrideRequest
from gateway.report_queries import reason_in
from gateway.resources import StrictRequest, asked_by, caller, from_path, ident_of
from gateway.telling import tell_terms
from ledger import overrides
from ledger.acts import By
from ledger.store import Store
from quota.entitlement import Override
from quota.errors import InvalidRequest, UnknownMetric
from quota.keys import AccountName
from quota.periods import from_rfc3339

log = structlog.get_logger()
_WITHOUT_CURSOR = ""


class _Place(NamedTuple):
    """Of a list of overrides: the last metric that was seen."""

    metric: Identifier


@put(
    "/v1/subjects/{subject:str}/overrides/{metric:str}",
    opt={"scopes": ("admin",)},
    summary="Put a limit in place of the plan's",
)
async def write_override(
    request: StrictRequest,
    store: NamedDependency[Store],
    admission: NamedDependency[Admission],
    subject: FromPath[str],
    metric: FromPath[str],
    *,
    data: JSONBody[OverrideRequest],
) -> dict[str, Any]:
    account, by = _account(request, subject, metric), asked_by(request, data.reason)
    return await put_limit(store, admission, account, data, by=by, request_id=ident_of(request))


async def put_limit(
    store: Store, admission: Admission, account: AccountName, data: OverrideRequest, *, by: By, request_id: str
) -> dict[str, Any]:
    """Puts a limit in place of the plan's, and tells Redis; the override's document. UnknownMetric, InvalidRequest,
    TooMany."""
    _, catalog = await admission.catalogs.refresh(account.tenant)
    if account.metric not in catalog.metrics:
        raise UnknownMetric(f"the catalog has no metric {account.metric}", metric=account.metric)
    now_ms, expires_ms = admission.now_ms(), None if data.expires_at is None else from_rfc3339(data.expires_at)
    if expires_ms is not None and expires_ms <= now_ms:
        raise InvalidRequest("expires_at lies in the past", field="expires_at")
    document, announcement = await store.run(
        account.tenant, overrides.set_limit, account, Override(data.limit, expires_ms), by, now_ms
    )
    await _tell(store, admission, account, announcement, request_id)
    return {"subject": account.subject, **document}


@delete(
    "/v1/subjects/{subject:str}/overrides/{metric:str}",
    opt={"scopes": ("admin",), "query": ("reason",)},
    status_code=204,
    summary="Take an override away: the plan's limit holds again",
)
async def remove_override(
    request: StrictRequest,
    store: NamedDependency[Store],
    admission: NamedDependency[Admission],
    subject: FromPath[str],
    metric: FromPath[str],
) -> None:
    account, by = _account(request, subject, metric), asked_by(request, reason_in(request.query_params))
    await take_limit_away(store, admission, account, by=by, request_id=ident_of(request))


async def take_limit_away(store: Store, admission: Admission, account: AccountName, *, by: By, request_id: str) -> None:
    """Takes an override away, and tells Redis: the plan's limit holds again. NotFound, TooMany."""
    announcement = await store.run(account.tenant, overrides.remove, account, by, admission.now_ms())
    await _tell(store, admission, account, announcement, request_id)


@get(
    "/v1/subjects/{subject:str}/overrides",
    opt={"scopes": ("read", "admin"), "query": paging.QUERY},
    summary="The subject's overrides that are in force",
)
async def list_overrides(
    request: StrictRequest,
    store: NamedDependency[Store],
    admission: NamedDependency[Admission],
    subject: FromPath[str],
) -> dict[str, Any]:
    tenant, subject, query = caller(request).tenant, from_path(subject, "subject"), request.query_params
    limit, after = paging.limit_in(query), paging.place_in(query, _Place)
    begins = after.metric if after else _WITHOUT_CURSOR
    found = await store.run(
        tenant, overrides.of_subject, tenant, subject, admission.now_ms(), after=begins, most=limit + 1
    )
    shown = found[:limit]
    return {
        "items": shown,
        "next_cursor": paging.cursor_to(_Place(shown[-1]["metric"])) if len(found) > limit else None,
    }


def _account(request: StrictRequest, subject: str, metric: str) -> AccountName:
    return AccountName(caller(request).tenant, from_path(subject, "subject"), from_path(metric, "metric"))


async def _tell(store: Store, admission: Admission, account: AccountName, announcement: int, request_id: str) -> None:
    tenant, subject, metric = account
    await tell_terms(store, admission, tenant, subject, announcement=announcement, request_id=request_id)
    log.info("override written", tenant=tenant, subject=subject, metric=metric, request_id=request_id)

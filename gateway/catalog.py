"""GET and PUT /v1/catalog and its versions, GET /v1/plans."""

import re
from collections.abc import Sequence
from typing import Any

import structlog
from litestar import Response, get, put
from litestar.datastructures import MultiDict
from litestar.di import NamedDependency
from litestar.params import FromPath
from sqlalchemy import Connection

from gateway import paging
from gateway.admission import Admission
from gateway.report_queries import flag_in, past_instant_in, reason_in
from gateway.resources import StrictRequest, asked_by, caller, from_path
from ledger import announcements, catalog_effects, catalogs
from ledger.acts import By
from ledger.catalog_effects import Counted
from ledger.store import Store
from quota.catalog import Catalog, Change, Plan, parse_json, to_document
from quota.errors import Conflict, InvalidRequest, UnknownPlan

log = structlog.get_logger()
MAX_VERSION_DIGITS = 18
"""Of a bigint any such number is one; no catalog changes so often."""
MAX_VERSION = 2**63 - 1
NO_VERSION = -1
_tag = re.compile(r'\*|(?P<quote>"?)(?P<version>[0-9]{1,18})(?P=quote)|(?:W/)?"[!#-~]*"')
"""Bare or quoted, as an idempotency key is. A weak tag matches nothing in If-Match (RFC 9110, section 13.1.1)."""


async def apply_catalog(
    store: Store,
    admission: Admission,
    tenant: str,
    catalog: Catalog,
    by: By,
    *,
    dry_run: bool,
    based_on: int | None = None,
    allow_empty: bool = True,
) -> dict[str, Any]:
    """Compares, counts, writes and tells every shard; what differs, for whom, and which version holds now.
    CatalogChanged, Conflict."""
    how: dict[str, Any] = {"dry_run": dry_run, "based_on": based_on, "allow_empty": allow_empty}
    counted, (version, changes, announcement) = await store.run(
        tenant, _counted_and_applied, tenant, catalog, by, admission.now_ms(), **how
    )
    if announcement is not None:
        await admission.announce(tenant, None)
        await store.run(tenant, announcements.told, [announcement])
        log.info("catalog applied", tenant=tenant, version=version, changes=len(changes), applied_by=by.actor)
    return {
        "version": version,
        "applied": announcement is not None,
        "changes": [str(change) for change in changes],
        "effects": [each.to_document() for each in counted],
        "catalog": to_document(catalog),
    }


def _counted_and_applied(
    connection: Connection,
    tenant: str,
    catalog: Catalog,
    by: By,
    now_ms: int,
    *,
    dry_run: bool,
    based_on: int | None,
    allow_empty: bool,
) -> tuple[list[Counted], tuple[int, list[Change], int | None]]:
    catalogs.lock(connection, tenant)  # first: what is counted is what is applied
    _, current = catalogs.newest(connection, tenant)
    if not (allow_empty or dry_run or _sells(catalog)) and _sells(current):
        # Most likely half a document, or none: from the next request on nobody would be let through.
        raise Conflict(
            "the document has no metrics and no plans, and would take away all that there are; nothing was changed. "
            "If that is meant, send it with ?allow_empty=true"
        )
    counted = catalog_effects.counted(connection, tenant, current, catalog, now_ms)
    return counted, catalogs.apply(connection, tenant, catalog, by, dry_run=dry_run, based_on=based_on)


def _sells(catalog: Catalog) -> bool:
    return bool(catalog.metrics or catalog.plans)


@get(
    "/v1/catalog",
    opt={"scopes": ("read", "admin"), "query": ("version", "at")},
    summary="The tenant's catalog, as it is or was",
)
async def read_catalog(
    request: StrictRequest, store: NamedDependency[Store], admission: NamedDependency[Admission]
) -> Response[dict[str, Any]]:
    tenant, query = caller(request).tenant, request.query_params
    version, at_ms = _version_in(query), past_instant_in(query, "at", admission.now_ms())
    if version is not None and at_ms is not None:
        raise InvalidRequest("name a version or an instant, not both", field="at")
    if version is None and at_ms is None:
        number, catalog = await store.run(tenant, catalogs.newest, tenant)
    else:
        found, catalog = await store.run(tenant, catalogs.kept, tenant, version=version, at_ms=at_ms)
        number = found.version
    return Response(to_document(catalog), headers={"etag": f'"{number}"'})


def _version_in(query: MultiDict[str]) -> int | None:
    text = paging.single(query, "version")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_VERSION_DIGITS and int(text) > 0):
        raise InvalidRequest("version is a whole number from 1, as /v1/catalog/versions lists them", field="version")
    return int(text)


@get(
    "/v1/catalog/versions",
    opt={"scopes": ("read", "admin"), "query": paging.QUERY},
    summary="Every version of the catalog, the newest first",
)
async def list_versions(request: StrictRequest, store: NamedDependency[Store]) -> dict[str, Any]:
    tenant, query = caller(request).tenant, request.query_params
    limit, place = paging.limit_in(query), paging.place_in(query, tuple[int])
    if place is not None and not 0 < place[0] <= MAX_VERSION:
        raise paging.unknown_cursor()
    before = None if place is None else place[0]
    found = await store.run(tenant, catalogs.history, tenant, limit + 1, before=before)
    shown = found[:limit]
    next_cursor = paging.cursor_to((shown[-1].version,)) if len(found) > limit else None
    return {"items": [each.to_document() for each in shown], "next_cursor": next_cursor}


@put(
    "/v1/catalog",
    opt={"scopes": ("admin",), "query": ("dry_run", "reason", "allow_empty")},
    summary="Compare and apply a whole catalog",
)
async def write_catalog(
    request: StrictRequest, store: NamedDependency[Store], admission: NamedDependency[Admission]
) -> dict[str, Any]:
    query, by = request.query_params, asked_by(request, reason_in(request.query_params))
    how = {name: flag_in(query, name) for name in ("dry_run", "allow_empty")}
    based_on = based_on_in([value for name, value in request.scope["headers"] if name == b"if-match"])
    catalog = parse_json(await request.body())
    return await apply_catalog(store, admission, caller(request).tenant, catalog, by, based_on=based_on, **how)


def based_on_in(values: Sequence[bytes]) -> int | None:
    """Which version the header If-Match names, None if whichever there is will do; one that never holds, where it names
    something else than a version. InvalidRequest."""
    found = _tag.fullmatch(values[0].decode("latin-1").strip()) if len(values) == 1 else None
    if values and found is None:
        raise InvalidRequest('If-Match is one ETag of GET /v1/catalog, such as "7"', field="If-Match")
    if found is None or found[0] == "*":
        return None
    return int(found["version"]) if found["version"] else NO_VERSION


def _plan_document(name: str, plan: Plan, document: dict[str, Any]) -> dict[str, Any]:
    return {"plan": name, "rank": plan.rank, "limits": document["plans"][name].get("limits", {})}


@get(
    "/v1/plans",
    opt={"scopes": ("read", "admin"), "query": paging.QUERY},
    summary="Plans with their limits, in the order of upgrades",
)
async def list_plans(request: StrictRequest, store: NamedDependency[Store]) -> dict[str, Any]:
    _, catalog = await store.run(caller(request).tenant, catalogs.newest, caller(request).tenant)
    document = to_document(catalog)
    plans = sorted(catalog.plans.items(), key=_place_of_plan)
    shown, next_cursor = paging.page(plans, _place_of_plan, tuple[int], request.query_params)
    return {"items": [_plan_document(name, plan, document) for name, plan in shown], "next_cursor": next_cursor}


def _place_of_plan(item: tuple[str, Plan]) -> tuple[int]:
    return (item[1].rank,)  # no two plans have the same


@get("/v1/plans/{plan:str}", opt={"scopes": ("read", "admin")}, summary="One plan")
async def read_plan(request: StrictRequest, store: NamedDependency[Store], plan: FromPath[str]) -> dict[str, Any]:
    name = from_path(plan, "plan")
    _, catalog = await store.run(caller(request).tenant, catalogs.newest, caller(request).tenant)
    if name not in catalog.plans:
        raise UnknownPlan(f"the catalog has no plan {name}", plan=name)
    return _plan_document(name, catalog.plans[name], to_document(catalog))

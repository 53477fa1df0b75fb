"""GET and PUT /v1/catalog, GET /v1/plans."""

from typing import Any

import structlog
from litestar import get, put
from litestar.di import NamedDependency
from litestar.params import FromPath, FromQuery

from gateway import paging
from gateway.admission import Admission
from gateway.resources import StrictRequest, asked_by, caller, from_path
from ledger import announcements, catalogs
from ledger.acts import By
from ledger.store import Store
from quota.catalog import Catalog, Plan, parse_json, to_document
from quota.errors import UnknownPlan

log = structlog.get_logger()


async def apply_catalog(
    store: Store, admission: Admission, tenant: str, catalog: Catalog, by: By, *, dry_run: bool
) -> dict[str, Any]:
    """Compares, writes and tells every shard; what differs, and which version holds now."""
    version, changes, announcement = await store.run(tenant, catalogs.apply, tenant, catalog, by, dry_run=dry_run)
    if announcement is not None:
        await admission.announce(tenant, None)
        await store.run(tenant, announcements.told, [announcement])
        log.info("catalog applied", tenant=tenant, version=version, changes=len(changes), applied_by=by.actor)
    return {
        "version": version,
        "applied": announcement is not None,
        "changes": [str(change) for change in changes],
        "catalog": to_document(catalog),
    }


@get("/v1/catalog", opt={"scopes": ("read", "admin")}, summary="The tenant's catalog")
async def read_catalog(request: StrictRequest, store: NamedDependency[Store]) -> dict[str, Any]:
    _, catalog = await store.run(caller(request).tenant, catalogs.newest, caller(request).tenant)
    return to_document(catalog)


@put("/v1/catalog", opt={"scopes": ("admin",), "query": ("dry_run",)}, summary="Compare and apply a whole catalog")
async def write_catalog(
    request: StrictRequest,
    store: NamedDependency[Store],
    admission: NamedDependency[Admission],
    dry_run: FromQuery[bool] = False,
) -> dict[str, Any]:
    catalog = parse_json(await request.body())
    return await apply_catalog(store, admission, caller(request).tenant, catalog, asked_by(request), dry_run=dry_run)


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

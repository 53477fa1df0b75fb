"""Opens what answers requests for one tenant, so that commands about a subject do what the routes do."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.app import Gateway, Parts
from gateway.subjects import status_of
from ledger import overrides, tenants
from ledger.store import ALL_TENANTS, Store
from quota.errors import NotFound
from quota.identifiers import checked_identifier
from quotagate.operator import stores
from quotagate.patience import saying_what_takes_long

PATIENCE_MS = 2_000
"""A person waits longer than a request does, and this process has only just connected."""
REQUEST_ID = "cli"
MOST_OVERRIDES = 200
"""A subject has one a metric at the most."""
Document = dict[str, Any]


@dataclass(frozen=True)
class Opened:
    """A gateway's parts, for one tenant."""

    gateway: Gateway
    parts: Parts
    tenant: str

    @property
    def store(self) -> Store:
        return self.gateway.store

    async def status(self, subject: str) -> Document:
        return await status_of(self.store, self.parts.admission, self.tenant, subject, REQUEST_ID)

    async def overrides(self, subject: str) -> list[Document]:
        now_ms = self.parts.admission.now_ms()
        return await self.store.run(self.tenant, overrides.with_authors, self.tenant, subject, now_ms, MOST_OVERRIDES)


@asynccontextmanager
async def opened(environment: Mapping[str, str], data: Path, tenant: str) -> AsyncGenerator[Opened, None]:
    """NotFound if there is no such tenant; whatever keeps a gateway from opening."""
    checked_identifier(tenant, "tenant")
    settings = stores(environment, data, "redis_url", "database_url")
    gateway = Gateway(replace(settings, admin_key="", deadline_ms=max(settings.deadline_ms, PATIENCE_MS)))
    try:
        with saying_what_takes_long("opening the stores …"):
            parts = await gateway.open()
        if not await gateway.store.run(ALL_TENANTS, tenants.exists, tenant):
            raise NotFound(f"there is no tenant {tenant}: `quotagate tenant list` shows them")
        yield Opened(gateway, parts, tenant)
    finally:
        await gateway.close()

"""The catalogs that this process has read. Never stale where it matters: every step names the version that it was put
together with, and a script that knows a newer one charges nothing and says so.
"""

import asyncio

from ledger import catalogs
from ledger.store import Store
from quota.catalog import Catalog

MAX_TENANTS = 10_000


class CatalogCache:
    """One read of Postgres a tenant and version, however many requests want it at once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, tuple[int, Catalog]] = {}
        self._reading: dict[str, asyncio.Task[tuple[int, Catalog]]] = {}

    async def get(self, tenant: str) -> tuple[int, Catalog]:
        """The newest version that this process knows of, and its catalog; version 0 is a tenant without one."""
        return self._known.get(tenant) or await self.refresh(tenant)

    def known(self, tenant: str) -> Catalog | None:
        """The catalog as this process last read it."""
        found = self._known.get(tenant)
        return None if found is None else found[1]

    async def refresh(self, tenant: str) -> tuple[int, Catalog]:
        """The newest version there is. Whoever asks while a read is under way waits for the next one, because the
        read may have begun before the change that the asker knows of."""
        under_way = self._reading.get(tenant)
        if under_way is not None:
            await asyncio.wait([under_way])
            if (next_one := self._reading.get(tenant)) is not None:
                return await asyncio.shield(next_one)
        task = asyncio.create_task(self._read(tenant))
        self._reading[tenant] = task
        return await asyncio.shield(task)

    def put(self, tenant: str, version: int, catalog: Catalog) -> None:
        """Takes over what was just read or written elsewhere in this process."""
        known = self._known.get(tenant)
        if version > 0 and (known is None or known[0] < version):
            if len(self._known) >= MAX_TENANTS:
                self._known.pop(next(iter(self._known)))
            self._known[tenant] = (version, catalog)

    async def _read(self, tenant: str) -> tuple[int, Catalog]:
        try:
            version, catalog = await self._store.run(tenant, catalogs.newest, tenant)
        finally:
            self._reading.pop(tenant, None)
        self.put(tenant, version, catalog)
        return version, catalog

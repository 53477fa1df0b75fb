"""Looks up keys that this process has not seen, together: those that come while one query runs wait for the next one.

So whoever tries keys, however many at once, has one of the store's connections and no more, and who comes with a good
key waits for two queries at most.
"""

import asyncio
from itertools import islice

from ledger import api_keys
from ledger.api_keys import KeyRecord
from ledger.store import ALL_TENANTS, Store

MOST_AT_ONCE = 1_000
"""Of ids in one query: far more than requests that a process serves at a time."""


class KeyLookups:
    """Of one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, asyncio.Future[KeyRecord | None]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def find(self, key_id: str) -> KeyRecord | None:
        """The key, None if there is none or it was revoked. LedgerUnavailable."""
        found = self._waiting.get(key_id)
        if found is None:
            found = self._waiting[key_id] = asyncio.get_running_loop().create_future()
        if self._reading is None:
            self._reading = asyncio.create_task(self._read())
        return await asyncio.shield(found)  # others may wait for it, too

    async def _read(self) -> None:
        while self._waiting:
            asked = dict(islice(self._waiting.items(), MOST_AT_ONCE))
            for key_id in asked:
                del self._waiting[key_id]
            try:
                living = await self._store.run(ALL_TENANTS, api_keys.living, list(asked))
            except Exception as error:
                for future in asked.values():
                    future.set_exception(error)
            else:
                for key_id, future in asked.items():
                    future.set_result(living.get(key_id))
        self._reading = None

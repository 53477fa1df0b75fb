"""When keys were used last, for whoever tidies up: noted beside the requests, for all keys in one statement, and for
each about once a minute. A request writes nothing, and one that Postgres cannot be told of is served all the same.
"""

import time
from collections.abc import Callable, Mapping
from itertools import islice

from gateway.for_ever import for_ever
from ledger import api_keys
from ledger.store import ALL_TENANTS, Store

LOOK_EVERY_S = 1.0
NOTE_EVERY_S = 60.0
"""Of one key: who looks for keys that nobody uses asks for days."""
MOST_AT_ONCE = 1_000
"""Of keys in one statement; the others are noted by the next."""


class KeyUses:
    """Of one process. `used_at` says when it saw each key last, in seconds since 1970, by its id."""

    def __init__(self, store: Store, used_at: Callable[[], Mapping[str, float]]) -> None:
        self._store = store
        self._used_at = used_at
        self._noted: dict[str, float] = {}

    async def keep_going(self) -> None:
        """Notes them, for ever."""
        await for_ever(LOOK_EVERY_S, "noting when keys were used", self.run_once)

    async def run_once(self) -> int:
        """How many were noted. LedgerUnavailable: then they are due still."""
        used, long_ago = self._used_at(), time.time() - NOTE_EVERY_S
        self._noted = {key_id: at for key_id, at in self._noted.items() if key_id in used or at > long_ago}
        late = ((key_id, at) for key_id, at in used.items() if at - self._noted.get(key_id, 0.0) >= NOTE_EVERY_S)
        due = dict(islice(late, MOST_AT_ONCE))
        if due:
            instants = {key_id: int(at * 1000) for key_id, at in due.items()}
            await self._store.run(ALL_TENANTS, api_keys.note_uses, instants)
            self._noted |= due
        return len(due)

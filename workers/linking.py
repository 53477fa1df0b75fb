"""Links new entries into their shards' chains (ledger/chain.py), behind the drain and away from requests."""

import structlog
from sqlalchemy import Engine

from ledger import chain, shards
from ledger.store import ALL_TENANTS, transaction
from quota.errors import LedgerUnavailable
from quota.journal import Place

MAX_LINKS = 200
"""Of one run: four million entries, which is more than come in between two runs."""

log = structlog.get_logger()


class Linking:
    """Bound to one ledger; knows what it has linked, so that idle shards cost nothing."""

    def __init__(self, engine: Engine, max_entries: int = chain.MAX_ENTRIES) -> None:
        self._engine = engine
        self._max_entries = max_entries
        self._linked: dict[int, Place] = {}

    def run_once(self) -> int:
        """Links what the ledger has got since; how many entries. Safe to run twice at once: a shard has one chain."""
        with transaction(self._engine, ALL_TENANTS) as connection:
            offsets = shards.offsets(connection)
        linked = links = 0
        for shard, offset in offsets.items():
            while self._linked.get(shard) != offset and links < MAX_LINKS:
                links += 1
                try:
                    with transaction(self._engine, ALL_TENANTS) as connection:
                        found = chain.extend(connection, shard, self._max_entries)
                except LedgerUnavailable:
                    raise
                except Exception as error:
                    # Whatever somebody has done to the links of one shard, the others' entries are linked.
                    reason = f"{type(error).__name__}: {error}".splitlines()[0]
                    log.error("the entries of a shard are not linked", shard=shard, reason=reason)
                    break
                linked += found
                if found < self._max_entries:
                    self._linked[shard] = offset
        return linked

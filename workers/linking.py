"""Links new entries into their shards' chains (ledger/chain.py), behind the drain and away from requests."""

from sqlalchemy import Engine

from ledger import chain, shards
from ledger.store import ALL_TENANTS, transaction
from quota.journal import Place

MAX_LINKS = 200
"""Of one run: four million entries, which is more than come in between two runs."""


class Linking:
    """Bound to one ledger; knows what it has linked, so that idle shards cost nothing."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._linked: dict[int, Place] = {}

    def run_once(self) -> int:
        """Links what the ledger has got since; how many entries. Safe to run twice at once: a shard has one chain."""
        with transaction(self._engine, ALL_TENANTS) as connection:
            offsets = shards.offsets(connection)
        linked = links = 0
        for shard, offset in offsets.items():
            while self._linked.get(shard) != offset and links < MAX_LINKS:
                with transaction(self._engine, ALL_TENANTS) as connection:
                    found = chain.extend(connection, shard)
                linked, links = linked + found, links + 1
                if found < chain.MAX_ENTRIES:
                    self._linked[shard] = offset
        return linked

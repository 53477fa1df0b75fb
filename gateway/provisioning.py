"""Brings accounts into Redis that it does not know, or knows by older terms, from what Postgres says of them.

Gathered as checking is: one read of Postgres for all the accounts that a turn of the loop found missing, and one for
all the requests that miss the same account.
"""

import asyncio
from dataclasses import dataclass

from ledger.openings import Reading, opening, read
from ledger.store import ALL_TENANTS, Store
from quota import protocol
from quota.counters import Counters
from quota.errors import CountersUnavailable
from quota.keys import AccountName
from quota.protocol import Bringing, together

MAX_BATCH_ACCOUNTS = 500
MAX_WAITING_ACCOUNTS = 50_000


@dataclass(frozen=True, slots=True)
class Missing:
    """An account that a script could not use, with what the script knew: only in this epoch, and behind this fence, may
    it be written."""

    shard: int
    account: AccountName
    epoch: int
    fence: str
    now_ms: int


class Provisioner:
    """Async; one a process."""

    def __init__(self, counters: Counters, store: Store) -> None:
        self._counters = counters
        self._store = store
        self._waiting: dict[str, tuple[Missing, asyncio.Future[str]]] = {}
        self._flushing: set[asyncio.Task[None]] = set()

    async def provision(self, missing: list[Missing]) -> None:
        """Writes the accounts, or finds that something moved meanwhile: either way the caller asks Redis again.

        LedgerUnavailable when Postgres is away; CountersUnavailable while the journal of an older epoch is not drained.
        """
        outcomes = await asyncio.gather(*(asyncio.shield(self._enqueue(each)) for each in missing))
        if "undrained" in outcomes:
            raise CountersUnavailable("the counters are being rebuilt; nothing was charged")
        if any(outcome.startswith("failed") for outcome in outcomes):
            raise CountersUnavailable("the journal refuses entries; nothing was charged")

    def _enqueue(self, missing: Missing) -> asyncio.Future[str]:
        key = f"{missing.epoch} {missing.fence} {missing.account.key(missing.shard)}"
        if key in self._waiting:
            return self._waiting[key][1]
        if len(self._waiting) >= MAX_WAITING_ACCOUNTS:
            raise CountersUnavailable(f"{MAX_WAITING_ACCOUNTS} accounts are waiting to be read; nothing was charged")
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[key] = (missing, future)
        if len(self._waiting) == 1:
            asyncio.get_running_loop().call_soon(self._flush)
        return future

    def _flush(self) -> None:
        waiting, self._waiting = list(self._waiting.values()), {}
        for first in range(0, len(waiting), MAX_BATCH_ACCOUNTS):
            task = asyncio.create_task(self._write(waiting[first : first + MAX_BATCH_ACCOUNTS]))
            self._flushing.add(task)
            task.add_done_callback(self._flushing.discard)

    async def _write(self, batch: list[tuple[Missing, asyncio.Future[str]]]) -> None:
        batch = sorted(batch, key=lambda each: each[0].shard)
        now_ms = max(missing.now_ms for missing, _ in batch)
        try:
            wanted = [missing.account for missing, _ in batch]
            reading = await self._store.run(ALL_TENANTS, read, wanted, now_ms)
            found = [_bringing(missing, reading) for missing, _ in batch]
            calls = [protocol.provision(some) for some in together(found)]
            replies = await self._counters.run_all(calls)
        except Exception as error:
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        words: list[bytes | Exception] = []
        for some, reply in zip(together(found), replies, strict=True):
            words += [reply] * len(some) if isinstance(reply, Exception) else reply
        for (_, future), word in zip(batch, words, strict=True):
            if future.done():
                continue
            if isinstance(word, Exception):
                future.set_exception(CountersUnavailable("the counters refuse to write; nothing was charged"))
            else:
                future.set_result(word.decode())


def _bringing(missing: Missing, reading: Reading) -> Bringing:
    return Bringing(missing.shard, missing.epoch, missing.fence, opening(missing.account, missing.now_ms, reading))

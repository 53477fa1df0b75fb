"""What must not be forgotten although the counters are away: written down in Postgres, or, when that is away too, on
this machine's own disk.
"""

import asyncio
from collections import deque
from collections.abc import Iterable
from pathlib import Path

import structlog

from gateway import metrics
from gateway.for_ever import for_ever
from gateway.spool import Spool
from ledger import outages
from ledger.outages import LetThrough, LostReply, Note
from ledger.store import ALL_TENANTS, Store
from quota.errors import CountersUnavailable, LedgerUnavailable

KEEP_WITHIN_S = 0.02
"""The caller has waited for the counters already. A ledger that takes longer may have the note all the same; it goes to
the disk as well, and is done once."""
AWAY_FOR_S = 1.0
"""How long a ledger that was away is not asked again: nobody waits for it twice."""
MAX_AT_ONCE = 1_000
"""One statement of the ledger takes far less than its deadline."""
MAX_WAITING = 20_000
STORE_EVERY_S = 0.5

log = structlog.get_logger()


class Keeping:
    """One a process. Notes are written in the order in which they come, one batch at a time: what comes while one is
    written goes together into the next."""

    def __init__(self, store: Store, spool: Spool) -> None:
        self._store = store
        self._spool = spool
        self._waiting: deque[tuple[Note, asyncio.Future[None] | None]] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._ask_ledger_at = 0.0

    async def keep(self, note: LetThrough) -> None:
        """Returns once the note, and every one that came before it, is safe. CountersUnavailable if nothing can take
        it."""
        if len(self._waiting) >= MAX_WAITING:
            raise CountersUnavailable(f"{MAX_WAITING} requests wait to be written down already; nothing was charged")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((note, future))
        self._write_soon()
        await future

    def note(self, notes: Iterable[LostReply]) -> None:
        """Keeps notes for which nobody waits."""
        for note in notes:
            if len(self._waiting) >= MAX_WAITING:
                log.error("more replies are lost than can be written down: what they charged stays", most=MAX_WAITING)
                break
            self._waiting.append((note, None))
        self._write_soon()

    def _write_soon(self) -> None:
        if self._writing is None and self._waiting:
            self._writing = asyncio.create_task(self._write_all())

    async def _write_all(self) -> None:
        try:
            while self._waiting and await self._write_next():
                pass
        finally:
            self._writing = None

    async def _write_next(self) -> bool:
        """Writes a batch; False if nothing is left but what could not be written just now."""
        batch = [self._waiting.popleft() for _ in range(min(MAX_AT_ONCE, len(self._waiting)))]
        error, left = None, 0
        try:
            await self._write([note for note, _ in batch])
        except Exception as found:  # whatever it was, the callers are waiting for it
            error = found
            if all(future is None for _, future in batch):
                # Whoever waits behind these hears it too: nothing is written before them.
                batch, self._waiting = [*batch, *self._waiting], deque()
            # Those for which nobody waits go before whatever comes next, or with it.
            untold = [each for each in batch if each[1] is None]
            self._waiting.extendleft(reversed(untold))
            left = len(untold)
        for _, future in batch:
            if future is None or future.done():
                continue
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)
        return error is None or len(self._waiting) > left

    async def _write(self, notes: list[Note]) -> None:
        loop = asyncio.get_running_loop()
        is_asked = loop.time() >= self._ask_ledger_at
        if is_asked:
            try:
                async with asyncio.timeout(KEEP_WITHIN_S):
                    return await self._store.run(ALL_TENANTS, outages.keep, notes)
            except (LedgerUnavailable, TimeoutError):
                self._ask_ledger_at = loop.time() + AWAY_FOR_S
        try:
            await asyncio.to_thread(self._spool.append, notes)
        except OSError as error:
            # A ledger that did not answer may have taken it down.
            more = "; it may be charged when they are back" if is_asked else ""
            raise CountersUnavailable(
                f"neither the counters nor the ledger nor a disk can take this down{more}"
            ) from error

    async def keep_going(self) -> None:
        """Moves what the disk keeps into the ledger, for ever."""
        await for_ever(STORE_EVERY_S, "what this machine's disk keeps for the ledger", self.run_once)

    async def run_once(self) -> None:
        """Stores every file that no process appends to any more."""
        self._write_soon()
        waits = await asyncio.to_thread(self._spool.size)
        metrics.spooled_bytes.set(waits)
        if not waits:
            return
        # While the ledger is away, no file is closed and none is read.
        await self._store.run(ALL_TENANTS, outages.keep, [])
        obstacle = None
        for path in await asyncio.to_thread(self._spool.close_files):
            try:
                await self._store_file(path)
            except LedgerUnavailable:
                raise
            except Exception as error:  # whatever it was: it keeps no other file waiting
                obstacle = obstacle or error
        if obstacle is not None:
            raise obstacle

    async def _store_file(self, path: Path) -> None:
        notes = await asyncio.to_thread(self._spool.read, path)
        for first in range(0, len(notes), MAX_AT_ONCE):
            await self._store.run(ALL_TENANTS, outages.keep, notes[first : first + MAX_AT_ONCE])
        await asyncio.to_thread(self._spool.remove, path)

    async def finish(self) -> None:
        """Returns once everything is written, or cannot be."""
        self._write_soon()
        if self._writing is not None:
            await asyncio.wait({self._writing})
        if self._waiting:
            log.error("lost replies could not be written down: what they charged stays", lost=len(self._waiting))

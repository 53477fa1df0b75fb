"""Reading reports beside the hot path: a few at a time, in small pieces, so that neither the ledger's connections nor
the event loop are theirs for long."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from sqlalchemy import Connection

from ledger import reports
from ledger.reports import Piece
from ledger.store import Store
from quota.errors import LedgerUnavailable

READS_AT_ONCE = 2
"""Of the ledger's eight connections, so that six are there for accounts that the counters do not know."""
TURN_AFTER_S = 3.0
"""As long as for a connection of the pool; a caller is told then to come again."""
PIECE_ROWS = 200
"""Of one read; larger ones cost less a row, and hold the event loop up while they are taken in."""
SLICE_ROWS = 50
"""Put into words at a stretch: less than a millisecond. Then whoever waits is served."""
REST_FACTOR = 3
"""A stream rests three times as long as its last piece took. So all streams of a process together take a quarter of it
at the most, and less when it has much to do, because then a piece takes longer."""
MOST_REST_S = 1.0
MAX_PIECES_A_PAGE = 20
"""A page looks at so many pieces; then it ends early, with a cursor, however few of its entries were wanted."""
MAX_STREAMS = 8

P = ParamSpec("P")
T = TypeVar("T")
Place = TypeVar("Place", bound=tuple[Any, ...])
ReadPiece = Callable[[Place | None, int], Awaitable[Piece[Place]]]
"""Reads up to so many rows after a place."""


class Reading:
    """Reads reports for one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turns = asyncio.Semaphore(READS_AT_ONCE)
        self._under_way: set[asyncio.Task[Any]] = set()
        self._streams = 0
        self._pace = asyncio.Lock()

    async def read(
        self, tenant: str, function: Callable[Concatenate[Connection, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Calls `function(connection, …)` in a transaction of the tenant's that only reads. LedgerUnavailable."""
        try:
            async with asyncio.timeout(TURN_AFTER_S):
                await self._turns.acquire()
        except TimeoutError as error:
            raise LedgerUnavailable("too many reports are being read; try again in a moment") from error
        task = asyncio.create_task(self._store.run(tenant, reports.reading, function, *args, **kwargs))
        self._under_way.add(task)
        task.add_done_callback(self._done)
        # A caller who goes away does not give back the turn: the connection is busy until the read ends.
        return await asyncio.shield(task)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._under_way.discard(task)
        self._turns.release()
        if not task.cancelled():
            task.exception()  # whoever asked may be gone

    def check_room(self) -> None:
        """LedgerUnavailable if as many streams are under way as one process serves."""
        if self._streams >= MAX_STREAMS:
            raise LedgerUnavailable(f"{MAX_STREAMS} streams are being read; try again when one of them has ended")

    async def stream(
        self, head: bytes, first: Piece[Place], read_piece: ReadPiece[Place], write: Callable[[Sequence[Any]], bytes]
    ) -> AsyncGenerator[bytes, None]:
        """What comes first, then the rows of every piece as they are written, up to the end of the list, which must
        have one. One piece is held at a time, and no connection while it is sent."""
        self._streams += 1
        try:
            if head:
                yield head
            parts, after = [write(first.rows)], first.after
            while True:
                for part in parts:
                    yield part
                if after is None:
                    return
                parts, after = await self._next_parts(read_piece, after, write)
        finally:
            self._streams -= 1

    async def _next_parts(
        self, read_piece: ReadPiece[Place], after: Place, write: Callable[[Sequence[Any]], bytes]
    ) -> tuple[list[bytes], Place | None]:
        """One piece, written. Streams take turns, and rest before the next one has its turn."""
        async with self._pace:
            began_s = time.monotonic()
            piece = await read_piece(after, PIECE_ROWS)
            parts = []
            for rows in slices_of(piece.rows):
                parts.append(write(rows))
                await asyncio.sleep(0)
            await asyncio.sleep(min(MOST_REST_S, REST_FACTOR * (time.monotonic() - began_s)))
        return parts, piece.after


def slices_of(rows: Sequence[Any]) -> list[Sequence[Any]]:
    """As many rows each as may be put into words at a stretch."""
    return [rows[start : start + SLICE_ROWS] for start in range(0, len(rows), SLICE_ROWS)]


async def page(
    read_piece: ReadPiece[Place],
    place_of: Callable[[Any], Place],
    document: Callable[[Any], T],
    after: Place | None,
    limit: int,
) -> tuple[list[T], Place | None]:
    """The documents of one page, made piece by piece, and the place after which the next page begins; None after the
    last."""
    items: list[T] = []
    for _ in range(MAX_PIECES_A_PAGE):
        piece = await read_piece(after, min(PIECE_ROWS, limit + 1 - len(items)))
        room = limit - len(items)
        for rows in slices_of(piece.rows[:room]):
            items += [document(row) for row in rows]
            await asyncio.sleep(0)
        if len(piece.rows) > room:
            return items, place_of(piece.rows[room - 1]) if room else after
        after = piece.after
        if after is None:
            break
    return items, after

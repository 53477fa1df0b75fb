"""Reports are read a few at a time, and pages and streams piece by piece, whoever goes away meanwhile."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import pytest
from sqlalchemy import Connection

from gateway import reading, streams
from gateway.reading import MAX_PIECES_A_PAGE, MAX_STREAMS, PIECE_ROWS, READS_AT_ONCE, Reading, page
from gateway.streams import BoundedStream
from ledger.reports import Piece
from quota.errors import LedgerUnavailable

Row = tuple[int]


class List:
    """The rows 0 to `count`, of which each piece shows those that are `wanted` among the `look` that it looks at."""

    def __init__(self, count: int, wanted: int = 1, look: int = 10_000) -> None:
        self.count, self.wanted, self.look = count, wanted, look
        self.asked: list[int] = []

    async def read(self, after: Row | None, most: int) -> Piece[Row]:
        self.asked.append(most)
        first = 0 if after is None else after[0] + 1
        last = min(first + self.look, self.count)
        rows = [(n,) for n in range(first, last) if n % self.wanted == 0][:most]
        if len(rows) == most:
            return Piece(rows, rows[-1])
        return Piece(rows, (last - 1,) if last < self.count else None)


async def walked(rows: List, limit: int) -> list[list[int]]:
    pages, after = [], None
    while True:
        items, after = await page(rows.read, lambda row: row, lambda row: row[0], after, limit)
        pages.append(items)
        if after is None:
            return pages


@pytest.mark.parametrize("limit", [1, 7, 200, 201, 1_000])
@pytest.mark.parametrize("count", [0, 1, 199, 200, 201, 1_000, 1_001, 2_500])
def test_pages_are_full_up_to_the_last_and_no_page_comes_after_it(count: int, limit: int) -> None:
    pages = asyncio.run(walked(List(count), limit))
    assert [n for items in pages for n in items] == list(range(count))
    assert [len(items) for items in pages[:-1]] == [limit] * (len(pages) - 1)
    assert len(pages) == max(1, -(-count // limit))


def test_a_page_looks_at_a_bounded_stretch_and_the_next_one_goes_on_there() -> None:
    rows = List(10_000, wanted=3_000, look=20)
    first = asyncio.run(page(rows.read, lambda row: row, lambda row: row[0], None, 100))
    assert len(rows.asked) == MAX_PIECES_A_PAGE
    assert first == ([0], (20 * MAX_PIECES_A_PAGE - 1,))
    assert [n for items in asyncio.run(walked(rows, 100)) for n in items] == [0, 3_000, 6_000, 9_000]


def test_no_piece_is_larger_than_the_event_loop_can_bear() -> None:
    rows = List(3_000)
    asyncio.run(walked(rows, 1_000))
    assert max(rows.asked) == PIECE_ROWS


class Slow:
    """A ledger whose reads last until they are let go."""

    def __init__(self) -> None:
        self.going = 0
        self.most = 0
        self.gate = asyncio.Event()

    async def run(self, *_: Any) -> str:
        self.going += 1
        self.most = max(self.most, self.going)
        try:
            await self.gate.wait()
        finally:
            self.going -= 1
        return "read"


def whatever(_: Connection) -> str:
    raise AssertionError("the ledger of these tests does not call it")


async def turns(of: int) -> None:
    for _ in range(of):
        await asyncio.sleep(0)


def test_a_few_reads_go_on_at_once_and_the_others_wait_for_their_turn() -> None:
    async def story() -> None:
        store: Any = Slow()
        reader = Reading(store)
        reads = [asyncio.create_task(reader.read("t", whatever)) for _ in range(9)]
        await turns(20)
        assert store.going == READS_AT_ONCE
        store.gate.set()
        assert await asyncio.gather(*reads) == ["read"] * 9
        assert store.most == READS_AT_ONCE

    asyncio.run(story())


def test_whoever_waits_too_long_for_a_turn_is_told_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "TURN_AFTER_S", 0.01)

    async def story() -> None:
        store: Any = Slow()
        reader = Reading(store)
        reads = [asyncio.create_task(reader.read("t", whatever)) for _ in range(READS_AT_ONCE)]
        await turns(5)
        with pytest.raises(LedgerUnavailable, match="too many reports"):
            await reader.read("t", whatever)
        store.gate.set()
        await asyncio.gather(*reads)
        assert await reader.read("t", whatever) == "read"

    asyncio.run(story())


def test_a_caller_who_goes_away_gives_its_turn_back_only_when_its_read_has_ended() -> None:
    async def story() -> None:
        store: Any = Slow()
        reader = Reading(store)
        for _ in range(20):
            read = asyncio.create_task(reader.read("t", whatever))
            await turns(5)
            read.cancel()
            await turns(5)
        assert store.most == READS_AT_ONCE
        store.gate.set()
        assert await reader.read("t", whatever) == "read"

    asyncio.run(story())


class Caller:
    """The other end of a stream: takes `takes` messages, then none; or goes away after that."""

    def __init__(self, takes: int = 10_000, *, goes: bool = False) -> None:
        self.takes, self.goes = takes, goes
        self.gone = asyncio.Event()
        self.messages: list[dict[str, Any]] = []

    async def receive(self) -> Any:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Any) -> None:
        if len(self.messages) >= self.takes:
            if self.goes:
                self.gone.set()
            await asyncio.Event().wait()
        self.messages.append(message)
        if self.is_whole:
            self.gone.set()  # as the server says when an answer is complete

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.messages)

    @property
    def is_whole(self) -> bool:
        return self.messages[-1].get("more_body") is False


async def streamed(reader: Reading, caller: Caller, rows: List) -> None:
    def write(found: Sequence[Row]) -> bytes:
        return b"".join(b"%d\n" % n for (n,) in found)

    pieces = reader.stream(b"head\n", await rows.read(None, PIECE_ROWS), rows.read, write)
    response = BoundedStream(pieces, "text/csv", "x.csv").to_asgi_response(None, None, status_code=200)
    scope: Any = {}

    await asyncio.wait_for(response(scope, caller.receive, caller.send), 10)


@pytest.fixture
def reader() -> Iterator[Reading]:
    store: Any = None
    found = Reading(store)
    yield found
    found.check_room()
    assert found._streams == 0, "a stream that has ended gives its place back"


class TestStreams:
    def test_all_is_sent_in_pieces_and_ended(self, reader: Reading) -> None:
        async def story() -> None:
            caller = Caller()
            await streamed(reader, caller, List(1_050))
            assert caller.body == b"head\n" + b"".join(b"%d\n" % n for n in range(1_050))
            assert caller.is_whole
            assert len(caller.messages) > 1_050 // PIECE_ROWS

        asyncio.run(story())

    def test_while_many_are_sent_the_event_loop_is_free_most_of_the_time(self, reader: Reading) -> None:
        class Costly(List):
            async def read(self, after: Row | None, most: int) -> Piece[Row]:
                until_s = time.process_time() + 0.002
                while time.process_time() < until_s:
                    pass
                return await super().read(after, most)

        async def story() -> None:
            began_s, cpu_s = time.monotonic(), time.process_time()
            await asyncio.gather(*(streamed(reader, Caller(), Costly(2_000)) for _ in range(4)))
            busy = (time.process_time() - cpu_s) / (time.monotonic() - began_s)
            assert busy < 0.5

        asyncio.run(story())

    def test_a_caller_that_stops_reading_is_cut_off(self, reader: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(streams, "STALL_S", 0.05)

        async def story() -> None:
            caller, rows = Caller(takes=3), List(100_000)
            await streamed(reader, caller, rows)
            assert len(caller.messages) == 3 and not caller.is_whole
            assert len(rows.asked) <= 3

        asyncio.run(story())

    def test_a_caller_that_goes_away_ends_it_at_once(self, reader: Reading) -> None:
        async def story() -> None:
            caller, rows = Caller(takes=3, goes=True), List(100_000)
            await streamed(reader, caller, rows)
            assert not caller.is_whole
            assert len(rows.asked) <= 3

        asyncio.run(story())

    def test_one_that_cannot_be_read_on_is_cut_off_and_not_ended(self, reader: Reading) -> None:
        class Failing(List):
            async def read(self, after: Row | None, most: int) -> Piece[Row]:
                if after is not None and after[0] > 300:
                    raise LedgerUnavailable("away")
                return await super().read(after, most)

        async def story() -> None:
            caller = Caller()
            await streamed(reader, caller, Failing(1_000))
            assert caller.body.endswith(b"399\n") and not caller.is_whole

        asyncio.run(story())

    def test_one_too_many_is_refused_before_it_begins(self) -> None:
        async def story() -> None:
            store: Any = None
            reader = Reading(store)
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(MAX_STREAMS):
                    reader.check_room()
                    await anext(await stack.enter_async_context(contextlib.aclosing(endless(reader))))
                with pytest.raises(LedgerUnavailable, match="streams"):
                    reader.check_room()
            reader.check_room()

        asyncio.run(story())


def endless(reader: Reading) -> AsyncGenerator[bytes, None]:
    return reader.stream(b"head\n", Piece([(0,)], (0,)), List(10**9).read, lambda _: b"more\n")

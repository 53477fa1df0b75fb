"""Keeping with its surroundings: a ledger and a disk that fail as they are told to."""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway.keeping import Keeping
from gateway.spool import Spool
from ledger import outages
from ledger.outages import Note
from tests.unit import virtual_time
from tests.unit.fakes import FakeStore
from tests.unit.outage_scene import let_through, spooled


class Ledger(FakeStore):
    """Remembers each write by the names of its notes; where it hangs, until it is let go."""

    def __init__(self) -> None:
        super().__init__({outages.keep: self._keep})
        self.writes: list[list[str]] = []
        self.begun = 0
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def run(self, tenant: str, function: Callable[..., Any], *arguments: Any) -> Any:
        self.begun += 1
        await self.goes_on.wait()
        return await super().run(tenant, function, *arguments)

    def _keep(self, notes: Sequence[Note]) -> None:
        if notes:
            self.writes.append([each.request_id for each in notes])


class Disk(Spool):
    """A spool that may be full."""

    is_full = False

    def append(self, notes: Sequence[Note]) -> None:
        if self.is_full:
            raise OSError("no space left")
        super().append(notes)


class Scene:
    def __init__(self, folder: Path) -> None:
        self.ledger, self.disk = Ledger(), Disk(folder)
        stores: Any = (self.ledger, self.disk)
        self.keeping = Keeping(*stores)

    def asks(self, *idents: str) -> list[asyncio.Task[None]]:
        """Callers who wait for a note each."""
        return [asyncio.create_task(self.keeping.keep(let_through(each))) for each in idents]

    async def told(self, *idents: str) -> list[type[BaseException] | None]:
        """What became of some callers, who are told at last."""
        async with asyncio.timeout(60):
            found = await asyncio.gather(*self.asks(*idents), return_exceptions=True)
        return [None if each is None else type(each) for each in found]

    def spooled(self) -> list[str]:
        return [each.request_id for each in spooled(self.disk)]


@contextmanager
def scene_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    """One for a loop of virtual time, which cannot wait for a thread."""

    async def at_once(function: Callable[..., Any], *arguments: Any) -> Any:
        return function(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", at_once)
    scene = Scene(folder / "spool")
    yield scene
    scene.disk.close_files()


def run(work: Coroutine[Any, Any, Any]) -> None:
    virtual_time.run(work)


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)

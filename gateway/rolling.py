"""Rolls accounts whose period is over. At a boundary that is all of them at once: rolls are gathered as checks are."""

import asyncio

from quota.counters import Counters
from quota.errors import CountersUnavailable
from quota.protocol import Call
from quota.replies import AccountState
from quota.rolling import roll_call


class Roller:
    """Async; one a process."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._waiting: dict[str, tuple[Call, asyncio.Future[None]]] = {}
        self._rolling: set[asyncio.Task[None]] = set()

    async def roll(self, shard: int, state: AccountState, now_ms: int) -> None:
        """Rolls the account, or finds that it was rolled meanwhile: either way the caller asks Redis again."""
        if state.account_key not in self._waiting:
            if not self._waiting:
                asyncio.get_running_loop().call_soon(self._flush)
            call = roll_call(shard, state.account_key, state.window, state.caps, now_ms)
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting[state.account_key] = (call, future)
        await asyncio.shield(self._waiting[state.account_key][1])

    def _flush(self) -> None:
        waiting, self._waiting = list(self._waiting.values()), {}
        task = asyncio.create_task(self._run(waiting))
        self._rolling.add(task)
        task.add_done_callback(self._rolling.discard)

    async def _run(self, waiting: list[tuple[Call, asyncio.Future[None]]]) -> None:
        try:
            replies = await self._counters.run_all([call for call, _ in waiting])
        except Exception as error:  # whatever it was, the callers are waiting for it
            replies = [error] * len(waiting)
        for (_, future), reply in zip(waiting, replies, strict=True):
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(CountersUnavailable("the counters refuse to write; nothing was charged"))
            else:
                future.set_result(None)

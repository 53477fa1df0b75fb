"""Answers that are written piece by piece while they are read, to callers who may be slow, or gone."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import structlog
from litestar.response import Stream
from litestar.response.base import ASGIResponse
from litestar.response.streaming import ASGIStreamingResponse
from litestar.types import Message, Receive, Send

from quota.errors import LedgerUnavailable

STALL_S = 30.0
"""A caller that takes nothing for so long has stopped reading; a slow one takes a piece of some 50 KB in that time."""

log = structlog.get_logger()


class _Bounded(ASGIStreamingResponse):
    """Ends where the caller stops reading, or the ledger cannot be read on. The answer is then cut off without its
    last chunk, so that nobody takes it for a whole one."""

    __slots__ = ()

    async def send_body(self, send: Send, receive: Receive) -> None:
        async def send_in_time(message: Message) -> None:
            async with asyncio.timeout(STALL_S):
                await send(message)

        assert isinstance(self.iterator, AsyncGenerator), "it is closed here, so that nothing of it is left behind"
        try:
            async with aclosing(self.iterator):
                await super().send_body(send_in_time, receive)
        except* TimeoutError:
            log.warning("a stream was cut off: its caller stopped reading")
        except* LedgerUnavailable as errors:
            log.error("a stream was cut off: the ledger cannot be read", reason=str(errors.exceptions[0]))


class BoundedStream(Stream):
    """A stream whose every piece is taken within STALL_S."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], media_type: str, file_name: str) -> None:
        disposition = f'attachment; filename="{file_name}"'
        self._pieces = pieces
        super().__init__(pieces, media_type=media_type, headers={"content-disposition": disposition})

    def to_asgi_response(self, app: Any, request: Any, **how: Any) -> ASGIResponse:
        """As Litestar makes it, but of our own kind; nothing here sets cookies or has work for afterwards."""
        return _Bounded(
            iterator=self._pieces,
            headers={**(how.get("headers") or {}), **self.headers},
            encoded_headers=how.get("encoded_headers"),
            is_head_response=how.get("is_head_response", False),
            media_type=self.media_type,
            status_code=how.get("status_code"),
        )

"""HTTP on a connection: what uvicorn answers by itself, in our words; how a connection ends when a gateway stops."""

from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.problems import MEDIA_TYPE, problem
from gateway.requests import request_id

IDLE_AT_STOP_S = 2.0
"""A caller that has kept a connection open may be sending its next request at this moment. It is answered, and told
that it was the last one; whoever says nothing for so long is hung up on, as after `timeout_keep_alive` at any time."""


class Protocol(HttpToolsProtocol):
    """A request that is not HTTP gets a problem document too, and one that comes while the gateway stops its answer."""

    stops = False

    def shutdown(self) -> None:
        """The gateway stops. uvicorn would hang up at once, and a request that is on its way would be reset."""
        self.stops = True
        self._last_one()
        self._hang_up_if_idle()

    def on_headers_complete(self) -> None:
        super().on_headers_complete()
        if self.stops:
            self._last_one()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.stops:
            self._hang_up_if_idle()

    def _last_one(self) -> None:
        """Tells the caller with its answer that no other follows, where nothing of that was sent yet."""
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_started:
            cycle.keep_alive = False

    def _hang_up_if_idle(self) -> None:
        cycle: Any = self.cycle
        if self.transport.is_closing() or not (cycle is None or cycle.response_complete):
            return
        self._unset_keepalive_if_required()
        self.timeout_keep_alive_task = self.loop.call_later(IDLE_AT_STOP_S, self.timeout_keep_alive_handler)

    def send_400_response(self, msg: str) -> None:
        body = msgspec.json.encode(problem("INVALID_REQUEST", msg, ""))
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(
            head.encode() + f"x-request-id: {request_id(None)}\r\nconnection: close\r\n\r\n".encode() + body
        )
        self.transport.close()

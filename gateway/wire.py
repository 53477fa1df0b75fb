"""What uvicorn answers by itself, before any application is asked: in our words."""

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway.problems import MEDIA_TYPE, problem
from gateway.requests import request_id


class Protocol(HttpToolsProtocol):
    """A request that is not HTTP gets a problem document too."""

    def send_400_response(self, msg: str) -> None:
        body = msgspec.json.encode(problem("INVALID_REQUEST", msg, ""))
        head = f"HTTP/1.1 400 Bad Request\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n"
        self.transport.write(
            head.encode() + f"x-request-id: {request_id(None)}\r\nconnection: close\r\n\r\n".encode() + body
        )
        self.transport.close()

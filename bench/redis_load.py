"""A Redis client that does nothing but send what was packed beforehand, and what Redis says of its own work."""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import hiredis
from redis import Redis

RECEIVE_BYTES = 1 << 18


class Wire:
    """One blocking connection for packed commands."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._socket = socket.create_connection((parts.hostname or "127.0.0.1", parts.port or 6379))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = hiredis.Reader()
        if parts.password:
            self.trip([pack("AUTH", parts.password)])

    def trip(self, packed: Sequence[bytes]) -> list[Any]:
        """Sends all commands at once and gives their replies; raises the first error among them."""
        self._socket.sendall(b"".join(packed))
        replies: list[Any] = []
        while len(replies) < len(packed):
            reply = self._reader.gets()
            if reply is False:
                self._reader.feed(self._socket.recv(RECEIVE_BYTES))
                continue
            if isinstance(reply, Exception):
                raise reply
            replies.append(reply)
        return replies

    def close(self) -> None:
        self._socket.close()


def pack(*words: str | bytes | int) -> bytes:
    packed: bytes = hiredis.pack_command(cast(Any, words))  # its stub asks for a tuple of one word
    return packed


@dataclass(frozen=True, slots=True)
class Work:
    """What Redis has done since it started. `cpu_us` is the main thread's, user and system; `script_us` is wall time
    inside EVALSHA, which a busy machine prolongs."""

    cpu_us: float
    script_us: float
    script_calls: int

    def __sub__(self, other: "Work") -> "Work":
        return Work(
            self.cpu_us - other.cpu_us, self.script_us - other.script_us, self.script_calls - other.script_calls
        )


def work(connection: "Redis") -> Work:
    cpu: Any = connection.info("cpu")
    stats: Any = connection.info("commandstats")
    evalsha = stats.get("cmdstat_evalsha", {"usec": 0, "calls": 0})
    seconds = cpu["used_cpu_user_main_thread"] + cpu["used_cpu_sys_main_thread"]
    return Work(seconds * 1e6, evalsha["usec"], evalsha["calls"])

"""How a running gateway hands its listening socket to a newer one on the same machine, so that nobody is refused.

Both accept from one queue for a moment. A socket of the newer one's own beside it (SO_REUSEPORT) would not do: what
waits in the older one's queue would be reset when that is closed.

The older one listens on a Unix socket that is named after its address, in a folder that belongs to its user alone. The
newer one connects, and is given the listening socket with the name of the deployment that is served there: whoever has
another name for its own leaves the socket alone. When it serves it says so, and the older one stops: accepts no
more, answers what is under way, and ends. If the newer one dies before, the older one goes on.
"""

import hmac
import os
import socket
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog

from quota.errors import QuotagateError, Unsafe

FOLDER = Path("/var/tmp")  # noqa: S108 - what is in it is checked to be our user's own
HANDED = b"L"
SERVING = b"S"
MAX_NAME = 64
ANSWER_S = 10.0
"""Whoever listens there has nothing to do but ask the ledger for its name, and hand the socket over."""
STARTS_WITHIN_S = 600.0
"""A newer one that takes longer hangs, and keeps others from taking over."""
PAUSE_S = 1.0
MAX_HANDINGS = 1_000_000

log = structlog.get_logger()


def _place(host: str, port: int) -> Path | None:
    """Where the gateway of this address is found; None if that folder is not ours alone."""
    folder = FOLDER / f"quotagate-{os.getuid()}-gateways"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return None
    is_ours = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
    return folder / f"{host.replace(':', '_')}-{port}" if is_ours else None


class TakenOver:
    """A listening socket that an older gateway has handed over; it accepts as well until it hears `serving`."""

    def __init__(self, listener: socket.socket, older: socket.socket) -> None:
        self.listener = listener
        self._older = older

    def serving(self) -> None:
        """Tells the older one to stop. One that is gone by now has stopped already."""
        with suppress(OSError):
            self._older.sendall(SERVING)
        self._older.close()


def take_over(host: str, port: int, deployment: bytes) -> TakenOver | None:
    """What the gateway hands over that listens on this address; None if no gateway of this user does. Unsafe if that
    one serves another deployment."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4]
    except OSError:
        return None
    place = _place(str(address[0]), port)
    if place is None:
        return None
    older = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    older.settimeout(ANSWER_S)
    try:
        older.connect(str(place))
        told, fds, _, _ = socket.recv_fds(older, len(HANDED) + MAX_NAME, 1)
        listener = socket.socket(fileno=fds[0])
        is_it = listener.getsockname()[1] == port
    except (OSError, IndexError):  # nobody is there, or it stops just now
        is_it = False
    if not is_it:
        older.close()
        return None
    if not hmac.compare_digest(told, HANDED + deployment):
        listener.close()
        older.close()
        raise Unsafe(
            f"the gateway that listens on {host}:{port} has another ledger, Redis or pepper, and is left alone: set "
            "QUOTAGATE_PORT or QUOTAGATE_HOST, or give this one the same QUOTAGATE_DATABASE_URL, QUOTAGATE_REDIS_URL "
            "and QUOTAGATE_KEY_PEPPER"
        )
    listener.set_inheritable(True)
    return TakenOver(listener, older)


class HandingOver:
    """Hands a listening socket over to whoever of this user asks, with the name that `deployment` tells; calls `stop`,
    once, when that one serves."""

    def __init__(self, listener: socket.socket, stop: Callable[[], None], deployment: Callable[[], bytes]) -> None:
        # Not a copy: whoever stops closes it, and callers are refused then, and do not wait for nobody.
        self._listener = listener
        self._stop = stop
        self._deployment = deployment
        host, port = listener.getsockname()[:2]
        self._place = _place(host, port)

    def begin(self) -> None:
        """Takes the place of whoever was found there before. Where it cannot, the gateway serves without it."""
        if self._place is None:
            log.warning("this gateway cannot be taken over", folder=str(FOLDER))
            return
        made = self._place.with_name(f"{self._place.name}.{os.getpid()}")
        door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            made.unlink(missing_ok=True)
            door.bind(str(made))
            door.listen(1)
            made.replace(self._place)
        except OSError as error:
            log.warning("this gateway cannot be taken over", reason=str(error))
            door.close()
            return
        threading.Thread(target=self._serve, args=(door,), name="handing over", daemon=True).start()

    def _serve(self, door: socket.socket) -> None:
        with door:
            for _ in range(MAX_HANDINGS):
                try:
                    newer, _ = door.accept()
                except OSError as error:  # too many open files, which pass
                    log.warning("a newer gateway could not be heard", reason=str(error))
                    time.sleep(PAUSE_S)
                    continue
                with newer:
                    if self._hand_over(newer):
                        log.info("a newer gateway serves; this one stops")
                        self._stop()
                        return

    def _hand_over(self, newer: socket.socket) -> bool:
        """Whether the newer one serves. While it starts there is no third; if it dies, the kernel says so."""
        newer.settimeout(STARTS_WITHIN_S)
        try:
            socket.send_fds(newer, [HANDED + self._deployment()], [self._listener.fileno()])
            return newer.recv(1) == SERVING
        except (OSError, QuotagateError) as error:
            log.warning("a newer gateway did not take over", reason=str(error))
            return False

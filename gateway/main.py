"""The gateway process: opens the stores, then serves until it is told to stop."""

import asyncio
import socket
from collections.abc import Callable

import structlog
import uvicorn

from gateway.app import Gateway, build
from gateway.wire import Protocol
from quota.collector import spare_the_collector
from quota.settings import Settings

STOP_AFTER_S = 10
"""Requests under way at a stop have this long to finish; none takes longer than its deadlines add up to."""

log = structlog.get_logger()


class Server(uvicorn.Server):
    """Says when it serves."""

    def __init__(self, config: uvicorn.Config, serving: Callable[[Callable[[], None]], None]) -> None:
        super().__init__(config)
        self._serving = serving

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._serving(self._stop)

    def _stop(self) -> None:
        """As SIGTERM would, but the process ends well. From any thread: the loop looks at it ten times a second."""
        self.should_exit = True


def serve(
    settings: Settings, listener: socket.socket, serving: Callable[[Callable[[], None]], None] = lambda _: None
) -> None:
    """Serves on a listening socket until SIGTERM or SIGINT; at start Unsafe, LedgerUnavailable, CountersUnavailable.
    `serving` is called when requests are answered, with what stops that."""
    config = uvicorn.Config(
        app=_unopened,
        loop="uvloop",
        http=Protocol,
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_AFTER_S,
    )
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
        runner.run(_serve(settings, config, listener, serving))


async def _serve(
    settings: Settings,
    config: uvicorn.Config,
    listener: socket.socket,
    serving: Callable[[Callable[[], None]], None],
) -> None:
    gateway = Gateway(settings)
    try:
        parts = await gateway.open()
    except BaseException:
        await gateway.close()
        raise
    config.app = build(gateway, parts)
    spare_the_collector()
    host, port = listener.getsockname()[:2]
    log.info("gateway listens", host=host, port=port)
    await Server(config, serving).serve(sockets=[listener])


async def _unopened(*_: object) -> None:
    raise RuntimeError("the application is built once the stores are open")

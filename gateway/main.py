"""The gateway process: opens the stores, then serves until it is told to stop."""

import asyncio
import socket

import structlog
import uvicorn

from gateway.app import Gateway, build
from gateway.wire import Protocol
from quota.collector import spare_the_collector
from quota.settings import Settings

STOP_AFTER_S = 10
"""Requests under way at a stop have this long to finish; none takes longer than its deadlines add up to."""

log = structlog.get_logger()


def serve(settings: Settings, listener: socket.socket) -> None:
    """Serves on a listening socket until SIGTERM or SIGINT; at start Unsafe, LedgerUnavailable, CountersUnavailable."""
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
        runner.run(_serve(settings, config, listener))


async def _serve(settings: Settings, config: uvicorn.Config, listener: socket.socket) -> None:
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
    await uvicorn.Server(config).serve(sockets=[listener])


async def _unopened(*_: object) -> None:
    raise RuntimeError("the application is built once the stores are open")

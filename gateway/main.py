"""The gateway process: opens the stores, then serves until it is told to stop."""

import asyncio
import gc
import socket

import structlog
import uvicorn

from gateway.app import Gateway, build
from gateway.wire import Protocol
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
    # What was made so far lives as long as the process: the collector need not look at it again and again, and rarely
    # at the rest, which is freed by counting. Its pauses were the 99th percentile.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    host, port = listener.getsockname()[:2]
    log.info("gateway listens", host=host, port=port)
    await uvicorn.Server(config).serve(sockets=[listener])


async def _unopened(*_: object) -> None:
    raise RuntimeError("the application is built once the stores are open")

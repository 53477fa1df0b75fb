"""What runs beside the requests for as long as a process serves."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from quota.errors import QuotagateError

log = structlog.get_logger()


async def for_ever(every_s: float, what: str, work: Callable[[], Awaitable[object]]) -> None:
    """Does some work again and again. What goes wrong is told, and told again only when something else does; nobody
    else would begin the work again, so nothing ends it."""
    told = None
    while True:
        await asyncio.sleep(every_s)
        try:
            await work()
            told = None
        except (QuotagateError, OSError) as error:
            if told != str(error):
                told = str(error)
                log.warning(f"{what} waits", reason=told)
        except Exception as error:
            if told != repr(error):
                told = repr(error)
                log.error(f"{what} fails", exc_info=error)

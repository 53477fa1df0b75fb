"""What says that a store is away, or takes nothing for now, so that a job waits for it and begins again.

Everything else that Redis answers, such as a key of another type or a script that fails, would be answered at the next
run as well: whoever waited for it would wait for ever, and nobody would hear why.
"""

import re

from redis import exceptions

from quota.errors import CountersUnavailable, LedgerUnavailable

_AWAY = (
    LedgerUnavailable,
    CountersUnavailable,
    exceptions.ConnectionError,
    exceptions.TimeoutError,
    exceptions.ReadOnlyError,
    exceptions.OutOfMemoryError,
    exceptions.MasterDownError,
)
# It cannot write to its disk, has not enough replicas, follows nobody, or runs a script: redis-py has no class for
# them, and puts words of its own before them where they come out of a pipeline.
_REFUSED = re.compile(r"^(Command # .* of pipeline caused error: )?(MISCONF|NOREPLICAS|MASTERDOWN|BUSY) ", re.DOTALL)


def is_away(error: Exception) -> bool:
    """Whether to wait, and try again later."""
    if isinstance(error, exceptions.ResponseError) and _REFUSED.match(str(error)):
        return True
    return isinstance(error, _AWAY)

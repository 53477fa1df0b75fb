"""A job waits for a store that is away, and for nothing else."""

from typing import Any

import pytest
import structlog
from redis import exceptions

from quota.errors import CountersUnavailable, LedgerUnavailable
from workers.jobs import patient

AWAY = (
    LedgerUnavailable("the ledger cannot be reached"),
    CountersUnavailable("the counters did not answer in time"),
    exceptions.ConnectionError("Connection refused"),
    exceptions.TimeoutError("Timeout reading from socket"),
    exceptions.BusyLoadingError("Redis is loading the dataset in memory"),
    exceptions.ReadOnlyError("You can't write against a read only replica."),
    exceptions.OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
    exceptions.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"),
    exceptions.ResponseError("Command # 1 (XADD j) of pipeline caused error: MISCONF Errors writing to the AOF file"),
    exceptions.ResponseError("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."),
    exceptions.ResponseError("BUSY Redis is busy running a script."),
)
PRESENT = (
    exceptions.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"),
    exceptions.ResponseError("user_script:7: attempt to compare nil with number script: 1f, on @user_script:7."),
    exceptions.ResponseError("ERR unknown command 'MISCONFIGURED'"),
    exceptions.NoPermissionError("this user has no permissions to run the 'evalsha' command"),
    exceptions.DataError("Invalid input of type: 'NoneType'."),
    ValueError("invalid literal"),
)


def done(error: Exception) -> Any:
    @patient
    def job() -> None:
        raise error

    with structlog.testing.capture_logs() as told:
        assert job() is None
    return [each["event"] for each in told]


@pytest.mark.parametrize("error", AWAY, ids=str)
def test_a_store_that_is_away_or_takes_nothing_is_waited_for(error: Exception) -> None:
    assert done(error) == ["a job waits for its stores"]


@pytest.mark.parametrize("error", PRESENT, ids=str)
def test_an_answer_that_says_what_is_wrong_is_told_with_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error)):
        done(error)

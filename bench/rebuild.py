"""What is done for all accounts at once: brought in again after Redis was lost, and taken over the end of a day."""

import time
from collections.abc import Sequence
from datetime import timedelta

import psycopg

from bench import jobs
from bench.accounts import DAILY, METRIC, Making, account, shard_of
from bench.jobs import Worker
from bench.stores import Measured, Stores, stores
from ledger.instants import to_timestamp
from quota.keys import AccountName
from quota.periods import DAY_MS, PeriodKind, period_at

SUBSCRIBED_EVERY = 2
"""The others are on the default plan."""
BALANCES = (
    "COPY balances (tenant, subject, metric, period_kind, period_start, period_end, plan, used, shard, epoch, n) "
    "FROM STDIN"
)
SUBSCRIPTIONS = "COPY subscriptions (tenant, subject, plan, status, changed_by) FROM STDIN"
VACUUM = "VACUUM (ANALYZE)"


def measure_rebuild(rounds: int, accounts: int) -> list[Measured]:
    """Redis is emptied and begins an epoch before every round."""
    found = []
    with stores() as held, Worker(held) as worker:
        making = Making(held)
        _fill(held, [account(place, METRIC) for place in range(accounts)])
        held.sql(VACUUM)
        for number in range(rounds):
            held.redis.flushall()
            making.begin(2 + number)
            found.append(worker.run(jobs.rebuild))
            assert found[-1].worked.count == accounts, found[-1]
        making.close()
    return found


def _fill(held: Stores, names: Sequence[AccountName]) -> None:
    """A balance of the month that runs each."""
    period = period_at(PeriodKind.MONTH, int(time.time() * 1000))
    assert period.end_ms is not None
    start, end = to_timestamp(period.start_ms), to_timestamp(period.end_ms)
    assert end - to_timestamp(int(time.time() * 1000)) > timedelta(minutes=10), "the month ends while this runs"
    with psycopg.connect(held.owner_url) as connection, connection.cursor() as cursor:
        with cursor.copy(BALANCES) as copy:
            for place, name in enumerate(names):
                copy.write_row((*_words(name), "month", start, end, "pro", 1 + place % 50, shard_of(name), 1, place))
        with cursor.copy(SUBSCRIPTIONS) as copy:
            for name in names[::SUBSCRIBED_EVERY]:
                copy.write_row((name.tenant, name.subject, "pro", "active", "bench"))


def _words(name: AccountName) -> tuple[str, str, str]:
    return name.tenant, name.subject, name.metric


def measure_reset(accounts: int) -> Measured:
    """Accounts that were used yesterday and not since: each is swept, its day is closed, drained and sealed."""
    with stores() as held, Worker(held) as worker:
        making = Making(held, at_ms=int(time.time() * 1000) - DAY_MS)
        names = [account(place, DAILY) for place in range(accounts)]
        making.bring_in(names)
        making.consume(names)
        making.close()
        worker.run(jobs.drain)
        held.sql(VACUUM)
        done = worker.run(jobs.reset)
        assert done.worked.count == accounts, done
    return done

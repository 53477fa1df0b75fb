"""What it costs to verify a ledger: `python -m bench.ledger`, entries a second over a million generated ones.

The entries come in the order of a journal, so that those of one account lie far apart, as they do in a real ledger: a
fifth with a capped window, a tenth with units of a grant. Their balances are added up by Postgres alone.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg

from bench.stores import SHARDS, postgres
from ledger.replay_verification import step
from ledger.store import connect
from quotagate.supervisor import Supervisor

DAYS = 20
"""Of history: it lies in this month's partition, the last one's, or both."""
GRANTED_EVERY, CAPPED_EVERY = 10, 5

COLUMNS = (
    "shard, epoch, n, occurred_at, tenant, subject, metric, kind, amount, change, used_after, plan, period_kind, "
    "period_start, receipt_first_n, receipt_count, request_id, parts, caps"
)
BALANCES = """
INSERT INTO balances (tenant, subject, metric, period_kind, period_start, used, shard, epoch, n)
SELECT tenant, subject, metric, period_kind, period_start, sum(change), max(shard), max(epoch), max(n)
FROM entries GROUP BY 1, 2, 3, 4, 5
"""
CAP_BALANCES = """
INSERT INTO cap_balances (tenant, subject, metric, period_kind, period_start, used)
SELECT tenant, subject, metric, split_part(caps, ':', 1),
       timestamptz 'epoch' + CAST(split_part(caps, ':', 2) AS bigint) * interval '1 millisecond', sum(amount)
FROM entries WHERE caps IS NOT NULL GROUP BY 1, 2, 3, 4, 5
"""
GRANTS = """
INSERT INTO grants (id, tenant, subject, metric, amount, priority, reason, created_by) OVERRIDING SYSTEM VALUE
SELECT account, 'default', 'user_' || lpad(account::text, 7, '0'), 'api_calls', 1000000, 0, 'measured', 'bench'
FROM generate_series(0, %s, %s) AS account
"""
GRANT_BALANCES = """
INSERT INTO grant_balances (grant_id, tenant, period_kind, period_start, used)
SELECT CAST(split_part(parts, ':', 1) AS bigint), tenant, period_kind, period_start,
       sum(CAST(split_part(parts, ':', 4) AS bigint))
FROM entries WHERE parts IS NOT NULL GROUP BY 1, 2, 3, 4
"""

OFFSETS = """
UPDATE shards SET epoch = 1, offset_epoch = 1, offset_n = reached.n
FROM (SELECT shard, max(n) AS n FROM entries GROUP BY shard) AS reached WHERE reached.shard = shards.shard
"""


@contextmanager
def ledger() -> Iterator[tuple[str, str]]:
    """An empty ledger of its own: the owner's URL and the application's."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Supervisor() as supervisor,
        postgres(supervisor, Path(folder)) as urls,
    ):
        yield urls


def fill(owner_url: str, entries: int, accounts: int) -> None:
    """Writes entries and everything that follows from them."""
    with psycopg.connect(owner_url) as connection:
        cursor = connection.cursor()
        with cursor.copy(f"COPY entries ({COLUMNS}) FROM STDIN") as copy:
            for row in rows(entries, accounts):
                copy.write_row(row)
        connection.execute(GRANTS, [accounts - 1, GRANTED_EVERY])
        for statement in (BALANCES, CAP_BALANCES, GRANT_BALANCES, OFFSETS):
            connection.execute(statement)
    with psycopg.connect(owner_url, autocommit=True) as connection:
        connection.execute("VACUUM (ANALYZE) entries, balances, cap_balances, grant_balances")


def rows(entries: int, accounts: int) -> Iterator[tuple[Any, ...]]:
    """One unit each, the accounts in turn."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    begins = today - timedelta(days=DAYS)
    pace, used, last = timedelta(days=DAYS) / entries, [0] * accounts, [0] * SHARDS
    for place in range(entries):
        account, at = place % accounts, begins + place * pace
        shard = account % SHARDS
        n, last[shard], used[account] = last[shard], last[shard] + 1, used[account] + 1
        day_ms = int(at.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()) * 1000
        parts = f"{account}:0:-:1" if account % GRANTED_EVERY == 0 else None
        caps = f"day:{day_ms}" if account % CAPPED_EVERY == 0 else None
        name, units = f"user_{account:07}", used[account]
        yield (shard, 1, n, at, "default", name, "api_calls", "consume", 1, 1, units, "pro", "lifetime",
               datetime(1970, 1, 1, tzinfo=UTC), n, 1, f"request-{place}", parts, caps)  # fmt: skip


def verify(application_url: str) -> tuple[float, dict[str, Any], int]:
    """Seconds, the result, and in how many steps. Nothing is linked here: what chains cost, `make bench` says."""
    engine, cursor, steps = connect(application_url, pool_size=1), None, 0
    began = time.monotonic()
    while True:
        done = step(engine, {}, cursor)
        cursor, steps = done.cursor, steps + 1
        if done.result is not None:
            engine.dispose()
            return time.monotonic() - began, done.result, steps


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.ledger", description=__doc__)
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--accounts", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    with ledger() as (owner_url, application_url):
        began = time.monotonic()
        fill(owner_url, asked.entries, asked.accounts)
        sys.stdout.write(
            f"{asked.entries:,} entries of {asked.accounts:,} accounts: {time.monotonic() - began:.0f} s\n"
        )
        for _ in range(asked.rounds):
            seconds, result, steps = verify(application_url)
            assert (result["entries"], result["differing"]) == (asked.entries, 0), result["differences"][:3]
            sys.stdout.write(
                f"verified in {seconds:.1f} s, {steps} steps: {result['entries'] / seconds:,.0f} entries a second\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()

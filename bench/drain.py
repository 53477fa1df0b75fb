"""The drain beside a bare COPY of the very same rows, and what is done with the entries afterwards.

The strictest COPY that there is: rows that stand ready as text, one statement, a table without an index. The other one
has the ledger's own indexes, which is the least that a table must have that is to be asked for anything. Of entries
with an idempotency key it has the rows of the keys as well, because those are what a key is for (decision 017).
"""

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import psycopg

from bench import jobs
from bench.accounts import Making, account
from bench.jobs import Worker
from bench.stores import Measured, Stores, Worked, measured, stores

BLOCK_BYTES = 1 << 18
MAKE_TABLES = (
    "CREATE TABLE bare (LIKE entries)",
    "CREATE TABLE with_indexes (LIKE entries INCLUDING ALL)",
    "CREATE TABLE keys_with_indexes (LIKE idempotency_keys INCLUDING ALL)",
)


@dataclass(slots=True)
class Beside:
    """Rounds of one kind of entries: moved by the drain, and copied into the two tables."""

    name: str
    with_key: bool
    drained: list[Measured] = field(default_factory=list)
    bare: list[Measured] = field(default_factory=list)
    with_indexes: list[Measured] = field(default_factory=list)


@dataclass(slots=True)
class Results:
    drains: list[Beside]
    linked: Measured | None = None
    lines: list[Measured] = field(default_factory=list)
    chains: list[Measured] = field(default_factory=list)
    reconciled: list[Measured] = field(default_factory=list)


def measure(rounds: int, entries: int, accounts: int) -> Results:
    """Each round of either kind moves so many entries of so many accounts."""
    results = Results([Beside("plain", False), Beside("with Idempotency-Key", True)])
    chance = random.Random(2)
    with stores() as found, Worker(found) as worker:
        found.sql(*MAKE_TABLES)
        making = Making(found)
        names = [account(place) for place in range(accounts)]
        making.bring_in(names)
        for number in range(-1, rounds):
            for each in results.drains:
                began_s = time.time()
                making.consume(chance.choices(names, k=entries), with_key=each.with_key)
                drained = worker.run(jobs.drain)
                assert drained.worked.count == entries, drained
                rows = _rows_since(found, "entries", began_s)
                keys = {"keys_with_indexes": _rows_since(found, "idempotency_keys", began_s)} if each.with_key else {}
                with psycopg.connect(found.owner_url) as connection:
                    bare = _copied(found, connection, {"bare": rows}, entries)
                    with_indexes = _copied(found, connection, {"with_indexes": rows, **keys}, entries)
                if number >= 0:  # the first round is for warming up
                    each.drained.append(drained)
                    each.bare.append(bare)
                    each.with_indexes.append(with_indexes)
        making.close()
        found.sql("DROP TABLE bare, with_indexes, keys_with_indexes", "VACUUM (ANALYZE)")
        results.linked = worker.run(jobs.link)
        for _ in range(rounds):
            results.lines.append(worker.run(jobs.verify_lines))
            results.chains.append(worker.run(jobs.verify))
            results.reconciled.append(worker.run(jobs.reconcile))
    return results


def _rows_since(found: Stores, table: str, began_s: float) -> list[bytes]:
    """Rows of a table of the ledger as COPY reads them, in blocks."""
    blocks, block = [], bytearray()
    with psycopg.connect(found.owner_url) as connection, connection.cursor() as cursor:
        statement = psycopg.sql.SQL("COPY (SELECT * FROM {} WHERE occurred_at >= to_timestamp({})) TO STDOUT")
        with cursor.copy(statement.format(psycopg.sql.Identifier(table), psycopg.sql.Literal(began_s))) as copy:
            for row in copy:
                block += row
                if len(block) >= BLOCK_BYTES:
                    blocks.append(bytes(block))
                    block.clear()
    return [*blocks, bytes(block)]


def _copied(
    found: Stores, connection: "psycopg.Connection", tables: Mapping[str, Sequence[bytes]], entries: int
) -> Measured:
    """In one transaction, a statement a table."""

    def job() -> Worked:
        with connection.cursor() as cursor:
            began, cpu_began = time.perf_counter(), time.process_time()
            for table, blocks in tables.items():
                with cursor.copy(psycopg.sql.SQL("COPY {} FROM STDIN").format(psycopg.sql.Identifier(table))) as copy:
                    for block in blocks:
                        copy.write(block)
                assert cursor.rowcount == entries, (table, cursor.rowcount)
            connection.commit()
            return Worked(entries, time.perf_counter() - began, time.process_time() - cpu_began)

    return measured(found, job)

"""`quotagate top`: what goes on, every few seconds, for whoever watches. It looks at a bounded piece of each store."""

import json
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import redis
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from sqlalchemy import Engine

from ledger import activity, shards
from ledger.store import ALL_TENANTS, connect, transaction
from quota import glance
from quota.errors import LedgerUnavailable, first_line
from quota.keys import AccountName, shard_of
from quotagate.operator import stores

NO_ANSWER_S = 2.0
MIB = 1024 * 1024
NEAR = 0.8
ENDS = (b"q", b"Q", b"")
Document = dict[str, Any]
HOW = "Counted from each shard's newest entries in the ledger, of the last minute at the most"


class Watch:
    """One deployment, looked at again and again."""

    def __init__(self, redis_url: str, engine: Engine, *, most: int) -> None:
        self._redis = redis.Redis.from_url(
            redis_url, socket_timeout=NO_ANSWER_S, socket_connect_timeout=NO_ANSWER_S, single_connection_client=False
        )
        self._engine = engine
        self._most = most
        self._offsets: dict[int, Any] = {}

    def look(self) -> Document:
        """What there is to tell now. A store that is away is named under `away`, and what it knows is None."""
        document: Document = {"at_s": int(time.time()), "away": [], "ledger": None, "counters": None, "busiest": []}
        try:
            with transaction(self._engine, ALL_TENANTS) as connection:
                self._offsets = shards.offsets(connection)
                found = activity.of_the_last_minute(connection, len(self._offsets), self._most)
        except LedgerUnavailable as error:
            document["away"].append(f"Postgres: {error}")
        else:
            document["ledger"] = {
                "checks_per_s": round(found.checks_per_s, 2),
                "denials_per_s": round(found.denials_per_s, 2),
                "is_sample": found.is_sample,
            }
            document["busiest"] = [{**vars(each), "share_used": None} for each in found.busiest]
        try:
            seen = glance.glance(self._redis, self._offsets)
            shares = glance.shares_used(self._redis, [self._key(each) for each in document["busiest"]])
        except redis.RedisError as error:
            document["away"].append(f"Redis: {first_line(error)}")
        else:
            # Without the ledger's offsets nobody knows what waits.
            document["counters"] = vars(seen) | ({} if self._offsets else {"waiting": None, "lag_ms": None})
            for each, share in zip(document["busiest"], shares, strict=True):
                each["share_used"] = None if share is None else round(share, 4)
        return document

    def _key(self, busy: Document) -> str:
        account = AccountName(busy["tenant"], busy["subject"], busy["metric"])
        return account.key(shard_of(account.tenant, account.subject, len(self._offsets)))

    def close(self) -> None:
        self._redis.close()
        self._engine.dispose()


def run_top(
    environment: Mapping[str, str], data: Path, *, every_s: float, most: int, is_once: bool, as_json: bool
) -> None:
    """Shows what goes on until it is stopped. LedgerUnavailable if a single look reached neither store."""
    settings = stores(environment, data, "redis_url", "database_url")
    watch = Watch(settings.redis_url, connect(settings.database_url, pool_size=1), most=most)
    console = Console(highlight=False)
    try:
        if is_once or as_json or not console.is_terminal:
            _print(watch, console, every_s, is_once=is_once, as_json=as_json)
            return
        with Live(console=console, screen=True, auto_refresh=False) as live, _keys() as pressed:
            while True:
                live.update(shown(watch.look(), every_s), refresh=True)
                if pressed(every_s):
                    return
    except KeyboardInterrupt:
        return
    except (OSError, termios.error):
        if sys.stdin.isatty() and sys.stdout.isatty():
            raise
        # The terminal has gone. Nothing may be written to it any more, not even at the exit.
        os._exit(0)
    finally:
        watch.close()


def _print(watch: Watch, console: Console, every_s: float, *, is_once: bool, as_json: bool) -> None:
    while True:
        document = watch.look()
        if is_once and document["ledger"] is None and document["counters"] is None:
            raise LedgerUnavailable("\n".join(document["away"]))
        if as_json:
            click.echo(json.dumps(document))
        else:
            console.print(shown(document, None))
        if is_once:
            return
        time.sleep(every_s)


@contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits so many seconds at the most, and says whether to stop: because of a key, or because nobody
    is there any more to press one. The terminal is put back as it was."""
    if not sys.stdin.isatty():
        yield time.sleep
        return
    before = termios.tcgetattr(sys.stdin)
    tty.setcbreak(sys.stdin)
    try:
        # Not by way of a buffer: what is in that, `select` does not see. An end of file is always there to be read.
        source = sys.stdin.fileno()
        yield lambda wait_s: bool(select.select([source], [], [], wait_s)[0]) and os.read(source, 1) in ENDS
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def shown(document: Document, every_s: float | None) -> Group:
    """A look, for people. Pure."""
    lines = [Text(sentence, "red") for sentence in document["away"]]
    ledger, counters = document["ledger"], document["counters"]
    if ledger is not None:
        about = "about " if ledger["is_sample"] else ""
        lines.append(Text(f"{about}{ledger['checks_per_s']:,} checks/s, {ledger['denials_per_s']:,} denied/s"))
    if counters is not None:
        limit = counters["memory_limit_bytes"]
        of = f" of {limit / MIB:,.0f} MiB" if limit else ", and no limit"
        lines.append(
            Text(f"{counters['waiting']:,} entries wait for the ledger, the oldest for {counters['lag_ms']:,} ms")
        )
        lines.append(Text(f"Redis uses {counters['memory_bytes'] / MIB:,.1f} MiB{of}"))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("TENANT", "SUBJECT", "METRIC"):
        table.add_column(title, overflow="ellipsis", no_wrap=True)
    for title in ("PASSED", "DENIED", "UNITS", "OF LIMIT"):
        table.add_column(title, justify="right", no_wrap=True)
    for each in document["busiest"]:
        share = each["share_used"]
        style = "" if share is None or share < NEAR else "red" if share >= 1 else "yellow"
        told = Text("-" if share is None else f"{share:.0%}", style)
        counts = [f"{each[name]:,}" for name in ("passed", "denied", "units")]
        table.add_row(each["tenant"], each["subject"], each["metric"], *counts, told)
    body = table if document["busiest"] else Text("Nobody asked for anything in the last minute.")
    stop = "." if every_s is None else f"; every {every_s:g} s; q ends."
    return Group(*lines, Text(""), body, Text(""), Text(f"{HOW}{stop}", "dim"))

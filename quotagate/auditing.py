"""What `quotagate audit` prints: acts in lines that people read, or as JSON or CSV that programs do."""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ledger import tenants
from ledger.act_reading import MEMBERS, ActPlace, WantedActs, act_document, acts_after
from ledger.store import ALL_TENANTS, connect, transaction
from quotagate.operator import stores

PIECE_ACTS = 1_000
MAX_PIECES = 1_000_000
SHOWN_CHANGES = 6
SHOWN_CHARACTERS = 60
"""Of one value; `--json` has the whole."""


def run_audit(environment: Mapping[str, str], data: Path, wanted: WantedActs, limit: int, form: str | None) -> None:
    """Prints the newest acts that are wanted, the newest last. `form` is json, csv or None: lines for people."""
    found = _read(stores(environment, data, "database_url").database_url, wanted, limit)
    if form == "csv":
        _print_csv(found)
    elif form == "json":
        for row in found:
            click.echo(json.dumps({"tenant": row.tenant, **act_document(row)}))
    else:
        for row in found:
            for line in lines_of(row, is_tenant_told=wanted.tenant is None):
                click.echo(line)
        if not found:
            click.echo("No such act was kept.")
        elif len(found) == limit:
            print(f"The newest {limit:,} are shown; --limit shows more.", file=sys.stderr)


def _read(url: str, wanted: WantedActs, limit: int) -> list[Any]:
    """The newest at the end."""
    engine = connect(url, pool_size=1)
    rows: list[Any] = []
    after: ActPlace | None = None
    try:
        with transaction(engine, ALL_TENANTS) as connection:
            tenants.must_be_known(connection, wanted.tenant)
            for _ in range(MAX_PIECES):
                piece = acts_after(connection, wanted, after, min(PIECE_ACTS, limit - len(rows)))
                rows += piece.rows
                after = piece.after
                if after is None or len(rows) == limit:
                    break
    finally:
        engine.dispose()
    return rows[::-1]


def _print_csv(rows: Sequence[Any]) -> None:
    from gateway import csv_cells
    from gateway.act_documents import csv_row

    lines = csv_cells.lines([("tenant", *MEMBERS), *([row.tenant, *csv_row(row)] for row in rows)])
    click.echo(lines.decode(), nl=False)


def lines_of(row: Any, *, is_tenant_told: bool) -> Iterator[str]:
    """When, what was done to what, by whom, from where, why; and below it what it changed."""
    act = act_document(row)
    tenant = [row.tenant] if is_tenant_told else []
    done = [act["act"], *(each for each in (act["subject"], act["object"]) if each is not None)]
    origin = "" if act["origin"] is None else f" from {act['origin']}"
    reason = "" if act["reason"] is None else f": {act['reason']}"
    yield printable("  ".join([act["at"], *tenant, " ".join(done), f"by {act['actor']}{origin}{reason}"]))
    told = changes(act["before"], act["after"])
    if told:
        more = f", and {len(told) - SHOWN_CHANGES} more (--json)" if len(told) > SHOWN_CHANGES else ""
        yield printable(f"    {', '.join(told[:SHOWN_CHANGES])}{more}")


def changes(before: dict[str, Any] | None, after: dict[str, Any] | None) -> list[str]:
    """Each member that differs, in short."""
    old, new = before or {}, after or {}
    names = [*old, *(name for name in new if name not in old)]
    differing = [name for name in names if old.get(name) != new.get(name)]
    if before is None:
        return [f"{name} {_short(new[name])}" for name in differing]
    return [f"{name} {_short(old.get(name))} → {_short(new.get(name))}" for name in differing]


def _short(value: Any) -> str:
    told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return told if len(told) <= SHOWN_CHARACTERS else told[: SHOWN_CHARACTERS - 1] + "…"


def printable(line: str) -> str:
    """Without what would make a terminal do something: reasons are callers' own words."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)

"""Going through the ledger again: from its entries alone, account by account, in steps that are bounded.

A step reads one stretch of accounts in one snapshot, so that what it compares belongs together however many entries
arrive meanwhile. Where the next step begins is a few JSON values: whoever stops may go on later, or somebody else.
Accounts are ordered by Postgres alone, as its indexes are; nothing here compares two names.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

import msgspec
from sqlalchemy import Connection, Engine, desc, select, text, union_all

from ledger.archive_tables import carried
from ledger.instants import from_timestamp
from ledger.store import ALL_TENANTS, outages_told
from ledger.tables import balances, cap_balances, entries, grants
from quota.errors import InvalidRequest
from quota.periods import to_rfc3339

STEP_ENTRIES = 50_000
"""Entries of one step, up to the end of the account that they lead to: a fraction of a second."""
MAX_LISTED = 1_000
"""Of what is found, how much a job's result lists; all of it is counted."""
Account = tuple[str, str, str]
"""Tenant, subject, metric."""


class Span(msgspec.Struct, frozen=True):
    """The accounts behind `after`, up to and with `until`."""

    after: Account
    until: Account

    def parameters(self) -> dict[str, str]:
        """As the statements name them."""
        names = ("tenant", "subject", "metric")
        after = {f"after_{name}": value for name, value in zip(names, self.after, strict=True)}
        return after | {f"until_{name}": value for name, value in zip(names, self.until, strict=True)}


NOTHING = Span(("", "", ""), ("", "", ""))
"""No account: no name is empty."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did. `cursor` is for the next; `found` is new; `result` says that there is no next step."""

    cursor: dict[str, Any]
    progress: float
    found: list[Any] = field(default_factory=list)
    result: dict[str, Any] | None = None


# Postgres guesses by the first column alone how many rows lie behind an account, and where there is one tenant it would
# read the whole table at every step, by a scan or by an index of something else and a sort. So whatever reads a stretch
# of accounts asks for it in the order of their index, in a query of its own (OFFSET 0), and nothing else can give it.
# One process, so that live traffic keeps the others.
_by_index = text(
    """
    SELECT set_config('quotagate.tenant', :tenant, true),
           set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
           set_config('enable_sort', 'off', true), set_config('enable_incremental_sort', 'off', true),
           set_config('max_parallel_workers_per_gather', '0', true), set_config('work_mem', '64MB', true)
    """
)


_no_month_leaves = text("LOCK TABLE ONLY public.entries IN ACCESS SHARE MODE")


@contextmanager
def snapshot(engine: Engine, tenant: str | None) -> Iterator[Connection]:
    """A transaction that sees one state of the ledger and can change nothing, in the scope of a tenant or of all."""
    frozen = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
    with outages_told(), frozen.begin() as connection:
        # Before anything is read: a month that is archived leaves `entries` for everybody at once, and what it adds up
        # to is in `carried` for those alone whose snapshot is younger.
        connection.execute(_no_month_leaves)
        connection.execute(_by_index, {"tenant": tenant or ALL_TENANTS})
        yield connection


def whole(connection: Connection, tenant: str | None, subject: str | None) -> Span | None:
    """The accounts of a tenant, of one of its subjects, or all; None if the ledger knows of none."""
    lasts = []
    for table in (entries, balances, cap_balances, grants, carried):
        names = (table.c.tenant, table.c.subject, table.c.metric)
        query = select(*names).order_by(*map(desc, names)).limit(1)
        if tenant is not None:
            query = query.where(table.c.tenant == tenant)
        if subject is not None:
            query = query.where(table.c.subject == subject)
        lasts.append(query.subquery().select())
    found = union_all(*lasts).subquery()
    last = connection.execute(select(found).order_by(*map(desc, found.c)).limit(1)).one_or_none()
    if last is None:
        return None
    return Span((tenant or "", subject or "", ""), (last.tenant, last.subject, last.metric))


# Of accounts that have slept since their entries were archived, only balances are left.
_border = text(
    """
    SELECT tenant, subject, metric FROM (
        (
            SELECT tenant, subject, metric FROM entries
            WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
              AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric)
            ORDER BY tenant, subject, metric, epoch, n OFFSET :entries LIMIT 1
        ) UNION ALL (
            SELECT tenant, subject, metric FROM balances
            WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
              AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric)
            ORDER BY tenant, subject, metric OFFSET :entries LIMIT 1
        )
    ) AS borders
    ORDER BY tenant, subject, metric LIMIT 1
    """
)


def first_part(connection: Connection, span: Span, most_entries: int) -> Span:
    """The first accounts of a span: up to the one in which so many entries, or balances, are reached, and all of it."""
    row = connection.execute(_border, span.parameters() | {"entries": most_entries}).one_or_none()
    return span if row is None else Span(span.after, (row.tenant, row.subject, row.metric))


_explained = text(
    """
    EXPLAIN (FORMAT JSON) SELECT FROM entries
    WHERE (tenant, subject, metric) > (:after_tenant, :after_subject, :after_metric)
      AND (tenant, subject, metric) <= (:until_tenant, :until_subject, :until_metric)
    """
)


def estimated_entries(connection: Connection, span: Span) -> int:
    """About how many entries a span has, as the planner guesses: to count them would take as long as to read them."""
    (plan,) = connection.execute(_explained, span.parameters()).scalar_one()
    return int(plan["Plan"]["Plan Rows"])


def share(entries_done: int, estimated: int) -> float:
    """Progress by an estimate that may be too low: it nears 1, and is 1 only at the end."""
    return entries_done / max(estimated, entries_done * 20 // 19, 1)


def listed(before: list[dict[str, Any]], found: list[dict[str, Any]], tenant: str | None) -> list[dict[str, Any]]:
    """What a result may list: the first of what was found, and only of one tenant, or of none, if one is named."""
    own = [each for each in found if tenant is None or each["tenant"] in {tenant, None}]
    return before + own[: MAX_LISTED - len(before)]


_archived_through = text("SELECT max(month) + interval '1 month' FROM archives")


def archived_through_ms(connection: Connection) -> int:
    """The first instant whose entries are not in an archive that this connection does not read; 0 if all are here."""
    end = connection.execute(_archived_through).scalar_one()
    return 0 if end is None else from_timestamp(end.replace(tzinfo=UTC))


def refuse_archived(connection: Connection, since_ms: int, what: str, margin_ms: int = 0) -> None:
    """InvalidRequest if what begins at an instant would have to read entries that are in an archive."""
    through_ms = archived_through_ms(connection)
    if through_ms and since_ms < through_ms + margin_ms:
        raise InvalidRequest(
            f"{what} needs entries from before {to_rfc3339(through_ms + margin_ms)}, and those from before "
            f"{to_rfc3339(through_ms)} were archived: name their folder with `quotagate ledger … --archive DIR`"
        )


def names_for(arguments: Mapping[str, Any]) -> str | None:
    """Whose accounts a result may name: those of the tenant that asked, or everybody's."""
    named: str | None = arguments.get("names_of")
    return named

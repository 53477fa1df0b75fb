"""Notices: changes of an account's terms that are to be entries. Written in the change's own transaction; the script
that brings the new terms into Redis journals them (`lua/provision.lua`), and the drain takes each away with its entry.

An account remembers the newest that it has journalled, so none is written twice while it lives; and one that Redis lost
before the ledger had its entry is still here, so it is written again (decision 018).
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec
from sqlalchemy import Connection, insert, text

from ledger import announcements
from ledger.accounts import names_of
from ledger.acts import By
from ledger.subscription_tables import notices
from quota.errors import TooMany
from quota.journal import About, encode_about
from quota.keys import AccountName
from quota.protocol import Notice

MAX_WAITING = 64
"""Of one account: all of them are written by one script, while Redis serves nobody else."""
MAX_BATCH = 500
AGAIN_AFTER_S = 60
"""What was brought into Redis is in the ledger within a second or so. Whatever waits longer was lost, or the drain is
away."""
DETAIL_PREFIX = "notice:"
"""The detail of a notice's entry is `notice:<id>:<word>`."""


class Told(NamedTuple):
    """What one account is told: an entry's kind, amount, and a word of why."""

    metric: str
    kind: str
    amount: int
    word: str


# The ids of one subject are given out in the order of the commits, so that whoever has seen one has seen all before it.
# Taken before any row of the subject's is locked, so that two changes of it never wait for each other.
_one_at_a_time = text(
    "SELECT pg_advisory_xact_lock(hashtextextended(:subject, hashtextextended(:tenant, 7261003)))",
)

_all_one_at_a_time = text(
    """
    SELECT pg_advisory_xact_lock(hashtextextended(subject, hashtextextended(tenant, 7261003))) FROM (
        SELECT * FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[])) AS wanted (tenant, subject)
        ORDER BY tenant COLLATE "C", subject COLLATE "C"
    ) AS wanted
    """
)


def lock(connection: Connection, tenant: str, subject: str) -> None:
    """Whoever changes the subject's terms does so alone, until the transaction ends."""
    connection.execute(_one_at_a_time, {"tenant": tenant, "subject": subject})


def lock_all(connection: Connection, subjects: Collection[tuple[str, str]]) -> None:
    """The same for (tenant, subject) pairs."""
    tenants, names = [tenant for tenant, _ in subjects], [subject for _, subject in subjects]
    connection.execute(_all_one_at_a_time, {"tenants": tenants, "subjects": names})


_crowded = text(
    """
    SELECT metric FROM notices WHERE (tenant, subject) = (:tenant, :subject)
    GROUP BY metric HAVING count(*) >= :most ORDER BY metric LIMIT 1
    """
)


def crowded(connection: Connection, tenant: str, subject: str) -> str | None:
    """A metric of the subject's of which no more notices may wait."""
    found = connection.execute(_crowded, {"tenant": tenant, "subject": subject, "most": MAX_WAITING})
    return found.scalar_one_or_none()


def room(connection: Connection, tenant: str, subject: str) -> None:
    """Makes the caller the one who changes the subject's terms; TooMany when too many of its notices wait already."""
    lock(connection, tenant, subject)
    metric = crowded(connection, tenant, subject)
    if metric is not None:
        raise TooMany(
            f"{MAX_WAITING} changes of {subject}'s {metric} are not in the ledger yet: wait until the drain has "
            "caught up, and ask again"
        )


def add(connection: Connection, tenant: str, subject: str, told: Sequence[Told], *, act_id: int, by: By) -> None:
    """Notes what is to become entries. The caller has locked the subject."""
    if not told:
        return
    about = {"reason": by.reason, "actor": by.actor, "request_id": by.request_id}
    values = [
        {
            "tenant": tenant,
            "subject": subject,
            "metric": each.metric,
            "act_id": act_id,
            "kind": each.kind,
            "amount": each.amount,
            "detail": each.word,
            "about": {name: value for name, value in about.items() if value is not None},
        }
        for each in told
    ]
    connection.execute(insert(notices), values)


_waiting = text(
    """
    SELECT n.tenant, n.subject, n.metric, n.id, n.kind, n.amount, n.detail, n.about
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]))
         AS wanted (tenant, subject, metric)
    CROSS JOIN LATERAL (
        SELECT * FROM notices o
        WHERE (o.tenant, o.subject, o.metric) = (wanted.tenant, wanted.subject, wanted.metric)
        ORDER BY o.tenant, o.subject, o.metric, o.id LIMIT :most
    ) AS n
    """
)


def of_accounts(connection: Connection, accounts: Sequence[AccountName]) -> dict[AccountName, list[Notice]]:
    """The notices of each account that are not in the ledger, the oldest first."""
    found: dict[AccountName, list[Notice]] = defaultdict(list)
    for row in connection.execute(_waiting, names_of(accounts) | {"most": MAX_WAITING}):
        about = encode_about(msgspec.convert(row.about, About))
        notice = Notice(row.id, row.kind, row.amount, f"{DETAIL_PREFIX}{row.id}:{row.detail}", about)
        found[AccountName(row.tenant, row.subject, row.metric)].append(notice)
    return found


_metrics = text("SELECT DISTINCT metric FROM notices WHERE (tenant, subject) = (:tenant, :subject)")


def told(connection: Connection, announcement: int, tenant: str, subject: str) -> list[str]:
    """Takes away an announcement that was told; the metrics of which the subject has notices that are not in the
    ledger."""
    announcements.told(connection, [announcement])
    return list(connection.execute(_metrics, {"tenant": tenant, "subject": subject}).scalars())


_take_away = text(
    """
    DELETE FROM notices n USING staging s
    WHERE s.kind IN ('open', 'override') AND s.detail LIKE 'notice:%'
      AND n.id = CAST(split_part(s.detail, ':', 2) AS bigint)
      AND (n.tenant, n.subject, n.metric) = (s.tenant, s.subject, s.metric)
    """
)


def note_staged(connection: Connection) -> None:
    """Takes away the notices whose entries are staged."""
    connection.execute(_take_away)


# Whoever asks next leaves these alone for a while, so that none keeps the others waiting.
_take_up = text(
    """
    WITH due AS (
        SELECT id FROM notices WHERE next_try_at <= now() - make_interval(secs => :age_s)
        ORDER BY next_try_at, id LIMIT :most FOR UPDATE SKIP LOCKED
    )
    UPDATE notices n SET next_try_at = now() + make_interval(secs => :again_s) FROM due WHERE n.id = due.id
    RETURNING n.tenant, n.subject, n.metric
    """
)


def untold(connection: Connection, older_than_s: float) -> list[AccountName]:
    """Accounts that have notices which nobody told Redis of within some seconds, or which did not reach the ledger."""
    words = {"age_s": older_than_s, "again_s": AGAIN_AFTER_S, "most": MAX_BATCH}
    return sorted({AccountName(*row) for row in connection.execute(_take_up, words)})


_try_again = text(
    """
    WITH left_over AS (
        SELECT n.id
        FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]))
             AS wanted (tenant, subject, metric)
        JOIN notices n USING (tenant, subject, metric)
        FOR UPDATE OF n SKIP LOCKED
    )
    UPDATE notices n SET next_try_at = now() FROM left_over WHERE n.id = left_over.id
    """
)


def try_again(connection: Connection, accounts: Sequence[AccountName]) -> None:
    """Of accounts that could not be brought in: in a moment, and not in a minute."""
    connection.execute(_try_again, names_of(accounts))

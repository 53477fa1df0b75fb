"""What the ledger knows of a subject, for whoever asks about one by hand."""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

LOOK_ROWS = 200
"""So many of the newest entries of an account are looked at for denials: an index leads to them, not to denials."""

_is_known = text(
    """
    SELECT EXISTS (SELECT FROM subscriptions WHERE tenant = :tenant AND subject = :subject)
        OR EXISTS (SELECT FROM balances WHERE tenant = :tenant AND subject = :subject)
        OR EXISTS (SELECT FROM grants WHERE tenant = :tenant AND subject = :subject)
        OR EXISTS (SELECT FROM overrides WHERE tenant = :tenant AND subject = :subject)
    """
)


def is_known(connection: Connection, tenant: str, subject: str) -> bool:
    """Whether anything was ever written down of the subject; what still waits in the journal is not seen."""
    return bool(connection.execute(_is_known, {"tenant": tenant, "subject": subject}).scalar_one())


class Denial(NamedTuple):
    """An entry `denied`: what was asked; `detail` `sum:<n>` stands for n of them."""

    occurred_at: datetime
    metric: str
    amount: int
    detail: str | None


_newest_denials = text(
    """
    SELECT of_account.occurred_at, of_account.metric, of_account.amount, of_account.detail
    FROM unnest(CAST(:metrics AS text[])) AS wanted (metric)
    JOIN LATERAL (
        SELECT e.occurred_at, e.metric, e.kind, e.amount, e.detail FROM entries e
        WHERE e.tenant = :tenant AND e.subject = :subject AND e.metric = wanted.metric
          AND e.occurred_at >= now() - interval '1 day'
        ORDER BY e.epoch DESC, e.n DESC LIMIT :look
    ) AS of_account ON of_account.kind = 'denied'
    ORDER BY of_account.occurred_at DESC LIMIT :most
    """
)


def newest_denials(
    connection: Connection, tenant: str, subject: str, metrics: Sequence[str], most: int
) -> list[Denial]:
    """Denials of the last day among the newest LOOK_ROWS entries of each metric, the newest first."""
    words = {"tenant": tenant, "subject": subject, "metrics": list(metrics), "look": LOOK_ROWS, "most": most}
    return [Denial(*row) for row in connection.execute(_newest_denials, words)]

"""Holds: units that are set aside. The drain writes them down; what is open is what Redis must hold."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, text

from ledger.accounts import names_of
from ledger.instants import from_timestamp, to_timestamp
from quota.formats import NONE, joined
from quota.journal import Entry, Place
from quota.keys import AccountName

KINDS = frozenset(("hold", "commit", "release", "expire", "close"))
"""The entries that make, settle and seal holds."""

_make = text(
    """
    INSERT INTO holds (shard, epoch, n, tenant, subject, metric, amount, expires_at, parts, caps, period_kind,
                       period_start, period_end, plan, "window")
    SELECT shard, epoch, n, tenant, subject, metric, amount,
           timestamptz 'epoch' + CAST(detail AS bigint) * interval '1 millisecond',
           parts, caps, period_kind, period_start, period_end, plan, window_words
    FROM staging WHERE kind = 'hold' ORDER BY shard, epoch, n
    ON CONFLICT DO NOTHING
    """
)

# The first close after a hold that leaves the balance where it is seals it, in the period that was closed.
_seal = text(
    """
    WITH seals AS (
        SELECT tenant, subject, metric, shard, epoch, n, window_words
        FROM staging WHERE kind = 'close' AND change = 0
    ), first_seals AS (
        SELECT DISTINCT ON (h.shard, h.epoch, h.n) h.shard, h.epoch, h.n, s.window_words
        FROM seals s JOIN holds h USING (tenant, subject, metric, shard)
        WHERE h.settled_by IS NULL AND h.sealed IS NULL AND (h.epoch, h.n) < (s.epoch, s.n)
        ORDER BY h.shard, h.epoch, h.n, s.epoch, s.n
    )
    UPDATE holds SET sealed = f.window_words FROM first_seals f
    WHERE (holds.shard, holds.epoch, holds.n) = (f.shard, f.epoch, f.n)
    """
)

# A level's release has no detail, and the expiry of a grant names a grant.
_settle = text(
    """
    UPDATE holds SET settled_by = s.kind, settled_at = s.occurred_at
    FROM staging s
    WHERE s.kind IN ('commit', 'release', 'expire') AND s.detail LIKE '%-%' AND s.detail NOT LIKE 'grant:%'
      AND (holds.shard, holds.epoch, holds.n)
        = (s.shard, CAST(split_part(s.detail, '-', 1) AS bigint), CAST(split_part(s.detail, '-', 2) AS bigint))
      AND (holds.tenant, holds.subject, holds.metric) = (s.tenant, s.subject, s.metric)
      AND holds.settled_by IS NULL
    """
)


def book_staged(connection: Connection) -> None:
    """Makes, seals and settles holds as the staged entries say."""
    connection.execute(_make)
    connection.execute(_seal)
    connection.execute(_settle)


_open = text(
    """
    SELECT h.tenant, h.subject, h.metric, h.epoch, h.n, h.amount, h.expires_at, h.parts, h.caps, h.sealed
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]))
         AS wanted (tenant, subject, metric)
    JOIN holds h USING (tenant, subject, metric)
    WHERE h.settled_by IS NULL
    ORDER BY h.epoch, h.n
    """
)


def open_of(connection: Connection, accounts: Sequence[AccountName]) -> dict[AccountName, dict[str, str]]:
    """The holds of each account that nothing has settled, oldest first: place -> text as in the account's hash.

    Also those whose time is over, as long as the ledger has no entry of that.
    """
    found: dict[AccountName, dict[str, str]] = defaultdict(dict)
    for row in connection.execute(_open, names_of(accounts)):
        words = [row.amount, from_timestamp(row.expires_at), row.parts or row.amount, row.caps or NONE]
        words += [] if row.sealed is None else [row.sealed]
        account, place = AccountName(row.tenant, row.subject, row.metric), Place(row.epoch, row.n)
        found[account][str(place)] = joined(words, " ")
    return found


_amount_of = text(
    """
    SELECT amount FROM holds
    WHERE (tenant, subject, metric) = (:tenant, :subject, :metric) AND shard = :shard AND epoch = :epoch AND n = :n
      AND period_start = :start
    """
)


def amount_of(connection: Connection, account: AccountName, shard: int, place: str, start_ms: int) -> int:
    """What was held; 0 if the account never had such a hold in the period that began then."""
    wanted = _named(account, shard, place) | {"start": to_timestamp(start_ms)}
    return int(connection.execute(_amount_of, wanted).scalar_one_or_none() or 0)


_settled_by = text(
    """
    SELECT coalesce(settled_by, 'open') FROM holds
    WHERE (tenant, subject, metric) = (:tenant, :subject, :metric) AND shard = :shard AND epoch = :epoch AND n = :n
    """
)


def settled_by(connection: Connection, account: AccountName, shard: int, place: str) -> str | None:
    """commit, release or expire; `open` while nothing has settled it; None if the account never had such a hold."""
    return connection.execute(_settled_by, _named(account, shard, place)).scalar_one_or_none()


def _named(account: AccountName, shard: int, place: str) -> dict[str, Any]:
    found = Place.parsed(place)
    return {
        "tenant": account.tenant,
        "subject": account.subject,
        "metric": account.metric,
        "shard": shard,
        "epoch": found.epoch,
        "n": found.n,
    }


@dataclass(frozen=True, slots=True)
class Expired:
    """A hold whose time was over at `at_ms`, and that nothing in the ledger has settled."""

    account: AccountName
    place: Place
    at_ms: int


# All of one instant are in one page, so that the next begins after it.
_expired = text(
    """
    SELECT tenant, subject, metric, epoch, n, expires_at FROM holds
    WHERE settled_by IS NULL AND expires_at > :after AND expires_at <= :before
    ORDER BY expires_at FETCH FIRST (CAST(:most AS bigint)) ROWS WITH TIES
    """
)


def expired(connection: Connection, after_ms: int, before_ms: int, most: int) -> list[Expired]:
    """Holds that expired between two instants, and of which the ledger has not heard that they were let go: nobody has
    asked for their accounts since, or Redis has lost them. So many at most, and those of the last one's instant; the
    first to expire first."""
    wanted = {"after": to_timestamp(after_ms), "before": to_timestamp(before_ms), "most": most}
    return [
        Expired(
            AccountName(row.tenant, row.subject, row.metric), Place(row.epoch, row.n), from_timestamp(row.expires_at)
        )
        for row in connection.execute(_expired, wanted)
    ]


_standing = text(
    """
    SELECT h.tenant, h.subject, h.metric, h.amount, h.expires_at FROM holds h
    WHERE (h.shard, h.epoch, h.n) = (:shard, :epoch, :n)
    """
)


def passed_over(connection: Connection, forked: Sequence[Entry]) -> list[Entry]:
    """Those holds of a fork at whose places others stand: they are in the ledger's entries alone."""
    found = []
    for each in forked:
        if each.kind != "hold":
            continue
        place = {"shard": each.shard, "epoch": each.place.epoch, "n": each.place.n}
        stands = connection.execute(_standing, place).one_or_none()
        if stands is not None and tuple(stands) != (*each.account, each.amount, to_timestamp(int(each.detail or 0))):
            found.append(each)
    return found

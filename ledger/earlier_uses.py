"""What an idempotency key was used for earlier, of which Redis has lost its record."""

from dataclasses import dataclass

from sqlalchemy import Connection, text

from ledger.instants import to_timestamp
from ledger.repeats import TakeBack
from quota.journal import Place


@dataclass(frozen=True, slots=True)
class GivenBack:
    """What one refund gave back of the entry at `place`, and what had been given back of that in all by then."""

    place: Place
    amount: int
    total: int


# All entries of one receipt have one instant, which leads to their partition.
_refund = text(
    """
    SELECT r.detail AS place, r.amount, (
        SELECT sum(g.amount) FROM entries g
        WHERE g.kind = 'refund' AND (g.tenant, g.shard, g.detail) = (r.tenant, r.shard, r.detail)
          AND (g.epoch, g.n) <= (r.epoch, r.n)
    ) AS total
    FROM idempotency_keys k
    JOIN entries r ON (r.tenant, r.shard, r.epoch, r.occurred_at) = (k.tenant, k.shard, k.epoch, k.occurred_at)
                  AND r.n >= k.first_n AND r.n < k.first_n + k.receipt_count AND r.kind = 'refund'
    WHERE (k.tenant, k.subject, k.route, k.key) = (:tenant, :subject, :route, :key) AND k.occurred_at >= :since
    ORDER BY r.n
    """
)


def refund(  # noqa: PLR0917 - the scope of a key, in its order
    connection: Connection, tenant: str, subject: str, route: str, key: str, since_ms: int
) -> list[GivenBack]:
    """What the first refund under a key gave back; [] if there was none since then."""
    wanted = {"tenant": tenant, "subject": subject, "route": route, "key": key, "since": to_timestamp(since_ms)}
    rows = connection.execute(_refund, wanted)
    return [GivenBack(Place.parsed(row.place), row.amount, int(row.total)) for row in rows]


@dataclass(frozen=True, slots=True)
class EarlierHold:
    """`waits`: it is a repeat itself, and is still to be looked at."""

    place: Place
    metric: str
    waits: bool


_hold = text(
    """
    WITH later AS (
        SELECT tenant, subject, coalesce(route, '') AS route, idempotency_key AS key FROM entries
        WHERE tenant = :tenant AND shard = :shard AND epoch = :epoch AND n = :n AND kind = 'hold'
    ), uses AS (
        SELECT k.epoch, k.first_n, false AS waits FROM idempotency_keys k JOIN later USING (tenant, subject, route, key)
        UNION ALL
        SELECT epoch, first_n, done_at IS NULL FROM take_backs WHERE shard = :shard AND tenant = :tenant
    )
    SELECT e.epoch, e.n, e.metric, uses.waits
    FROM later
    JOIN entries e ON e.idempotency_key = later.key AND coalesce(e.route, '') = later.route
                  AND (e.tenant, e.subject) = (later.tenant, later.subject)
    JOIN uses ON (uses.epoch, uses.first_n) = (e.epoch, e.n)
    WHERE e.shard = :shard AND e.kind = 'hold' AND (e.epoch, e.n) < (:epoch, :n)
    ORDER BY e.epoch DESC, e.n DESC LIMIT 1
    """
)


def hold_before(connection: Connection, later: TakeBack) -> EarlierHold | None:
    """The hold that a repeated one has the key of: of several, the one just before it. None when the ledger does not
    keep that in mind any more."""
    wanted = {"tenant": later.tenant, "shard": later.shard, "epoch": later.epoch, "n": later.first_n}
    row = connection.execute(_hold, wanted).one_or_none()
    return None if row is None else EarlierHold(Place(row.epoch, row.n), row.metric, row.waits)

"""What an older drain left: it books the entries of a newer gateway, and does not know what else belongs to them. Found
by the newer one's jobs, and put right.
"""

from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy import Connection, Text, and_, cast, literal, select, text

from ledger import gifts_booked, movements
from ledger.accounts import names_of
from ledger.gift_table import gifts
from ledger.gifts import UNSETTLED
from ledger.staging import stage_again, unstage
from ledger.tables import entries
from quota.keys import AccountName

LEFT_FOR_S = 60
"""A drain of this version settles a gift in the transaction that has its entry."""
MOST = 100

# Locked before their entries are looked for: a drain that books one just now waits for that lock, or is done. Entries
# are of Redis's clock and gifts of a gateway's, a day apart at the most.
_waiting = text(
    """
    SELECT g.id FROM gifts g
    WHERE g.state IN ('asked', 'taken') AND g.asked_at < now() - make_interval(secs => :left_for_s)
      AND EXISTS (
          SELECT 1 FROM entries e
          WHERE (e.tenant, e.subject, e.metric) = (g.tenant, g.giver, g.metric) AND e.kind = 'gift'
            AND e.detail = 'gift:' || g.id AND e.occurred_at >= g.asked_at - interval '1 day'
      )
    LIMIT :most FOR UPDATE SKIP LOCKED
    """
)

_is_of_gift = and_(
    entries.c.tenant == gifts.c.tenant,
    entries.c.subject == gifts.c.giver,
    entries.c.metric == gifts.c.metric,
    entries.c.kind == "gift",
    entries.c.detail == gifts_booked.PREFIX + cast(gifts.c.id, Text),
    entries.c.occurred_at >= gifts.c.asked_at - literal(timedelta(days=1)),
)


def book_gifts(connection: Connection) -> int:
    """Books the gifts whose units were taken, and which nobody was given; how many."""
    ids = list(connection.execute(_waiting, {"left_for_s": LEFT_FOR_S, "most": MOST}).scalars())
    if not ids:
        return 0
    # Of those that are settled by now a drain of this version has booked the entry.
    is_left = and_(gifts.c.id.in_(ids), gifts.c.state.in_(UNSETTLED))
    stage_again(connection, select(*entries.columns).join(gifts, _is_of_gift).where(is_left))
    movements.move_grant_balances(connection)
    gifts_booked.book_staged(connection)
    unstage(connection)
    return len(ids)


_take_away = text(
    """
    WITH booked AS (
        SELECT n.id
        FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]))
             AS wanted (tenant, subject, metric)
        JOIN notices n USING (tenant, subject, metric)
        WHERE EXISTS (
            SELECT 1 FROM entries e
            WHERE (e.tenant, e.subject, e.metric) = (n.tenant, n.subject, n.metric) AND e.kind IN ('open', 'override')
              AND starts_with(e.detail, 'notice:' || n.id || ':') AND e.occurred_at >= n.created_at - interval '1 day'
        )
        ORDER BY n.id FOR UPDATE OF n SKIP LOCKED
    )
    DELETE FROM notices n USING booked WHERE n.id = booked.id
    """
)


def take_notices_away(connection: Connection, accounts: Sequence[AccountName]) -> int:
    """Takes away the notices of some accounts of which the ledger has the entries; how many."""
    return connection.execute(_take_away, names_of(accounts)).rowcount

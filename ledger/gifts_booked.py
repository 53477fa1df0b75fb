"""Gifts in the drain's transaction: what was taken from the giver becomes the receiver's, so that it is never at both
places, nor at neither.

Redis may be asked twice for one gift and lose, in between, that it was asked before: then it takes the units twice. The
first entry is given to the receiver; whatever comes after it goes back to the giver, and so does what was taken for a
gift that was refused meanwhile.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from sqlalchemy import Connection, bindparam, insert, text, update

from ledger.act_table import acts
from ledger.announcements import announce_all
from ledger.gift_table import gifts
from ledger.gifts import UNSETTLED
from ledger.grants import lock_accounts
from ledger.instants import to_timestamp
from ledger.tables import grants
from quota.formats import parsed_parts
from quota.keys import AccountName

PREFIX = "gift:"

log = structlog.get_logger()

_taken = text(
    """
    SELECT tenant, subject, metric, amount, parts, occurred_at, substr(detail, 6)::uuid AS gift
    FROM staging WHERE kind = 'gift' AND detail LIKE 'gift:%' ORDER BY shard, epoch, n
    """
)

_locked = text("SELECT * FROM gifts WHERE id = ANY(CAST(:ids AS uuid[])) ORDER BY id FOR UPDATE")


class _Moved(NamedTuple):
    """One entry, and whose its units become. `gift` None: nobody asked for it, as far as this ledger knows."""

    entry: Any
    gift: Any
    receiver: AccountName
    is_given: bool


def book_staged(connection: Connection) -> None:
    """Gives the units of the staged gifts to their receivers, settles the gifts, and keeps who did it."""
    entries = connection.execute(_taken).all()
    if not entries:
        return
    ids = [entry.gift for entry in entries]
    known = {row.id: row for row in connection.execute(_locked, {"ids": ids})}
    moved = list(_moved(entries, known))
    lock_accounts(connection, [each.receiver for each in moved])
    connection.execute(insert(grants), [values for each in moved for values in _grants(each)])
    given = [each for each in moved if each.is_given]
    if given:
        settling = update(gifts).where(gifts.c.id == bindparam("gift"))
        settling = settling.values(state="given", settled_at=bindparam("at"))
        connection.execute(settling, [{"gift": each.gift.id, "at": each.entry.occurred_at} for each in given])
    connection.execute(insert(acts), [_act(each) for each in moved])
    announce_all(connection, sorted({(each.receiver.tenant, each.receiver.subject) for each in moved}))
    for each in moved:
        if not each.is_given:
            log.warning("units were taken for a gift twice, and go back", gift=str(each.entry.gift))


def _moved(entries: Sequence[Any], known: dict[UUID, Any]) -> Iterable[_Moved]:
    settled = {ident for ident, gift in known.items() if gift.state not in UNSETTLED}
    for entry in entries:
        gift, giver = known.get(entry.gift), AccountName(entry.tenant, entry.subject, entry.metric)
        is_same = gift is not None and (gift.tenant, gift.giver, gift.metric) == giver
        is_given = is_same and entry.gift not in settled
        settled.add(entry.gift)
        receiver = giver._replace(subject=gift.receiver) if gift is not None and is_given else giver
        yield _Moved(entry, gift if is_same else None, receiver, is_given)


def _grants(moved: _Moved) -> list[dict[str, Any]]:
    """As many as there are expiries and priorities: an account may have few grants, and a gift many parts."""
    units: dict[tuple[int, int | None], int] = {}
    for part in parsed_parts(moved.entry.parts):
        order = part.priority, part.expires_ms
        units[order] = units.get(order, 0) + part.units
    asked = None if moved.gift is None else moved.gift.reason
    returned = f"gift {moved.entry.gift} was taken before"
    return [
        {
            **moved.receiver._asdict(),
            "amount": amount,
            "priority": priority,
            "expires_at": None if expires_ms is None else to_timestamp(expires_ms),
            "reason": asked if moved.is_given else returned,
            "created_by": moved.gift.actor if moved.is_given else "drain",
            "kind": "gift",
        }
        for (priority, expires_ms), amount in units.items()
    ]


def _act(moved: _Moved) -> dict[str, Any]:
    entry, gift = moved.entry, moved.gift
    after = {"id": str(entry.gift), "to": moved.receiver.subject, "amount": entry.amount}
    return {
        "tenant": entry.tenant,
        "at": entry.occurred_at,
        "act": "gift.given" if moved.is_given else "gift.returned",
        "actor": gift.actor if moved.is_given else "drain",
        "origin": None if gift is None else gift.origin,
        "request_id": None if gift is None else gift.request_id,
        "reason": None if gift is None else gift.reason,
        "subject": entry.subject,
        "object": entry.metric,
        "after": after,
    }

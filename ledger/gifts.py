"""Gifts: unused units of one subject's grants that become another's. What was asked, and what came of it.

A row is committed before the counters are asked, so that whoever dies, somebody asks again. The units move in the
transaction that books the giver's entry (ledger/gifts_booked.py).
"""

from dataclasses import dataclass
from uuid import UUID

import msgspec
from sqlalchemy import Connection, insert, select, text, update

from ledger.acts import By
from ledger.claims import claiming
from ledger.gift_table import gifts
from ledger.grants import MAX_LIVE_GRANTS, live_grants
from ledger.instants import to_timestamp
from quota.catalog import Gifts
from quota.errors import IdempotencyKeyReused, NotFound, TooMany
from quota.periods import PeriodKind, period_at, to_rfc3339

ASKED_AGAIN_AFTER_S = 3
"""Whoever asked first is through with it by then, or was killed."""
UNSETTLED = ("asked", "taken")
KEY_KEPT_MS = 86_400_000
"""A key that comes later is a new one's, as with every other request."""


class Wanted(msgspec.Struct, frozen=True):
    """Units that are to be given."""

    giver: str
    receiver: str
    metric: str
    amount: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Gift:
    """What was asked for. `refusal` says why one that is `refused` is."""

    id: UUID
    tenant: str
    giver: str
    receiver: str
    metric: str
    amount: int
    reason: str | None
    actor: str
    origin: str | None
    request_id: str | None
    state: str
    refusal: str | None

    @property
    def is_settled(self) -> bool:
        return self.state not in UNSETTLED


_NAMES = ("id", "tenant", "giver", "receiver", "metric", "amount", "reason", "actor", "origin", "request_id", "state",
          "refusal")  # fmt: skip
_COLUMNS = [gifts.c[name] for name in _NAMES]

# Of both subjects, in one order, so that two gifts between the same two wait for each other, and neither for ever.
_one_at_a_time = text(
    """
    SELECT pg_advisory_xact_lock(hashtextextended(subject, hashtextextended(:tenant, 7261005)))
    FROM (SELECT unnest(ARRAY[CAST(:giver AS text), :receiver]) AS subject ORDER BY 1) AS both_of_them
    """
)

_of_day = text(
    """
    SELECT coalesce(sum(amount) FILTER (WHERE giver = :giver), 0) AS given,
           coalesce(sum(amount) FILTER (WHERE receiver = :receiver), 0) AS received
    FROM gifts
    WHERE tenant = :tenant AND metric = :metric AND (giver = :giver OR receiver = :receiver)
      AND asked_at >= :since AND asked_at < :till AND state <> 'refused'
    """
)

# A gift becomes a grant for each expiry and priority that its units have: of no more units than it has, and of no other
# than its giver's.
_on_their_way = text(
    """
    SELECT coalesce(sum(least(amount, greatest(1, (
        SELECT count(DISTINCT (g.priority, g.expires_at)) FROM grants g
        WHERE (g.tenant, g.subject, g.metric) = (:tenant, giver, :metric)
          AND (g.expires_at IS NULL OR g.expires_at > now())
          AND g.amount > coalesce((SELECT sum(u.used) FROM grant_balances u WHERE u.grant_id = g.id), 0)
    )))), 0)
    FROM (
        SELECT giver, amount FROM gifts
        WHERE (tenant, receiver, metric) = (:tenant, :receiver, :metric) AND state IN ('asked', 'taken')
        UNION ALL SELECT CAST(:giver AS text), CAST(:amount AS bigint)
    ) AS coming
    """
)


def ask(
    connection: Connection,
    tenant: str,
    wanted: Wanted,
    *,
    by: By,
    idempotency_key: str | None,
    caps: Gifts | None,
    now_ms: int,
) -> tuple[Gift, bool]:
    """Writes down that units are to be given; the gift, and whether the key has asked for it before.

    IdempotencyKeyReused when the key has asked for another; TooMany above a cap of the day (`caps`, by Redis's clock),
    or when the receiver has as many grants as an account may have.
    """
    words = {"tenant": tenant} | msgspec.structs.asdict(wanted)
    connection.execute(_one_at_a_time, words)
    if idempotency_key is not None:
        same_key = (
            *(gifts.c.tenant == tenant, gifts.c.giver == wanted.giver, gifts.c.state != "refused"),
            gifts.c.idempotency_key == idempotency_key,
        )
        forgotten = (gifts.c.asked_at <= to_timestamp(now_ms - KEY_KEPT_MS), gifts.c.state.not_in(UNSETTLED))
        connection.execute(update(gifts).where(*same_key, *forgotten).values(idempotency_key=None))
        query = select(*_COLUMNS).where(*same_key)
        before = connection.execute(query).one_or_none()
        if before is not None:
            if any(getattr(before, name) != value for name, value in words.items()):
                raise IdempotencyKeyReused("this idempotency key has made another gift; use a new key for a new one")
            return Gift(*before), True
    if caps is not None:
        _refuse_above(connection, words, caps, now_ms)
    account = {"tenant": tenant, "subject": wanted.receiver, "metric": wanted.metric}
    on_their_way = int(connection.execute(_on_their_way, words).scalar_one())
    if live_grants(connection, account) + on_their_way > MAX_LIVE_GRANTS:
        raise TooMany(
            f"{wanted.receiver} may have {MAX_LIVE_GRANTS} grants of {wanted.metric} that are neither used up nor "
            "expired, with those on their way, and these units may become more than fit in: give when some are used, "
            "or fewer units"
        )
    more = {
        "actor": by.actor,
        "origin": by.origin,
        "request_id": by.request_id,
        "idempotency_key": idempotency_key,
        "asked_at": to_timestamp(now_ms),
        "next_try_at": text(f"now() + interval '{ASKED_AGAIN_AFTER_S} seconds'"),
    }
    return Gift(*connection.execute(insert(gifts).values(words | more).returning(*_COLUMNS)).one()), False


def _refuse_above(connection: Connection, words: dict[str, object], caps: Gifts, now_ms: int) -> None:
    today = period_at(PeriodKind.DAY, now_ms)
    assert today.end_ms is not None, "days have an end"
    instants = {"since": to_timestamp(today.start_ms), "till": to_timestamp(today.end_ms)}
    row = connection.execute(_of_day, words | instants).one()
    checks = (
        ("give", caps.given_a_day, row.given, "giver"),
        ("receive", caps.received_a_day, row.received, "receiver"),
    )
    for verb, most, so_far, who in checks:
        amount = words["amount"]
        assert isinstance(amount, int)
        if most is not None and so_far + amount > most:
            left, begins = max(0, most - int(so_far)), to_rfc3339(today.end_ms)
            raise TooMany(
                f"{words[who]} may {verb} {most} of {words['metric']} a day, and {left} are left today; "
                f"the next day begins at {begins}",
                left=left,
                begins_anew_at=begins,
            )


def read(connection: Connection, tenant: str, ident: UUID) -> Gift:
    """NotFound, if this tenant has no such gift."""
    row = connection.execute(select(*_COLUMNS).where(gifts.c.id == ident, gifts.c.tenant == tenant)).one_or_none()
    if row is None:
        raise NotFound("there is no such gift")
    return Gift(*row)


def taken(connection: Connection, ident: UUID) -> None:
    """Notes that the counters took the units; the ledger has yet to hear of it."""
    connection.execute(update(gifts).where(gifts.c.id == ident, gifts.c.state == "asked").values(state="taken"))


def refuse(connection: Connection, ident: UUID, refusal: str) -> bool:
    """Notes that nothing is to come of it, and why; False, if it was settled before."""
    query = update(gifts).where(gifts.c.id == ident, gifts.c.state.in_(UNSETTLED))
    values = {"state": "refused", "refusal": refusal, "settled_at": text("now()")}
    return connection.execute(query.values(values)).rowcount == 1


_claim = claiming(gifts, gifts.c.state.in_(UNSETTLED), *_NAMES)


def claim(connection: Connection, most: int) -> list[Gift]:
    """Some of the gifts that were asked a while ago and are not settled, for whoever asks the counters again now."""
    return [Gift(*row) for row in connection.execute(_claim, {"most": most})]

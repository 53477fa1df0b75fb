"""What an outage of the counters leaves to be done: charging what was let through, and taking back what was charged
without telling.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
import structlog
from sqlalchemy import Connection, Row, bindparam, text

from ledger.claims import claiming
from ledger.outage_tables import lost_replies, outage_charges
from quota.identifiers import IDENTIFIER_PATTERN, MAX_AMOUNT
from quota.periods import LATEST_MS
from quota.settings import MAX_SHARDS

MAX_REASON_CHARACTERS = 500
MAX_FORGOTTEN = 10_000
SETTLED_ARE_KEPT_S = 30 * 86_400
"""For people on call, who want to see what became of an outage."""

log = structlog.get_logger()


# Checked whenever a note is read, so that one that was damaged on the disk or in the table stops no other.
Identifier = Annotated[str, msgspec.Meta(pattern=IDENTIFIER_PATTERN.removesuffix("$") + r"\Z")]
Ident = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\Z")]
Words = Annotated[str, msgspec.Meta(pattern=r"^[^\x00]*\Z")]
Amount = Annotated[int, msgspec.Meta(ge=0, le=MAX_AMOUNT)]
Instant = Annotated[int, msgspec.Meta(ge=0, le=LATEST_MS)]


class LetThrough(msgspec.Struct, frozen=True, kw_only=True, tag="let_through"):
    """A consume that nobody could decide: `charges` are amounts by metric, `at_ms` is its instant."""

    id: Ident
    tenant: Identifier
    subject: Identifier
    at_ms: Instant
    charges: dict[Identifier, Amount]
    request_id: Words
    operation: Identifier | None = None
    metadata: dict[Words, Words | int | float] | None = None
    idempotency_key: Words | None = None
    route: Words | None = None
    fingerprint: Words = ""


class LostReply(msgspec.Struct, frozen=True, kw_only=True, tag="lost_reply"):
    """A step whose outcome nobody heard: the try of a request, one of the accounts that it charges, and until when by
    Redis's clock it could be charged."""

    id: Ident
    tenant: Identifier
    subject: Identifier
    metric: Identifier
    shard: Annotated[int, msgspec.Meta(ge=0, lt=MAX_SHARDS)]
    request_id: Words
    attempt: Words | None
    until_ms: Instant


Note = LetThrough | LostReply
N = TypeVar("N", LetThrough, LostReply)

# Sorted, so that two writers of the same rows cannot wait for each other.
_keep_let_through = text(
    """
    INSERT INTO outage_charges (id, tenant, subject, document)
    SELECT id, tenant, subject, document
    FROM unnest(CAST(:ids AS uuid[]), CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:documents AS jsonb[]))
         AS let_through (id, tenant, subject, document)
    ORDER BY id
    ON CONFLICT DO NOTHING
    """
)

_keep_lost = text(
    """
    INSERT INTO lost_replies (id, tenant, document, until_ms)
    SELECT id, tenant, document, until_ms
    FROM unnest(CAST(:ids AS uuid[]), CAST(:tenants AS text[]), CAST(:documents AS jsonb[]), CAST(:untils AS bigint[]))
         AS lost (id, tenant, document, until_ms)
    ORDER BY id
    ON CONFLICT DO NOTHING
    """
)


def keep(connection: Connection, notes: Sequence[Note]) -> None:
    """Writes notes down, all or none; those that are written already stay as they are."""
    let_through = [note for note in notes if isinstance(note, LetThrough)]
    lost = [note for note in notes if isinstance(note, LostReply)]
    if let_through:
        subjects = [note.subject for note in let_through]
        connection.execute(_keep_let_through, _columns(let_through) | {"subjects": subjects})
    if lost:
        connection.execute(_keep_lost, _columns(lost) | {"untils": [note.until_ms for note in lost]})


def _columns(notes: Sequence[Note]) -> dict[str, list[str] | list[int]]:
    return {
        "ids": [note.id for note in notes],
        "tenants": [note.tenant for note in notes],
        "documents": [msgspec.json.encode(note).decode() for note in notes],
    }


_claim_let_through = claiming(outage_charges, outage_charges.c.settled_at.is_(None), "id", "document")
_claim_lost = claiming(lost_replies, lost_replies.c.until_ms < bindparam("now_ms"), "id", "document")


def claim_let_through(connection: Connection, most: int) -> list[LetThrough]:
    """Some of those that were not charged yet, for whoever asks to charge them now."""
    return _read(connection.execute(_claim_let_through, {"most": most}), LetThrough)


def claim_lost(connection: Connection, now_ms: int, most: int) -> list[LostReply]:
    """Some of those that can be charged no more by now, for whoever asks to look for them now."""
    return _read(connection.execute(_claim_lost, {"now_ms": now_ms, "most": most}), LostReply)


def _read(rows: Iterable[Row[Any]], kind: type[N]) -> list[N]:
    found = []
    for row in rows:
        try:
            found.append(msgspec.convert(row.document, kind))
        except msgspec.ValidationError as error:  # it keeps no other waiting
            log.error("what an outage has left cannot be read: somebody must look at it", id=row.id, reason=str(error))
    return found


_settled = text(
    """
    UPDATE outage_charges SET settled_at = now(), refusal = settled.refusal
    FROM unnest(CAST(:ids AS uuid[]), CAST(:refusals AS text[])) AS settled (id, refusal)
    WHERE outage_charges.id = settled.id AND settled_at IS NULL
    """
)


def settled(connection: Connection, refusals: Mapping[str, str | None]) -> None:
    """Notes by their ids that some were charged (None), or why they never can be."""
    short = [None if refusal is None else refusal[:MAX_REASON_CHARACTERS] for refusal in refusals.values()]
    connection.execute(_settled, {"ids": list(refusals), "refusals": short})


_looked_for = text("DELETE FROM lost_replies WHERE id = ANY (CAST(:ids AS uuid[]))")


def looked_for(connection: Connection, lost: Sequence[LostReply]) -> None:
    """Forgets those of which nothing is charged any more."""
    connection.execute(_looked_for, {"ids": [each.id for each in lost]})


_forget = text(
    """
    DELETE FROM outage_charges WHERE id IN (
        SELECT id FROM outage_charges WHERE settled_at < now() - make_interval(secs => :age_s)
        LIMIT :most FOR UPDATE SKIP LOCKED
    )
    """
)


def forget(connection: Connection) -> int:
    """Deletes what was settled long ago; how many rows, at most MAX_FORGOTTEN."""
    return connection.execute(_forget, {"age_s": SETTLED_ARE_KEPT_S, "most": MAX_FORGOTTEN}).rowcount


# How much waits, and for how many seconds the oldest; `refused` will never be charged.
_left = text(
    """
    SELECT 'let_through' AS what, count(*) AS rows, extract(epoch FROM now() - min(kept_at)) AS oldest_s
    FROM outage_charges WHERE settled_at IS NULL
    UNION ALL
    SELECT 'lost_replies', count(*), extract(epoch FROM now() - min(noted_at)) FROM lost_replies
    UNION ALL
    SELECT 'take_backs', count(*), extract(epoch FROM now() - min(created_at)) FROM take_backs WHERE done_at IS NULL
    UNION ALL
    SELECT 'refused', count(*), extract(epoch FROM now() - min(kept_at))
    FROM outage_charges WHERE refusal IS NOT NULL
    """
)


def left(connection: Connection) -> dict[str, tuple[int, float]]:
    """How many of each are left to be done, and the age of the oldest in seconds: `let_through`, `lost_replies`,
    `take_backs`; and `refused`, which can never be charged."""
    return {row.what: (row.rows, float(row.oldest_s or 0)) for row in connection.execute(_left)}

"""What was let through while the counters were away, until it is charged."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, text

MAX_REASON_CHARACTERS = 500


class LetThrough(msgspec.Struct, frozen=True, kw_only=True):
    """A consume that nobody could decide: `charges` are amounts by metric, `at_ms` is its instant."""

    id: str
    tenant: str
    subject: str
    at_ms: int
    charges: dict[str, int]
    request_id: str
    operation: str | None = None
    metadata: dict[str, str | int | float] | None = None
    idempotency_key: str | None = None
    route: str | None = None
    fingerprint: str = ""


# Sorted, so that two writers of the same entries cannot wait for each other.
_keep = text(
    """
    INSERT INTO outage_charges (id, tenant, subject, document)
    SELECT id, tenant, subject, document
    FROM unnest(CAST(:ids AS uuid[]), CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:documents AS jsonb[]))
         AS let_through (id, tenant, subject, document)
    ORDER BY id
    ON CONFLICT DO NOTHING
    """
)


def keep(connection: Connection, entries: Sequence[LetThrough]) -> None:
    """Writes entries down; those that are written already stay as they are."""
    connection.execute(
        _keep,
        {
            "ids": [entry.id for entry in entries],
            "tenants": [entry.tenant for entry in entries],
            "subjects": [entry.subject for entry in entries],
            "documents": [msgspec.json.encode(entry).decode() for entry in entries],
        },
    )


_waiting = text("SELECT document FROM outage_charges WHERE settled_at IS NULL ORDER BY kept_at, id LIMIT :most")


def waiting(connection: Connection, most: int) -> list[LetThrough]:
    """Those that were not charged yet, oldest first."""
    rows = connection.execute(_waiting, {"most": most})
    return [msgspec.convert(row.document, LetThrough) for row in rows]


_settled = text(
    "UPDATE outage_charges SET settled_at = now(), refusal = :refusal WHERE id = :id AND settled_at IS NULL"
)


def settled(connection: Connection, ident: str, refusal: str | None) -> None:
    """Notes that an entry was charged, or why it never can be."""
    short = None if refusal is None else refusal[:MAX_REASON_CHARACTERS]
    connection.execute(_settled, {"id": ident, "refusal": short})

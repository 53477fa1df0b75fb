"""Acts that are entries: what an operator did to a counter is kept by the drain, in the transaction that books it."""

from sqlalchemy import Connection, text

KINDS = frozenset(("set", "correct"))

# A reconciliation's `correct` is nobody's act, and changes nothing in the ledger (decision 013).
_note = text(
    """
    INSERT INTO acts (tenant, at, act, actor, origin, request_id, reason, subject, object, before, after)
    SELECT tenant, occurred_at, CASE kind WHEN 'set' THEN 'level.set' ELSE 'counter.corrected' END,
           coalesce(actor, 'quotagate'), origin, request_id, reason, subject, metric,
           jsonb_build_object('used', used_after - change), jsonb_build_object('used', used_after)
    FROM staging
    WHERE kind = 'set' OR (kind = 'correct' AND detail IS NULL)
    ORDER BY shard, epoch, n
    """
)


def note_staged(connection: Connection) -> None:
    """Notes who set a level or corrected a counter, among the staged entries."""
    connection.execute(_note)

"""What workers ought to have done by now, for people on call."""

from sqlalchemy import Connection, text

MAX_COUNTED = 100_000
"""More are counted no further: it is known by then that nobody does it."""
SEALED_WITHIN_S = 3_600
"""A period that has been over for longer than that waits for somebody to look."""

# Where there has been none yet: since there was somebody whose accounts could be compared.
_unreconciled_s = text(
    """
    SELECT coalesce(extract(epoch FROM now() - coalesce(
        (SELECT finished_at FROM reconciliations ORDER BY run_id DESC LIMIT 1),
        (SELECT min(created_at) FROM tenants)
    )), 0)
    """
)


def unreconciled_s(connection: Connection) -> float:
    """For how many seconds nothing has been reconciled."""
    return float(connection.execute(_unreconciled_s).scalar_one())


_unsealed = text(
    """
    SELECT count(*) AS waiting, extract(epoch FROM now() - min(period_end)) AS oldest_s
    FROM (
        SELECT period_end FROM balances
        WHERE NOT is_sealed AND period_end < now() - make_interval(secs => :after_s)
        ORDER BY period_end LIMIT :most
    ) AS waiting
    """
)


def unsealed(connection: Connection) -> tuple[int, float]:
    """How many periods ought to be sealed and are not, at most MAX_COUNTED, and for how long the oldest is over."""
    row = connection.execute(_unsealed, {"after_s": SEALED_WITHIN_S, "most": MAX_COUNTED}).one()
    return row.waiting, float(row.oldest_s or 0)

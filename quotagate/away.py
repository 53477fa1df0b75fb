"""Why the ledger is away and where it was looked for: for operators at a shell, never for callers; never a password."""

from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from quota.errors import LedgerUnavailable

MAX_CHARACTERS = 300
WHAT_TO_LOOK_AT = "does Postgres run there, and is QUOTAGATE_DATABASE_URL right?"


def cause_of(error: LedgerUnavailable) -> str:
    """What the driver has said, in one line; empty where it has said nothing. A driver names no password."""
    cause = getattr(error.__cause__, "orig", None) or error.__cause__
    return "" if cause is None else " ".join(str(cause).split())[:MAX_CHARACTERS]


def with_cause(error: LedgerUnavailable) -> str:
    """The sentence, and the cause behind it."""
    cause = cause_of(error)
    return f"{error}: {cause}" if cause else str(error)


def ledger_away(error: LedgerUnavailable, database_url: str) -> str:
    """For doctor, which changes nothing anyway and is where every other command sends people."""
    try:
        url = make_url(database_url)
        where = f"{url.host or 'the local socket'}:{url.port or 5432}/{url.database or ''}"
    except ArgumentError:
        where = "the address in QUOTAGATE_DATABASE_URL"
    return f"the ledger at {where} cannot be reached: {cause_of(error) or error}; {WHAT_TO_LOOK_AT}"

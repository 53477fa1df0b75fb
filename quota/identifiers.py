"""Identifiers and amounts: what may stand in a request, checked once at the door."""

import re

from quota.errors import InvalidRequest

IDENTIFIER_PATTERN = r"^[A-Za-z0-9._\-:@/+]{1,200}$"
MAX_AMOUNT = 2**53 - 1
"""Lua counts in doubles: beyond 2^53 two neighbouring integers are the same number."""

# \Z and not $: in Python, $ also matches before a final line feed.
_identifier = re.compile(r"[A-Za-z0-9._\-:@/+]{1,200}\Z")


def checked_identifier(value: str, field: str) -> str:
    """The same string, or InvalidRequest that names the field."""
    if not _identifier.match(value):
        raise InvalidRequest(f"{field} must be 1 to 200 characters of A-Z a-z 0-9 . _ - : @ / +", field=field)
    return value


def checked_amount(value: int, field: str = "amount") -> int:
    """The same integer if it lies in 1 to 2^53 - 1, else InvalidRequest."""
    if not 1 <= value <= MAX_AMOUNT:
        raise InvalidRequest(f"{field} must be an integer from 1 to {MAX_AMOUNT}", field=field)
    return value

"""Instants cross this border: milliseconds since 1970 in the counters, timestamptz in the tables."""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def to_timestamp(unix_ms: int) -> datetime:
    # Not fromtimestamp(ms / 1000), which goes by way of a float.
    return _EPOCH + timedelta(milliseconds=unix_ms)


def from_timestamp(instant: datetime) -> int:
    return (instant - _EPOCH) // _MILLISECOND

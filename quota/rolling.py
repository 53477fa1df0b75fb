"""The roll of an account whose window is over: calendars are Python's, and the script only closes and opens. Pure."""

from collections.abc import Sequence

from quota import protocol
from quota.formats import CapState, Window
from quota.periods import period_at
from quota.protocol import Call


def roll_call(shard: int, account_key: str, window: Window, caps: Sequence[CapState], now_ms: int) -> Call:
    """Of an account that was found in this window, and with these caps, at `now_ms` by Redis's clock."""
    terms = window.terms
    following = Window(period_at(terms.kind, now_ms, terms.anchor_ms), terms)
    opened = [CapState(period_at(cap.period.kind, now_ms), cap.limit) for cap in caps]
    return protocol.roll(shard, account_key, window.period, following, opened)

"""What a catalog grants, in the words of people: `500 a month, 200 a day at most`."""

from collections.abc import Mapping

import msgspec

from quota.catalog import Limit
from quota.catalog_rules import PERIODS_BY_LENGTH


def limit_words(limit: Limit) -> str:
    """All that a plan says of a metric."""
    if limit.limit is None:
        words = "unlimited"
    else:
        words = f"{limit.limit:,} a {limit.period}" if limit.period else f"{limit.limit:,} in all"
    if limit.limit is None and limit.period and limit.rollover is None:
        words += f" (by {limit.period})"
    caps = sorted(limit.caps.items(), key=lambda item: PERIODS_BY_LENGTH.index(item[0]))
    parts = [words, *(f"{amount:,} a {kind} at most" for kind, amount in caps)]
    if limit.enforcement == "soft":
        parts.append("soft")
    if limit.rollover is not None:
        parts.append(f"up to {limit.rollover.max:,} roll over")
    return ", ".join(parts)


def amounts_words(amounts: Mapping[str, int]) -> str:
    """`5 credits and 1 exports`, by metric."""
    return " and ".join(f"{amount:,} {metric}" for metric, amount in sorted(amounts.items())) or "free"


def value_words(value: object) -> str:
    """Any other value of a catalog."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def versus(before: str, after: str) -> str:
    """Both, with what they end with alike said once: `500 → 800 a month`."""
    first, second = before.split(" "), after.split(" ")
    alike = 0
    while alike < min(len(first), len(second)) - 1 and first[-1 - alike] == second[-1 - alike]:
        alike += 1
    if not alike or "," in before + after:
        return f"{before} → {after}"
    return f"{' '.join(first[:-alike])} → {after}"

"""What a catalog may not say. Each contradiction names its path and what to write instead."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from quota.catalog_paths import joined
from quota.catalog_shapes import did_you_mean
from quota.errors import InvalidRequest
from quota.identifiers import MAX_AMOUNT, checked_identifier

if TYPE_CHECKING:  # quota.catalog asks this file
    from quota.catalog import Catalog, Limit, Metric, Plan

MAX_ENTRIES_A_SECTION = 1_000
"""Metrics, operations, plans, add-ons: a subject's status lists every metric in one answer of reasonable size."""
MAX_CHARGES_AN_OPERATION = 32
"""All of them are charged in one script, during which Redis serves nobody else."""
MAX_WARNINGS_A_METRIC = 16
"""They are stored with every account, beside its plan's name: in all 64 bytes are compact, and more still works."""
MAX_RANK = 2**31 - 1  # the largest integer of a Postgres column
MAX_PRICES = 100
"""Of one plan or add-on: Stripe changes no price, a new one is made, and who has bought the old one stays on it."""
MAX_UNIT_CHARACTERS = 40  # a word in a sentence
MAX_URL_CHARACTERS = 2_000  # what every browser and proxy still takes

PERIODS_BY_LENGTH = ("day", "week", "month", "year")

_bare_key = re.compile(r"[A-Za-z0-9_-]{1,200}\Z")
_price = re.compile(r"[!-~]{1,255}\Z")  # Stripe promises no form of its ids, and no more characters than that
_url = re.compile(r"https?://[!-~]+\Z")  # printable ASCII only: it goes into a header and a page as it is


def contradictions(catalog: "Catalog", sections: tuple[str, ...]) -> Iterator[str]:
    """Each with the path of what it is about, and what to write instead."""
    for section in sections:
        entries = getattr(catalog, section)
        if len(entries) > MAX_ENTRIES_A_SECTION:
            yield f"{section}: {len(entries)} entries; write {MAX_ENTRIES_A_SECTION:,} at most"
        for name in entries:
            try:
                checked_identifier(name, "the name")
            except InvalidRequest as error:
                yield f"{joined(section, name)}: {error}"
    yield from _head_contradictions(catalog)
    for name, metric in catalog.metrics.items():
        yield from _metric_contradictions(joined("metrics", name), metric)
    for name, operation in catalog.operations.items():
        path = f"{joined('operations', name)}.charges"
        if len(operation.charges) > MAX_CHARGES_AN_OPERATION:
            yield f"{path}: {len(operation.charges)} metrics; write {MAX_CHARGES_AN_OPERATION} at most"
        yield from _amount_contradictions(path, operation.charges, catalog)
    for name, add_on in catalog.add_ons.items():
        yield from _amount_contradictions(f"{joined('add_ons', name)}.adds", add_on.adds, catalog)
    yield from _rank_contradictions(catalog.plans)
    yield from _price_contradictions(catalog)
    for name, plan in catalog.plans.items():
        for metric_name, limit in plan.limits.items():
            path = f"{joined('plans', name)}.limits"
            if metric_name not in catalog.metrics:
                yield _no_such_metric(path, metric_name, catalog)
            yield from _limit_contradictions(joined(path, metric_name), limit, catalog.metrics.get(metric_name))


def _no_such_metric(path: str, name: str, catalog: "Catalog") -> str:
    meant = did_you_mean(name, catalog.metrics)
    return f"{joined(path, name)}: no such metric; declare it under metrics or take this out{meant}"


def _head_contradictions(catalog: "Catalog") -> Iterator[str]:
    if catalog.default_plan is not None and catalog.default_plan not in catalog.plans:
        meant = did_you_mean(catalog.default_plan, catalog.plans)
        yield f"default_plan: no such plan; write the name of one under plans, or leave it out to deny{meant}"
    url = catalog.upgrade_url
    if url is not None and not (_url.match(url) and len(url) <= MAX_URL_CHARACTERS):
        yield f"upgrade_url: write an http or https address of at most {MAX_URL_CHARACTERS:,} ASCII characters"
    if re.search(r"[{}]", (url or "").replace("{plan}", "")):
        yield "upgrade_url: {plan} is the only placeholder; write other braces as %7B and %7D"


def _metric_contradictions(path: str, metric: "Metric") -> Iterator[str]:
    unit, levels = metric.unit, metric.warn_at_pct
    if unit is not None and not (unit.strip() and unit.isprintable() and len(unit) <= MAX_UNIT_CHARACTERS):
        yield f"{path}.unit: write 1 to {MAX_UNIT_CHARACTERS} printable characters, or leave it out"
    if list(levels) != sorted({level for level in levels if 1 <= level <= 99}):
        yield f"{path}.warn_at_pct: write whole percents from 1 to 99, ascending, each once (100 is always one)"
    if len(levels) > MAX_WARNINGS_A_METRIC:
        yield f"{path}.warn_at_pct: {len(levels)} levels; write {MAX_WARNINGS_A_METRIC} at most"


def _amount_contradictions(path: str, amounts: dict[str, int], catalog: "Catalog") -> Iterator[str]:
    for metric_name, amount in amounts.items():
        if metric_name not in catalog.metrics:
            yield _no_such_metric(path, metric_name, catalog)
        if not 1 <= amount <= MAX_AMOUNT:
            yield f"{joined(path, metric_name)}: write an amount from 1 to {MAX_AMOUNT}"


def _rank_contradictions(plans: dict[str, "Plan"]) -> Iterator[str]:
    """Two plans of one rank would leave it open which of them is the upgrade."""
    holders: dict[int, str] = {}
    for name, plan in plans.items():
        if not 0 <= plan.rank <= MAX_RANK:
            yield f"{joined('plans', name)}.rank: write a rank from 0 to {MAX_RANK}"
        holder = holders.setdefault(plan.rank, name)
        if holder != name:
            yield f"{joined('plans', name)}.rank: the rank of {joined('plans', holder)} too; write one of its own"


def _price_contradictions(catalog: "Catalog") -> Iterator[str]:
    """One price in two places would leave it open what was bought with it."""
    holders: dict[str, str] = {}
    sold = [("plans", name, plan.stripe_prices) for name, plan in catalog.plans.items()]
    sold += [("add_ons", name, add_on.stripe_prices) for name, add_on in catalog.add_ons.items()]
    for section, name, prices in sold:
        path = f"{joined(section, name)}.stripe_prices"
        if len(prices) > MAX_PRICES:
            yield f"{path}: {len(prices)} prices; write {MAX_PRICES} at most"
        for price in prices:
            if not _price.match(price):
                yield f"{path}: write ids of prices as Stripe shows them, such as price_1MowQULkdIwHu7ix"
            elif price in holders:
                yield f"{path}: {price} stands in {holders[price]} too; leave it in one place, once"
            else:
                holders[price] = path


def _limit_contradictions(path: str, limit: "Limit", metric: "Metric | None") -> Iterator[str]:
    if limit.limit is not None and not 0 <= limit.limit <= MAX_AMOUNT:
        yield f"{path}.limit: write a limit from 0 to {MAX_AMOUNT}, or leave it out for unlimited"
    if metric is not None and metric.kind == "level" and limit.period is not None:
        yield f'{path}.period: a level is held, not reset; leave the period out or make the metric kind = "counter"'
    yield from _cap_contradictions(path, limit, metric)
    if limit.rollover is not None and (limit.period is None or limit.limit is None):
        yield f"{path}.rollover: needs a limit and a period to roll over from; write both or leave this out"
    if limit.rollover is not None and not 1 <= limit.rollover.max <= MAX_AMOUNT:
        yield f"{path}.rollover.max: write an amount from 1 to {MAX_AMOUNT}"


def _cap_contradictions(path: str, limit: "Limit", metric: "Metric | None") -> Iterator[str]:
    if limit.caps and metric is not None and metric.kind == "level":
        yield f"{path}.caps: a level has no periods to cap; leave them out"
        return
    shorter = PERIODS_BY_LENGTH[: PERIODS_BY_LENGTH.index(limit.period)] if limit.period else PERIODS_BY_LENGTH
    for period, amount in limit.caps.items():
        cap_path = joined(f"{path}.caps", period)
        if period not in shorter:
            offered = f"write {' or '.join(shorter)}" if shorter else "leave it out"
            yield f"{cap_path}: not a period shorter than the limit's own; {offered}"
        if not 0 <= amount <= MAX_AMOUNT:
            yield f"{cap_path}: write an amount from 0 to {MAX_AMOUNT}"

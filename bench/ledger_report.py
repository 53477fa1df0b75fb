"""The ledger's figures as tables."""

from collections.abc import Sequence
from statistics import median

from bench.drain import Beside, Results
from bench.report import table
from bench.scripts import spread
from bench.stores import Measured

DRAIN_TARGET = "at least 0.25"
REBUILD_TARGET_A_MINUTE = "1,000,000"
RECONCILE_TARGET_A_SECOND = "1,000"


def of(runs: Sequence[Measured], attribute: str) -> float:
    return median(getattr(run, attribute) for run in runs)


def _costs(runs: Sequence[Measured]) -> tuple[str, str, str]:
    return (f"{of(runs, 'worker_us'):.1f}", f"{of(runs, 'redis_us'):.1f}", f"{of(runs, 'postgres_us'):.1f}")


def drain_table(results: Results) -> str:
    header = (
        "into the ledger", "entries/s", "of the bare COPY", "of the one with indexes", "spread", "aimed at",
        "its own CPU us an entry", "Redis CPU us", "Postgres CPU us",
    )  # fmt: skip
    rows = [row for each in results.drains for row in _rows(each)]
    return table(header, rows)


def _rows(each: Beside) -> list[tuple[str, ...]]:
    found = []
    for name, runs, target in (
        (f"the drain, {each.name}", each.drained, DRAIN_TARGET),
        ("COPY of the same rows, no index", each.bare, ""),
        (f"COPY of the same rows{' and keys' if each.with_key else ''}, the same indexes", each.with_indexes, ""),
    ):
        rates = [run.a_second for run in runs]
        found.append(
            (
                name,
                f"{median(rates):,.0f}",
                f"{_ratio(runs, each.bare):.2f}",
                f"{_ratio(runs, each.with_indexes):.2f}",
                f"± {spread(rates):.0%}",
                target,
                *_costs(runs),
            )
        )
    return found


def _ratio(runs: Sequence[Measured], beside: Sequence[Measured]) -> float:
    """The median of each round's own."""
    return median(run.a_second / other.a_second for run, other in zip(runs, beside, strict=True))


def checks_table(results: Results) -> str:
    assert results.linked is not None
    header = (
        "going through all of it", "entries or accounts", "a second", "aimed at", "its own CPU us each",
        "Redis CPU us", "Postgres CPU us",
    )  # fmt: skip
    rows = []
    for name, runs, target in (
        ("verify, lines and balances: entries", results.lines, ""),
        ("verify with the hash chains: entries", results.chains, ""),
        ("making the hash chains: entries", [results.linked], ""),
        ("reconcile: accounts", results.reconciled, f"at least {RECONCILE_TARGET_A_SECOND}"),
    ):
        rate = f"{of(runs, 'a_second'):,.0f}"
        rows.append((name, f"{runs[0].worked.count:,}", rate, target, *_costs(runs)))
    return table(header, rows)


def accounts_table(rebuilt: Sequence[Measured], reset: Measured) -> str:
    header = (
        "all accounts", "accounts", "a minute", "a minute without its rests", "aimed at", "its own CPU us an account",
        "Redis CPU us", "Postgres CPU us",
    )  # fmt: skip
    rows = []
    for name, runs, target in (
        ("rebuild, Redis being empty", rebuilt, f"at least {REBUILD_TARGET_A_MINUTE}"),
        ("reset, from one day to the next", [reset], ""),
    ):
        rate, busy = of(runs, "a_second") * 60, of(runs, "a_second_without_rest") * 60
        rows.append((name, f"{runs[0].worked.count:,}", f"{rate:,.0f}", f"{busy:,.0f}", target, *_costs(runs)))
    return table(header, rows)

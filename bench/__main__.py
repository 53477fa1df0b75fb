"""`python -m bench`: measures everything, prints it, writes RESULTS.md. `--quick` only shows that it works."""

import argparse
import sys
import time
from pathlib import Path

from bench import drain, http, ledger_report, rebuild, report, scripts

RESULTS = Path(__file__).parent / "RESULTS.md"

REPEAT = """\
Repeat with `make bench` (about nine minutes). Absolute figures are noise on a machine that does other things too;
ratios, CPU a request and the order of things are less so. Rounds are interleaved, figures are medians, ratios are
medians of each round's own ratio, and `spread` is half of the middle half of the rounds. Everything ran on the cores
named above, the load client included."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test of 40 s; writes no file")
    quick = parser.parse_args().quick
    began = time.monotonic()
    sections = [
        "# What it costs\n",
        report.machine(),
        f"\n{REPEAT}\n",
        "## The script, in Redis, beside `GET` + `INCRBY`\n",
    ]
    _say(*sections)
    costs = scripts.measure(rounds=3, checks=1280) if quick else scripts.measure(rounds=41, checks=2560)
    found = report.scripts_table(costs)
    _say(found)
    sections += [found, "\n## One gateway process\n"]
    results = http.measure(rounds=1, seconds=0.5) if quick else http.measure(rounds=3, seconds=4.0)
    tables = [
        f"{http.CONNECTIONS} connections, {scripts.SUBJECTS} subjects, one metric with a hard limit a month.\n",
        report.saturation_table(results),
        "",
        report.latency_table(results),
    ]
    _say(*tables)
    sections += [*tables, "\n## The ledger\n"]
    found = _ledger(quick)
    _say(*found, f"\n{time.monotonic() - began:.0f} s in all")
    sections += found
    if not quick:
        RESULTS.write_text("\n".join(sections) + "\n")


LEDGER = """\
The worker is a process of its own, beside nothing but the two stores. What is moved, brought in, sealed and verified
was made by the scripts (the accounts of the rebuild: by COPY). A round of the drain is {entries:,} entries of
{accounts:,} accounts; the bare COPY is one statement over the same rows, which stand ready as text. The reset rests as
long as it works, so that requests and other jobs have their turn: it takes at least twice the time that it would take
alone. The drain of what it closes is in its figure, because a `close` entry must be in the ledger before its period is
sealed. `verify` with the hash chains is what `quotagate ledger verify` does; without them, what it does for one
tenant."""


def _ledger(quick: bool) -> list[str]:
    rounds, entries, accounts = (1, 2_000, 500) if quick else (3, 100_000, 20_000)
    moved = drain.measure(rounds, entries, accounts)
    rebuilt = rebuild.measure_rebuild(1, 2_000) if quick else rebuild.measure_rebuild(5, 200_000)
    reset = rebuild.measure_reset(1_000 if quick else 50_000)
    return [
        LEDGER.format(entries=entries, accounts=accounts) + "\n",
        ledger_report.drain_table(moved),
        "",
        ledger_report.checks_table(moved),
        "",
        ledger_report.accounts_table(rebuilt, reset),
    ]


def _say(*paragraphs: str) -> None:
    sys.stdout.write("\n".join(paragraphs) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

"""`python -m bench`: measures everything, prints it, writes RESULTS.md. `--quick` only shows that it works."""

import argparse
import sys
import time
from pathlib import Path

from bench import http, report, scripts

RESULTS = Path(__file__).parent / "RESULTS.md"

REPEAT = """\
Repeat with `make bench` (about two and a half minutes). Absolute figures are noise on a machine that does other things
too; ratios, CPU a request and the order of things are less so. Rounds are interleaved, figures are medians, ratios are
medians of each round's own ratio, and `spread` is half of the middle half of the rounds. Everything ran on the cores
named above, the load client included."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke test of 20 s; writes no file")
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
    _say(*tables, f"\n{time.monotonic() - began:.0f} s in all")
    sections += tables
    if not quick:
        RESULTS.write_text("\n".join(sections) + "\n")


def _say(*paragraphs: str) -> None:
    sys.stdout.write("\n".join(paragraphs) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

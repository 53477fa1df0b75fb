"""Kills drains and servers at six points, again and again, while requests go on: `python -m tests.soak.kills`.

Prints each kill and what was under way; exits with an error when the ledger is not what clients were told.
"""

import argparse
import secrets
import tempfile
import time
from collections import Counter
from pathlib import Path

from tests.faults.dying import assert_nothing_is_missing_or_there_twice, kill_at_points, points
from tests.load import Log
from tests.soak.faults import DOOR_DEADLINE_MS, running, say


def soak(kills: int, seed: int) -> None:
    say(f"seed {seed}")
    order, began = points(kills, seed), time.monotonic()

    def told(number: int, what: str, log: Log) -> None:
        say(f"  {time.monotonic() - began:5.0f} s, {log.served:,} served, kill {number} of {kills}: {what}")

    with (
        tempfile.TemporaryDirectory(prefix="quotagate-soak-") as folder,
        running(Path(folder) / "killed", durability="always", deadline_ms=str(DOOR_DEADLINE_MS)) as system,
    ):
        log = kill_at_points(system, order, "killed", told)
        entries = assert_nothing_is_missing_or_there_twice(system, log, "killed")
    counts, at = log.counts, ", ".join(f"{number} {point}" for point, number in Counter(order).items())
    say(
        f"= kills: {kills} in {time.monotonic() - began:.0f} s ({at}); {counts[200]:,} requests acknowledged, "
        f"{len(log.status) - counts[200]:,} not; {entries:,} entries verified, 0 missing, 0 twice, drift 0; seed {seed}"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="of the order of the points")
    asked = parser.parse_args()
    soak(asked.kills, secrets.randbelow(2**31) if asked.seed is None else asked.seed)

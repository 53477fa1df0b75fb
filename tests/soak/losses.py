"""Takes something from Redis again and again: `python -m tests.soak.losses`. The end of its file is cut off at many
points, and it is emptied while four gateways are at work. Prints what was lost and told; exits with an error when the
counters are not the ledger's afterwards, or when something was lost and not told to the unit.
"""

import argparse
import random
import secrets
import tempfile
from pathlib import Path

from tests.faults.conftest import SCANS
from tests.faults.losing import FLUSHED, cut, flush_under_load
from tests.soak.faults import DOOR_DEADLINE_MS, running, say
from tests.system import Gateway

GATEWAYS = 4


def soak(cuts: int, flushes: int, seed: int) -> None:
    chances = random.Random(seed)
    say(f"seed {seed}")
    with (
        tempfile.TemporaryDirectory(prefix="quotagate-soak-") as folder,
        running(Path(folder) / "lost", deadline_ms=str(DOOR_DEADLINE_MS)) as system,
    ):
        say(f"Redis's file cut off at {cuts} points")
        for each in range(cuts):
            part = chances.uniform(0.01, 0.999)
            cut(
                system,
                f"cut_{each}",
                part,
                lambda found, each=each, part=part: say(f"  cut {each + 1} of {cuts}, at {part:.0%}: {found}"),
            )
        say(f"Redis emptied {flushes} times, while {GATEWAYS} gateways are at work")
        more = [Gateway(system, f"more-{each}", deadline_ms=DOOR_DEADLINE_MS).start() for each in range(GATEWAYS - 1)]
        try:
            urls = [system.urls["gateway"], *(each.url for each in more)]
            for each in range(flushes):
                acknowledged, lost = flush_under_load(system, urls, f"flushed_{each}", 1_200)
                assert acknowledged <= FLUSHED * SCANS + lost
                above = max(0, acknowledged - FLUSHED * SCANS)
                say(f"  emptied {each + 1} of {flushes}: {lost} lost and told, {above} let through above the limits")
        finally:
            for each in more:
                each.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=65)
    parser.add_argument("--flushes", type=int, default=10)
    parser.add_argument("--seed", type=int, default=None, help="of the points at which it is cut off")
    asked = parser.parse_args()
    soak(asked.cuts, asked.flushes, secrets.randbelow(2**31) if asked.seed is None else asked.seed)

"""Takes something from Redis again and again: `python -m tests.soak.losses`.

The end of its file is cut off at many points, it is emptied while four gateways are at work, and a replica that had
lagged takes over. Prints what was lost and told; exits with an error when the counters are not the ledger's afterwards,
or when something was lost and not told to the unit.
"""

import argparse
import random
import secrets
import tempfile
import time
from pathlib import Path

from tests.faults.conftest import SCANS
from tests.faults.failing_over import NOTICED_WITHIN_S, fail_over, paired
from tests.faults.losing import FLUSHED, cut, flush_under_load
from tests.soak.faults import DOOR_DEADLINE_MS, running, say
from tests.system import Gateway, System

GATEWAYS = 4


def cut_off(system: System, cuts: int, chances: random.Random) -> str:
    say(f"Redis's file cut off at {cuts} points")
    acknowledged = lost = 0
    for each in range(cuts):
        part = chances.uniform(0.01, 0.999)
        found = cut(system, f"cut_{each}", part)
        acknowledged, lost = acknowledged + found[0], lost + found[1]
        say(f"  cut {each + 1} of {cuts}, at {part:.0%}: {found[0]} acknowledged, {found[1]} of them lost and told")
    return f"{cuts} cuts: {acknowledged:,} acknowledged, {lost:,} lost and told"


def empty(system: System, flushes: int) -> str:
    say(f"Redis emptied {flushes} times, while {GATEWAYS} gateways are at work")
    more = [Gateway(system, f"more-{each}", deadline_ms=DOOR_DEADLINE_MS).start() for each in range(GATEWAYS - 1)]
    all_lost = all_above = 0
    try:
        urls = [system.urls["gateway"], *(each.url for each in more)]
        for each in range(flushes):
            acknowledged, lost = flush_under_load(system, urls, f"flushed_{each}", 1_200)
            assert acknowledged <= FLUSHED * SCANS + lost
            above = max(0, acknowledged - FLUSHED * SCANS)
            all_lost, all_above = all_lost + lost, all_above + above
            say(f"  emptied {each + 1} of {flushes}: {lost} lost and told, {above} let through above the limits")
    finally:
        for each in more:
            each.stop()
    return f"{flushes} times emptied: {all_lost:,} lost and told, {all_above:,} let through above the limits"


def take_over(folder: Path, failovers: int) -> str:
    say(f"{failovers} fail-overs to a replica that had lagged")
    all_lost = all_above = 0
    longest_s = 0.0
    with paired(folder / "paired", folder / "lost" / "catalog.toml", deadline_ms=str(DOOR_DEADLINE_MS)) as pair:
        for each in range(failovers):
            found = fail_over(pair, f"failed_{each}")
            assert found.acknowledged <= pair.limits + found.lost
            assert found.noticed_s < NOTICED_WITHIN_S
            above = max(0, found.acknowledged - pair.limits)
            all_lost, all_above, longest_s = all_lost + found.lost, all_above + above, max(longest_s, found.noticed_s)
            say(
                f"  {each + 1} of {failovers}, noticed after {found.noticed_s:.2f} s: {found.lost} lost and told, "
                f"{found.forgotten} brought in from the ledger, {above} let through above the limits"
            )
    return (
        f"{failovers} fail-overs, noticed after {longest_s:.2f} s at most: {all_lost:,} lost and told, "
        f"{all_above:,} let through above the limits"
    )


def soak(cuts: int, flushes: int, failovers: int, seed: int) -> None:
    say(f"seed {seed}")
    began, found = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="quotagate-soak-") as name:
        folder = Path(name)
        with running(folder / "lost", deadline_ms=str(DOOR_DEADLINE_MS)) as system:
            found.append(cut_off(system, cuts, random.Random(seed)))
            found.append(empty(system, flushes))
        found.append(take_over(folder, failovers))
    say(f"= losses: {'; '.join(found)}; {time.monotonic() - began:.0f} s; seed {seed}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=65)
    parser.add_argument("--flushes", type=int, default=10)
    parser.add_argument("--failovers", type=int, default=10)
    parser.add_argument("--seed", type=int, default=None, help="of the points at which it is cut off")
    asked = parser.parse_args()
    number = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    soak(asked.cuts, asked.flushes, asked.failovers, number)

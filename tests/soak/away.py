"""Stops Postgres for minutes while two gateways serve as much as they can: `python -m tests.soak.away --minutes 10`.

Prints how the journal grows, how long callers wait before, meanwhile and after, and how fast the ledger catches up;
exits with an error when something is lost, refused, or takes longer because Postgres is away.
"""

import argparse
import secrets
import tempfile
from pathlib import Path

from tests.faults.conftest import assert_exactly_once
from tests.faults.postgres_away import SUBJECTS, Away, postgres_away
from tests.soak.faults import DOOR_DEADLINE_MS, p99, percentiles, running, say
from tests.system import Gateway

CLIENTS = 32
MOST_AROUND_S = 60.0
JOURNAL_ENTRIES = 50_000_000
"""More than comes in on a fast machine: what follows when the budget is reached is another test's."""
P99_FACTOR, SPARE_MS = 2.0, 5.0
"""By so much may the slowest hundredth wait longer: everything shares one machine, and noise is not what is tried."""


def soak(minutes: float, seed: int) -> None:
    say(f"seed {seed}")
    away_s = minutes * 60
    with (
        tempfile.TemporaryDirectory(prefix="quotagate-soak-") as folder,
        running(
            Path(folder) / "away", deadline_ms=str(DOOR_DEADLINE_MS), journal_entries=str(JOURNAL_ENTRIES)
        ) as system,
    ):
        second = Gateway(system, "second", deadline_ms=DOOR_DEADLINE_MS).start()
        say(f"Postgres is stopped for {away_s:g} s; {CLIENTS} clients ask for {SUBJECTS} subjects without a pause")
        try:
            seen = postgres_away(
                system,
                [system.urls["gateway"], second.url],
                f"away{seed}",
                away_s,
                min(away_s / 3, MOST_AROUND_S),
                lambda stood_s, entries: say(f"  stopped for {stood_s:.0f} s: {entries:,} entries wait"),
                clients=CLIENTS,
            )
            report(seen)
            assert_exactly_once(system, seen.log, "units", f"away{seed}-%")
        finally:
            second.stop()
    counts, took_s = seen.log.counts, seen.caught_up - seen.went_on
    assert counts[200] == len(seen.log.status), counts
    assert p99(seen.meanwhile) <= P99_FACTOR * p99(seen.before) + SPARE_MS
    say(
        f"= away: Postgres stopped for {away_s:g} s under {len(seen.meanwhile) / away_s:,.0f} requests a second: all "
        f"{counts[200]:,} served; p50 and p99 {told(seen.before)} before, {told(seen.meanwhile)} meanwhile, "
        f"{told(seen.after)} after; {seen.waited:,} entries waited, {seen.bytes_an_entry:.0f} bytes each, caught up "
        f"with in {took_s:.1f} s, {seen.drained / took_s:,.0f} a second under the same load; equal; seed {seed}"
    )


def told(took: list[float]) -> str:
    return f"{took[len(took) // 2]:.1f} and {p99(took):.1f} ms"


def report(seen: Away) -> None:
    for name, took in (
        ("before", seen.before),
        ("meanwhile", seen.meanwhile),
        ("catching up", seen.catching_up),
        ("after", seen.after),
    ):
        say(f"  {name}: {len(took):,} answers" + (f", {percentiles(took)}" if len(took) >= 100 else ""))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None, help="of the subjects' names, and so of their shards")
    asked = parser.parse_args()
    soak(asked.minutes, secrets.randbelow(2**31) if asked.seed is None else asked.seed)

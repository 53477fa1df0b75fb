"""Breaks Redis for longer than a test may take, and measures how long callers wait: `python -m tests.soak.faults`.

Prints what it does and what it found; exits with an error when something acknowledged is missing, or comes too late.
"""

import argparse
import random
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.faults.conftest import CATALOG, Door, assert_only_what_was_answered_counts, used
from tests.faults.killing import assert_nothing_acknowledged_is_missing, kill_redis_under_load
from tests.load import Log, Request, hammer
from tests.system import System, eventually

DEADLINE_MS = 50
DOOR_DEADLINE_MS = 200
"""Of the gateways whose replies are lost: a thousand clients share their processors, and none is to be found slow."""
HUNG_P99_MS = 70.0
REFUSED_P99_MS = 5.0
SERVED_WITHIN_MS = 1_000.0
OPEN_AFTER_S = 0.5
"""The breaker has been open for a while by then: eight trips have failed."""
STOPPED_S = 1.5
CLIENTS, PAUSE_S = 8, 0.02
"""A moderate load, about 400 requests a second: everything, the clients too, shares one machine's processors."""


def say(words: str) -> None:
    print(words, flush=True)


@contextmanager
def running(folder: Path, **settings: str) -> Iterator[System]:
    folder.mkdir()
    (folder / "catalog.toml").write_text(CATALOG)
    system = System(folder / "data", catalog=folder / "catalog.toml", **settings).start()
    try:
        yield system
    finally:
        system.stop()


def kill(system: System, times: int, name: str) -> str:
    """kill -9 of Redis under load, and the comparison afterwards."""
    log = kill_redis_under_load(
        system, times, name, lambda killed, so_far: say(f"  killed {killed} of {times}; {dict(so_far.counts)}")
    )
    assert_nothing_acknowledged_is_missing(system, log, name)
    found = f"{times} kills with {name}: {len(log.acknowledged()):,} acknowledged, 0 missing, 0 twice, drift 0"
    say(f"  {found}")
    return found


def took_ms(log: Log, status: int, since: float, until: float) -> list[float]:
    """How long the answers with a status took that were asked for in a stretch of time."""
    return [seconds * 1000 for found, began, seconds in log.answers if found == status and since <= began < until]


def p99(found: list[float]) -> float:
    assert len(found) >= 100, f"{len(found)} are too few"
    return sorted(found)[int(len(found) * 0.99)]


def percentiles(found: list[float]) -> str:
    return f"p50 {sorted(found)[len(found) // 2]:.2f} ms, p99 {p99(found):.2f} ms, most {max(found):.2f} ms"


def hang(system: System, stops: int, metric: str, away: int) -> str:
    """SIGSTOP of Redis under a moderate load: how long those wait who find out, and those who come after them. `away`
    is the status of their answers: 503 of a metric that is denied then, 200 of one that is let through."""
    before: list[float] = []
    found_out: list[float] = []
    refused: list[float] = []
    for stop in range(stops):
        log, stopped, went_on, served = _stopped_under_load(system, metric, f"hung-{stop}")
        before += took_ms(log, 200, stopped - STOPPED_S, stopped - 2 * DEADLINE_MS / 1000)
        found_out += took_ms(log, away, stopped - DEADLINE_MS / 1000, stopped + OPEN_AFTER_S)
        refused += took_ms(log, away, stopped + OPEN_AFTER_S, went_on - DEADLINE_MS / 1000)
        back_ms = (served - went_on) * 1000
        say(f"  stopped {stop + 1} of {stops}; served again {back_ms:.0f} ms after it went on")
        assert back_ms < SERVED_WITHIN_MS
    say(f"  before: {len(before)} served, {percentiles(before)}")
    say(f"  deadline {DEADLINE_MS} ms: {len(found_out)} until it was known, {percentiles(found_out)}")
    say(f"  breaker open: {len(refused)} answered {away} without a trip, {percentiles(refused)}")
    assert p99(found_out) <= HUNG_P99_MS
    # One that is let through is on a disk before it is answered.
    assert away == 200 or p99(refused) < REFUSED_P99_MS, "it was known, and callers had to wait"
    return f"{stops} stops answered {away}: p99 {p99(found_out):.1f} ms until known, {p99(refused):.1f} ms then"


def _stopped_under_load(system: System, metric: str, subject: str) -> tuple[Log, float, float, float]:
    """The answers, and when Redis was stopped, went on, and had served a request."""
    instants: list[float] = []

    def requests() -> Iterator[dict[str, Any]]:
        while len(instants) < 3:
            yield {"subject": subject, "metric": metric}

    def stop(log: Log) -> None:
        redis = system.server("redis")
        eventually(lambda: log.served >= 400, "requests are served")
        redis.suspend()
        instants.append(time.monotonic())
        eventually(lambda: time.monotonic() > instants[0] + STOPPED_S, "it was stopped for a while")
        redis.resume()
        instants.append(time.monotonic())
        served = log.served
        eventually(lambda: log.served > served, "requests are served again")
        instants.append(time.monotonic())

    log = hammer(
        [system.urls["gateway"]], system.admin_key, requests(), clients=CLIENTS, meanwhile=stop, pause_s=PAUSE_S
    )
    stopped, went_on, served = instants
    return log, stopped, went_on, served


def lose_replies(system: System, rounds: int, seed: int) -> str:
    """A proxy drops and delays replies: to requests without a key, and to copies of one with a key."""
    chances = random.Random(seed)
    door = Door.opened(system, "soaked", deadline_ms=DOOR_DEADLINE_MS)
    try:
        for each in range(rounds):
            subjects = [f"round-{each}-{place}" for place in range(20)]
            plain = [Request({"subject": chances.choice(subjects), "metric": "units"}) for _ in range(1_000)]
            copies = [Request({"subject": f"copied-{each}", "metric": "units"}, key=f"k-{each}")] * 1_000
            with door.broken(drop_chance=chances.uniform(0.05, 0.4), delay_chance=0.1, delay_s=0.25):
                log = hammer([door.url], system.admin_key, plain)
                copied = hammer([door.url], system.admin_key, copies, clients=1_000, until_answered=True)
            with system.client() as reader:
                assert_only_what_was_answered_counts(system, reader, log, subjects, within_s=120)
                assert (dict(copied.counts), used(reader, f"copied-{each}")) == ({200: 1_000}, 1)
            say(f"  round {each + 1} of {rounds}: {dict(log.counts)}, and 1,000 copies were charged once")
    finally:
        door.close()
    return f"{rounds} rounds of lost replies: each answer counts once"


def soak(kills: int, stops: int, rounds: int, seed: int) -> None:
    say(f"seed {seed}")
    began, found = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="quotagate-soak-") as folder:
        say(f"kill -9 of Redis with appendfsync always, {kills} times")
        with running(Path(folder) / "always", durability="always") as system:
            found.append(kill(system, kills, "always"))
        with running(Path(folder) / "everysec", deadline_ms=str(DEADLINE_MS)) as system:
            say(f"SIGSTOP of Redis, {stops} times, a metric that is denied then")
            found.append(hang(system, stops, "units", 503))
            say(f"SIGSTOP of Redis, {stops} times, a metric that is let through")
            found.append(hang(system, stops, "likes", 200))
            say(f"kill -9 of Redis with appendfsync everysec, {kills} times")
            found.append(kill(system, kills, "everysec"))
        with running(Path(folder) / "lossy", deadline_ms=str(DOOR_DEADLINE_MS)) as system:
            say(f"lost and late replies, {rounds} rounds")
            found.append(lose_replies(system, rounds, seed))
    say(f"= faults: {'; '.join(found)}; {time.monotonic() - began:.0f} s; seed {seed}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--stops", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=None, help="of the replies that are lost")
    asked = parser.parse_args()
    soak(asked.kills, asked.stops, asked.rounds, secrets.randbelow(2**31) if asked.seed is None else asked.seed)

"""Drives the scripts and the model side by side for as many steps as are asked for: `python -m tests.soak.model`.

Prints how far it is, and the seed of each stretch; `--seed` begins with that one again.
"""

import argparse
import secrets
import tempfile
import time
from collections import Counter
from pathlib import Path

import redis
from hypothesis import seed, settings
from hypothesis.stateful import get_state_machine_test

from quotagate.data_folder import remembered_port
from quotagate.embedded import valkey_part, valkey_url
from quotagate.supervisor import Supervisor
from tests.integration.test_model import Scripts, calm

RUNS_A_STRETCH = 200
"""A stretch is what one seed says again: a minute or less."""


def stretch(connection: "redis.Redis", number: int) -> "Counter[str]":
    """The steps and the outcomes of one stretch; raises when script and model differ."""
    seen: Counter[str] = Counter()
    machine = type("Scripts", (Scripts,), {"connection": connection, "seen": seen})
    chances = settings(calm, max_examples=RUNS_A_STRETCH, derandomize=False, database=None, print_blob=False)
    seed(number)(get_state_machine_test(machine, settings=chances))()
    return seen


def soak(steps: int, first_seed: int) -> None:
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="quotagate-soak-") as folder, Supervisor() as supervisor:
        data = Path(folder)
        port = remembered_port(data, "valkey")
        supervisor.start(valkey_part(data / "valkey", port, data / "valkey.log", password="soak"))
        connection = redis.Redis.from_url(valkey_url(port, "soak"))
        supervisor.wait_until("valkey", connection.ping, 30)
        connection.config_set("appendonly", "no")  # the disk is not what is tried here
        began, number = time.monotonic(), first_seed
        while seen["steps"] < steps:
            print(f"seed {number}", end=": ", flush=True)
            seen += stretch(connection, number)
            took_s = time.monotonic() - began
            print(f"{seen['steps']:,} of {steps:,} steps, {seen['steps'] / took_s:,.0f} a second", flush=True)
            number += 1
    for name, count in sorted(seen.items()):
        print(f"{count:>12,} {name}")
    print(f"= model: {seen['steps']:,} steps without a difference, seeds {first_seed} to {number - 1}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=None)
    asked = parser.parse_args()
    soak(asked.steps, secrets.randbelow(2**31) if asked.seed is None else asked.seed)

"""Lets schemathesis ask a system of its own for as long as is wanted: `python -m tests.soak.openapi --minutes 10`.

Prints its report, in which the seed is; `--seed` asks the same again. Exits with 1 when something was found.
"""

import argparse
import re
import secrets
import sys
import tempfile
from pathlib import Path

from tests.schema_run import schemathesis_run
from tests.system import ROOT, System

SPARE_S = 300
"""What the phases that do not look at the clock may take."""


def soak(minutes: float, seed: int) -> int:
    print(f"seed {seed}: asking for {minutes:g} minutes; the report comes at the end", flush=True)
    with tempfile.TemporaryDirectory(prefix="quotagate-soak-") as name:
        folder = Path(name)
        system = System(folder / "system", catalog=ROOT / "examples" / "credits.toml").start()
        try:
            other = system.make_key("other")
            words = ("--max-time", str(round(minutes * 60)), "--seed", str(seed))
            run = schemathesis_run(system, folder, system.admin_key, other, *words, deadline_s=minutes * 60 + SPARE_S)
        finally:
            system.stop()
    print(run.stdout, run.stderr, sep="\n")
    cases = re.search(r"([\d,]+) generated", run.stdout)
    found = "nothing found" if run.returncode == 0 else "something was found: see above"
    print(f"= openapi: {minutes:g} minutes, {cases[1] if cases else '?'} made-up requests, {found}; seed {seed}")
    return run.returncode


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=None)
    asked = parser.parse_args()
    sys.exit(soak(asked.minutes, secrets.randbelow(2**31) if asked.seed is None else asked.seed))

"""One run of schemathesis, all phases and all checks, against a system that runs."""

import os
import subprocess
import sys
from pathlib import Path

from tests.system import ROOT, System

CONFIGURATION = ROOT / "tests" / "acceptance" / "schemathesis.toml"


def schemathesis_run(
    system: System, folder: Path, key: str, catalog_key: str, *words: str, deadline_s: float
) -> "subprocess.CompletedProcess[str]":
    """Its report is `stdout`; the exit status is 0 when it found nothing. `folder` is where it may leave things.

    `key` is a tenant's with the catalog examples/credits.toml, `catalog_key` another's, whose catalog may be replaced.
    """
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run"]
    command += [f"{system.urls['gateway']}/schema/openapi.json", "--checks", "all", *words]
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "KEY": key, "CATALOG_KEY": catalog_key},
        capture_output=True,
        text=True,
        check=False,
        timeout=deadline_s,
    )

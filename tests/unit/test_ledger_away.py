"""Why Postgres is away is told at a shell: host, port, database and cause, and never the password."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from quotagate.cli import main
from tests.unit.test_command_line import NOWHERE

AWAY = {**NOWHERE, "QUOTAGATE_DATABASE_URL": "postgresql://somebody:unspeakable@127.0.0.1:1/gone"}


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ("doctor", 1, "the ledger at 127.0.0.1:1/gone cannot be reached: "),
        ("key list", 2, "the ledger cannot be reached; nothing was changed: "),
    ],
)
def test_the_cause_is_told_and_the_password_is_not(tmp_path: Path, words: str, status: int, told: str) -> None:
    done = CliRunner().invoke(main, [*words.split(), "--data", str(tmp_path)], env=AWAY)
    assert done.exit_code == status
    (line,) = [each for each in done.output.splitlines() if "ledger" in each]
    assert told in line and 'connection to server at "127.0.0.1", port 1 failed: Connection refused' in line
    assert "unspeakable" not in done.output

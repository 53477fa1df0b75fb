"""An output that takes ASCII alone, or that nobody reads any more, is neither a stack trace nor something found."""

import io
import os
import subprocess
import sys

import pytest

from quotagate.catalog_printing import print_effects
from quotagate.plain_commands import EXIT_FOUND, EXIT_NOBODY_READS, plainly
from quotagate.plain_console import PlainConsole
from tests.system import ROOT


class Gone(io.StringIO):
    """A pipe whose reader has gone."""

    def flush(self) -> None:
        raise BrokenPipeError


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_signs_that_an_encoding_has_not_are_told_in_ascii(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", out)

    @plainly
    def command() -> None:
        print("✗ 35 → 30")
        PlainConsole().print("✓ \N{SNOWMAN}")
        print_effects([])

    command()
    assert out.buffer.getvalue().decode() == "x 35 -> 30\nok: \\u2603\n"


def test_what_nobody_reads_ends_as_a_shell_has_it_whatever_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", Gone())

    @plainly
    def command() -> None:
        print("found")
        sys.exit(EXIT_FOUND)

    @plainly
    def with_rich() -> None:
        PlainConsole().print("found")

    for each in (command, with_rich):
        with pytest.raises(SystemExit) as ended:
            each()
        assert ended.value.code == EXIT_NOBODY_READS


def test_a_pipe_that_is_closed_is_not_told_again_at_the_end() -> None:
    reads, writes = os.pipe()
    os.close(reads)
    words = [sys.executable, "-m", "quotagate", "completion", "bash"]
    done = subprocess.run(words, stdout=writes, stderr=subprocess.PIPE, cwd=ROOT, check=False, timeout=60)
    os.close(writes)
    assert (done.returncode, done.stderr) == (EXIT_NOBODY_READS, b"")

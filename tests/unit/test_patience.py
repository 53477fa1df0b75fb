"""The line on a terminal while something takes longer than a moment."""

import io
import sys
import threading

import pytest

from quotagate import patience
from quotagate.patience import saying_what_takes_long
from tests.system import eventually


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def terminal_of_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_what_takes_long_is_said_on_a_terminal_and_taken_away_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "A_MOMENT_S", 0.01)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with saying_what_takes_long("opening the stores"):
        eventually(lambda: "opening the stores" in terminal.getvalue(), "it is said")
    assert terminal.getvalue().endswith("\x1b[2K"), "the line is empty again"


def test_what_is_done_within_a_moment_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with saying_what_takes_long("opening the stores"):
        pass
    assert "opening" not in terminal.getvalue()


def test_a_script_sees_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "A_MOMENT_S", 0)
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    threads = threading.active_count()
    with saying_what_takes_long("opening the stores"):
        assert threading.active_count() == threads, "nothing waits to be said"
    assert log.getvalue() == ""

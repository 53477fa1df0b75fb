"""Runs the parts of Quotagate on one machine: starts and watches them, starts again what died, stops all in order."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Collection
from pathlib import Path
from types import FrameType
from typing import Self, TypeVar

from quotagate.child_process import (
    NEEDS_WATCHER,
    Part,
    PartError,
    end_processes,
    how_it_ended,
    log_hint,
    start_process,
    wait_for_lock,
)

__all__ = ["Part", "PartError", "Supervisor", "restart_delay_s", "wait_until"]

RESTART_FIRST_S = 0.1  # a crash is mended at once ...
RESTART_LONGEST_S = 2.0  # ... and a part that cannot start costs next to nothing, yet is soon back when it can
LIVED_WELL_S = 5.0  # a part that lived this long had started well; its next crash is a new one
POLL_INTERVAL_S = 0.02  # short beside the 50 ms that the fastest server takes to start
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
T = TypeVar("T")


def restart_delay_s(previous_delay_s: float, lived_s: float) -> float:
    """How long to wait before a part that died is started again; `previous_delay_s` is 0 at its first death."""
    if lived_s >= LIVED_WELL_S or previous_delay_s == 0:
        return RESTART_FIRST_S
    return min(previous_delay_s * 2, RESTART_LONGEST_S)


class _Child:
    """A part, and either the process that runs it or the moment at which it is to be started again."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.process: subprocess.Popen[bytes] | None = None
        self.started_at = 0.0
        self.delay_s = 0.0
        self.start_at: float | None = None

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Runs parts; as a context manager it stops them when the block is left, however that happens.

    It belongs to the main thread: signals arrive there, and the kernel counts the end of the thread that started a
    child as the death of its parent. `tell` gets a sentence whenever a part died or runs again. `uses_watcher` puts a
    watching process between us and each part, for systems whose kernel does not help; `pid` is then the watcher's.
    """

    def __init__(self, *, tell: Callable[[str], None] | None = None, uses_watcher: bool = NEEDS_WATCHER) -> None:
        self._children: dict[str, _Child] = {}
        self._tell = tell or _tell_on_stderr
        self._uses_watcher = uses_watcher

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, part: Part) -> None:
        """Start a part. OSError: it cannot be run. PartError: a former process of it does not go away."""
        assert part.name not in self._children, f"{part.name} has been started already"
        if part.lock is not None:
            wait_for_lock(part.lock)
        child = _Child(part)
        self._spawn(child)
        self._children[part.name] = child

    def alive(self, name: str) -> bool:
        return name in self._children and self._children[name].alive()

    def pid(self, name: str) -> int | None:
        """The part's process id; None while it is not running."""
        process = self._children[name].process
        return process.pid if process is not None and process.poll() is None else None

    def wait_until(self, name: str, check: Callable[[], T], deadline_s: float) -> T:
        """`wait_until` for one of these parts; before `watch`, while one that died stays dead."""
        return wait_until(check, lambda: self.alive(name), name, deadline_s, log=self._children[name].part.log)

    def watch(self) -> str | None:
        """Keep the parts running until SIGTERM, SIGINT or SIGHUP asks to stop, and return None; `stop` is yours.

        When a part that must not be started again died: a sentence that names it, for people.
        """
        with _Signals((*STOP_SIGNALS, signal.SIGCHLD)) as signals:
            while not signals.arrived.intersection(STOP_SIGNALS):
                for child in self._children.values():
                    failure = self._attend(child)
                    if failure is not None:
                        return failure
                due = [child.start_at for child in self._children.values() if child.start_at is not None]
                signals.wait(max(0.0, min(due) - time.monotonic()) if due else None)
        return None

    def stop(self, *, together: bool = False) -> None:
        """End every part, the last started first, each with SIGKILL when it takes longer than its `stop_after_s`.

        `together` asks all of them at once: for equals, of which none needs another. A second Ctrl-C meanwhile has no
        effect, because the time is bounded and a half-stopped system helps nobody.
        """
        running = [(child.part, child.process) for child in reversed(self._children.values()) if child.process]
        self._children.clear()  # also of those that wait to be started again
        with _Signals(STOP_SIGNALS):
            for batch in [running] if together else [[one] for one in running]:
                end_processes(batch)

    def _attend(self, child: _Child) -> str | None:
        """See to one child; a sentence when it died and must not be started again."""
        now = time.monotonic()
        if child.process is not None and child.process.poll() is not None:
            died = f"{child.part.name} {how_it_ended(child.process.returncode)}"
            child.process = None
            if not child.part.restart:
                return died + log_hint(child.part.log)
            self._start_later(child, died, now)
        elif child.start_at is not None and child.start_at <= now:
            child.start_at = None
            try:
                self._spawn(child)
            except (OSError, subprocess.SubprocessError, PartError) as error:
                self._start_later(child, f"{child.part.name} could not be started: {error}", now)
            else:
                self._tell(f"{child.part.name} runs again")
        return None

    def _start_later(self, child: _Child, why: str, now: float) -> None:
        child.delay_s = restart_delay_s(child.delay_s, now - child.started_at)
        child.start_at = now + child.delay_s
        self._tell(f"{why}; starting it again in {child.delay_s:g} s")

    def _spawn(self, child: _Child) -> None:
        child.started_at = time.monotonic()
        child.process = start_process(child.part, uses_watcher=self._uses_watcher)


def wait_until(
    check: Callable[[], T], part_is_alive: Callable[[], bool], what: str, deadline_s: float, *, log: Path | None = None
) -> T:
    """Call `check` until it does not raise, and give what it gives. PartError: the part died, or the time is over."""
    end = time.monotonic() + deadline_s
    while True:
        alive = part_is_alive()  # asked before `check`, so that an answer given just before the death counts
        try:
            return check()
        except Exception as error:  # whatever a client raises while its server is not there yet
            if not alive:
                raise PartError(f"{what} ended before it was ready{log_hint(log)}") from error
            if time.monotonic() > end:
                raise PartError(f"{what} was not ready after {deadline_s:g} s: {error}{log_hint(log)}") from error
        time.sleep(POLL_INTERVAL_S)


class _Signals:
    """While entered, collects the wanted signals in `arrived` in place of their usual effect.

    What was ignored on purpose, as by nohup, stays ignored. `wait` reads the wake-up descriptor, to which the
    interpreter writes at the signal itself: nothing gets lost between looking and waiting.
    """

    def __init__(self, wanted: Collection[signal.Signals]) -> None:
        self.arrived: set[int] = set()
        self._wanted = [number for number in wanted if signal.getsignal(number) != signal.SIG_IGN]

    def __enter__(self) -> Self:
        self._reader, self._writer = socket.socketpair()
        self._writer.setblocking(False)
        self._former_wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        self._former_handlers = {number: signal.signal(number, self._note) for number in self._wanted}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._former_handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._former_wakeup)
        self._reader.close()
        self._writer.close()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.arrived.add(number)

    def wait(self, timeout_s: float | None) -> None:
        """Return once any signal has arrived since the last wait, or the time is over."""
        self._reader.settimeout(timeout_s)
        with contextlib.suppress(TimeoutError, BlockingIOError):
            self._reader.recv(4096)


def _tell_on_stderr(sentence: str) -> None:
    with contextlib.suppress(OSError):  # nobody reads it any more: no reason to let the parts down
        os.write(2, f"{sentence}\n".encode())  # one write, so that lines of several processes do not mix

"""One part of Quotagate as a child process, which never outlives its parent, not even one that is killed with SIGKILL.

On Linux the kernel tells the child (PR_SET_PDEATHSIG). Elsewhere this file, run as a script, stands between the two and
looks at its parent; it imports the standard library alone, so that it starts fast and runs under any environment.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NEEDS_WATCHER = not sys.platform.startswith("linux")
LOCK_WAIT_S = 30.0  # the last checkpoint of a busy Postgres takes seconds
LOCK_POLL_INTERVAL_S = 0.02  # a server's last steps take about that long
PARENT_POLL_INTERVAL_S = 0.1  # only where the kernel does not tell of a parent's death
LOG_TAIL_LINES = 8  # Postgres says why it will not start in two or three
LOG_TAIL_BYTES = 4096
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


class PartError(RuntimeError):
    """A part ended, or was not ready in time; the message names it, and shows the end of its log."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """A child process, as data.

    `env` is its whole environment. `log` None shares our output. With `user` and `group` it runs as those, and in no
    other group. `lock` is a file on which the part's own processes hold a flock while any of them lives: a server that
    is still shutting down, its parent long dead, is never joined by a second one on the same data.
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    log: Path | None = None
    cwd: Path | None = None
    user: int | None = None
    group: int | None = None
    pass_fds: tuple[int, ...] = ()
    lock: Path | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_after_s: float = 10.0  # from the stop signal to SIGKILL
    restart: bool = True


def start_process(part: Part, *, uses_watcher: bool = NEEDS_WATCHER) -> subprocess.Popen[bytes]:
    """OSError or SubprocessError: it cannot be run. PartError: a former process of it still holds its lock."""
    # The kernel counts the end of the thread that forked as the death of the parent.
    assert threading.current_thread() is threading.main_thread(), "parts are started from the main thread alone"
    with contextlib.ExitStack() as opened:
        pass_fds = part.pass_fds
        output = None
        if part.log is not None:
            output = os.open(part.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            opened.callback(os.close, output)
        if part.lock is not None:
            try:
                lock = take_lock(part.lock)
            except BlockingIOError as error:
                raise PartError(f"a former process of {part.name} still holds {part.lock}") from error
            opened.callback(os.close, lock)  # ours; the lock lives on in the child's copy
            pass_fds = (*pass_fds, lock)
        user = None if uses_watcher else part.user  # the watcher itself changes the user, later
        return subprocess.Popen(  # noqa: S603 - what is run comes from our own code
            _watcher_argv(part) if uses_watcher else list(part.argv),
            env=dict(part.env),
            cwd=part.cwd,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=None if output is None else subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
            user=user,
            group=None if uses_watcher else part.group,
            extra_groups=None if user is None else [],
            preexec_fn=None if uses_watcher else _dying_with_parent(part.stop_signal),  # noqa: PLW1509 - takes no lock
        )


def end_processes(running: Sequence[tuple[Part, subprocess.Popen[bytes]]]) -> None:
    """Ask all of them to stop, wait for each as long as its part allows, then kill."""
    for part, process in running:
        process.send_signal(part.stop_signal)
    asked_at = time.monotonic()
    for part, process in running:
        try:
            process.wait(max(0.0, asked_at + part.stop_after_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            # It leads a process group of its own, in which the part of a watcher is as well.
            with contextlib.suppress(ProcessLookupError, PermissionError):  # it ended this very instant
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def take_lock(path: Path) -> int:
    """A new file descriptor, closed on exec, with the exclusive lock on `path`. BlockingIOError: someone holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def wait_for_lock(path: Path, deadline_s: float = LOCK_WAIT_S) -> None:
    """Wait until nobody holds the lock on `path`. PartError: the time is over."""
    end = time.monotonic() + deadline_s
    while True:
        try:
            os.close(take_lock(path))
        except BlockingIOError as error:
            if time.monotonic() > end:
                raise PartError(f"a process of an earlier run still holds {path} after {deadline_s:g} s") from error
            time.sleep(LOCK_POLL_INTERVAL_S)
        else:
            return


def how_it_ended(status: int) -> str:
    """In words; `status` as in Popen.returncode."""
    return f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"


def log_hint(log: Path | None) -> str:
    """To be put behind a sentence: which log to read, and how it ends."""
    if log is None or not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        lines = file.read(LOG_TAIL_BYTES).decode(errors="replace").splitlines()
    return f"; its log is {log}" + "".join(f"\n  | {line}" for line in lines[-LOG_TAIL_LINES:])


def _dying_with_parent(stop_signal: signal.Signals) -> Callable[[], None]:
    libc = ctypes.CDLL(None, use_errno=True)  # loaded before the fork, so that the child only has to call it
    parent = os.getpid()

    def in_the_child() -> None:
        # Popen runs this after it has changed the user, which is when the kernel forgets the signal.
        signal.signal(stop_signal, signal.SIG_DFL)  # `nohup` and `&` hand down ignored signals
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        if libc.prctl(PR_SET_PDEATHSIG, int(stop_signal), 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(1)  # the parent died between fork and prctl

    return in_the_child


def _watcher_argv(part: Part) -> list[str]:
    options = {
        "--watch-parent": os.getpid(),
        "--stop-signal": int(part.stop_signal),
        "--stop-after": part.stop_after_s,
        "--user": part.user,
        "--group": part.group,
    }
    given = [word for option, value in options.items() if value is not None for word in (option, str(value))]
    # -P: neither the folder of this file nor the part's own may stand in for a module of the standard library.
    return [sys.executable, "-P", str(Path(__file__).resolve()), *given, "--", *part.argv]


def _run_and_watch_parent(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Run a command that ends when our parent does.")
    parser.add_argument("--watch-parent", type=int, required=True, metavar="PID")
    parser.add_argument("--stop-signal", type=int, required=True)
    parser.add_argument("--stop-after", type=float, required=True, metavar="SECONDS")
    parser.add_argument("--user", type=int)
    parser.add_argument("--group", type=int)
    parser.add_argument("argv", nargs="+")
    options = parser.parse_args(arguments)
    asked: list[int] = []  # signals to hand on; noted from before the start, so that none finds us unprepared
    for number in {options.stop_signal, signal.SIGTERM, signal.SIGINT}:
        signal.signal(number, lambda number, _frame: asked.append(number))
    process = subprocess.Popen(  # noqa: S603 - what is run comes from our own code
        options.argv,
        close_fds=False,  # ours were chosen by `pass_fds`
        user=options.user,
        group=options.group,
        extra_groups=None if options.user is None else [],
    )
    kill_at: float | None = None
    while True:
        try:
            status = process.wait(PARENT_POLL_INTERVAL_S)
        except subprocess.TimeoutExpired:
            if os.getppid() != options.watch_parent and kill_at is None:
                asked.append(options.stop_signal)
                kill_at = time.monotonic() + options.stop_after
            if kill_at is not None and time.monotonic() > kill_at:
                asked.append(signal.SIGKILL)
            while asked:
                process.send_signal(asked.pop(0))
        else:
            return status if status >= 0 else 128 - status


if __name__ == "__main__":
    sys.exit(_run_and_watch_parent(sys.argv[1:]))

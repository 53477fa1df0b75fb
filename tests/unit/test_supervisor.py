"""The supervisor with small shell scripts as parts."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import psutil
import pytest

from quotagate.child_process import take_lock
from quotagate.supervisor import Part, PartError, Supervisor, restart_delay_s, wait_until

DEADLINE_S = 10.0
both_ways = pytest.mark.parametrize("uses_watcher", [False, True], ids=["kernel", "watcher"])


@pytest.fixture(autouse=True)
def no_test_hangs() -> Iterator[None]:
    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"not done within {2 * DEADLINE_S} s")

    former = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 2 * DEADLINE_S)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, former)


def shell(name: str, script: str, folder: Path, **fields: object) -> Part:
    argv = ["/bin/sh", "-c", script]
    return Part(name=name, argv=argv, env={"PATH": os.defpath}, cwd=folder, **fields)  # type: ignore[arg-type]


def eventually(condition: Callable[[], bool], what: str) -> None:
    def check() -> None:
        assert condition()

    wait_until(check, lambda: True, what, DEADLINE_S)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # ended; whoever inherited it has not looked yet
    except psutil.NoSuchProcess:
        return True


def test_the_delay_before_a_restart_doubles_up_to_two_seconds() -> None:
    delays, delay_s = [], 0.0
    for _ in range(8):
        delay_s = restart_delay_s(delay_s, lived_s=0.01)
        delays.append(delay_s)
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0, 2.0]


def test_the_delay_begins_anew_after_a_part_has_lived_five_seconds() -> None:
    assert restart_delay_s(2.0, lived_s=5.0) == 0.1
    assert restart_delay_s(2.0, lived_s=4.9) == 2.0


@both_ways
def test_a_part_that_dies_is_started_again_after_growing_delays(tmp_path: Path, uses_watcher: bool) -> None:
    told: list[str] = []

    def tell(sentence: str) -> None:
        told.append(sentence)
        if sentence.endswith("in 0.4 s"):
            signal.raise_signal(signal.SIGTERM)

    with Supervisor(tell=tell, uses_watcher=uses_watcher) as supervisor:
        supervisor.start(shell("crasher", "echo run >> runs; exit 3", tmp_path))
        assert supervisor.watch() is None
        assert (tmp_path / "runs").read_text() == "run\n" * 3
    died = "crasher ended with status 3; starting it again in"
    assert told == [f"{died} 0.1 s", "crasher runs again", f"{died} 0.2 s", "crasher runs again", f"{died} 0.4 s"]


def test_a_part_that_is_killed_is_noticed_at_once(tmp_path: Path) -> None:
    told_at: list[float] = []

    def tell(sentence: str) -> None:
        told_at.append(time.monotonic())
        signal.raise_signal(signal.SIGTERM)

    with Supervisor(tell=tell) as supervisor:
        supervisor.start(shell("server", "exec sleep 60", tmp_path))
        pid = supervisor.pid("server")
        assert pid is not None
        killer = threading.Timer(0.3, os.kill, (pid, signal.SIGKILL))
        killer.start()
        supervisor.watch()
        killer.join()
        assert len(told_at) == 1
        assert not supervisor.alive("server")
        assert supervisor.pid("server") is None


def test_a_part_that_cannot_be_started_again_is_tried_until_it_can(tmp_path: Path) -> None:
    program, elsewhere = tmp_path / "program", tmp_path / "elsewhere"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    told: list[str] = []

    def tell(sentence: str) -> None:
        told.append(sentence)
        if len(told) == 1:
            program.rename(elsewhere)
        elif len(told) == 2:
            elsewhere.rename(program)
        elif sentence == "program runs again":
            signal.raise_signal(signal.SIGTERM)

    with Supervisor(tell=tell, uses_watcher=False) as supervisor:
        supervisor.start(Part(name="program", argv=[str(program)], env={}))
        assert supervisor.watch() is None
    assert "could not be started" in told[1]
    assert told[1].endswith("in 0.2 s")
    assert told[2] == "program runs again"


def test_a_part_that_must_not_die_ends_the_watch_with_its_name_and_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "once.log"
    with Supervisor() as supervisor:
        supervisor.start(shell("steady", "exec sleep 60", tmp_path))
        supervisor.start(shell("once", "echo no disk; exit 7", tmp_path, log=log, restart=False))
        failure = supervisor.watch()
    assert failure == f"once ended with status 7; its log is {log}\n  | no disk"


@both_ways
def test_stop_ends_the_last_started_part_first(tmp_path: Path, uses_watcher: bool) -> None:
    script = "trap 'echo {0} >> ended; exit' TERM; touch {0}; while :; do sleep 0.01; done"
    with Supervisor(uses_watcher=uses_watcher) as supervisor:
        for name in ("first", "second", "third"):
            supervisor.start(shell(name, script.format(name), tmp_path))
            eventually((tmp_path / name).exists, f"{name} to set its trap")
    assert (tmp_path / "ended").read_text().split() == ["third", "second", "first"]


def test_stop_can_ask_equals_all_at_once(tmp_path: Path) -> None:
    # Each ends only when both have been asked.
    script = (
        "trap 'touch asked-{0}; until [ -e asked-{1} ]; do sleep 0.01; done; echo {0} >> ended; exit' TERM;"
        "touch {0}; while :; do sleep 0.01; done"
    )
    supervisor = Supervisor()
    for name, other in (("one", "two"), ("two", "one")):
        supervisor.start(shell(name, script.format(name, other), tmp_path))
        eventually((tmp_path / name).exists, f"{name} to set its trap")
    supervisor.stop(together=True)
    assert sorted((tmp_path / "ended").read_text().split()) == ["one", "two"]


@both_ways
def test_stop_kills_a_stubborn_part_at_its_deadline(tmp_path: Path, uses_watcher: bool) -> None:
    script = "trap '' TERM; echo $$ > pid.new; mv pid.new pid; exec sleep 60"
    with Supervisor(uses_watcher=uses_watcher) as supervisor:
        supervisor.start(shell("stubborn", script, tmp_path, stop_after_s=0.3))
        eventually((tmp_path / "pid").exists, "the stubborn part to begin")
        pid = int((tmp_path / "pid").read_text())
        asked_at = time.monotonic()
    assert 0.3 <= time.monotonic() - asked_at < DEADLINE_S
    eventually(lambda: is_gone(pid), "the stubborn part to go")


def test_stop_forgets_a_part_that_waits_for_its_restart(tmp_path: Path) -> None:
    supervisor = Supervisor(tell=lambda _: signal.raise_signal(signal.SIGTERM))
    supervisor.start(shell("crasher", "echo run >> runs", tmp_path))
    assert supervisor.watch() is None
    supervisor.stop()
    supervisor.stop()  # a second time is harmless
    assert not supervisor.alive("crasher")
    assert (tmp_path / "runs").read_text() == "run\n"


def test_handlers_of_signals_are_as_before_after_watch_and_stop(tmp_path: Path) -> None:
    wanted = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
    before = [signal.getsignal(number) for number in wanted]
    with Supervisor(tell=lambda _: signal.raise_signal(signal.SIGINT)) as supervisor:
        supervisor.start(shell("crasher", "exit 1", tmp_path))
        supervisor.watch()
    assert [signal.getsignal(number) for number in wanted] == before


@both_ways
def test_a_part_hears_its_stop_signal_even_if_we_were_told_to_ignore_it(tmp_path: Path, uses_watcher: bool) -> None:
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)  # what `quotagate up &` in a script means for its children
    try:
        supervisor = Supervisor(uses_watcher=uses_watcher)
        script = "touch begun; exec sleep 60"
        supervisor.start(shell("server", script, tmp_path, stop_signal=signal.SIGINT, stop_after_s=DEADLINE_S))
        eventually((tmp_path / "begun").exists, "the server to begin")
        asked_at = time.monotonic()
        supervisor.stop()
        assert time.monotonic() - asked_at < DEADLINE_S / 2
    finally:
        signal.signal(signal.SIGINT, former)


# A supervisor whose part is a supervisor again, as `quotagate up` and `quotagate gateway --processes N` are.
FAMILY = """
import os, sys
from pathlib import Path
from quotagate.supervisor import Part, Supervisor
role, folder, uses_watcher = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "True"
environment = {"PATH": os.defpath, "PYTHONPATH": os.environ["PYTHONPATH"]}
with Supervisor(uses_watcher=uses_watcher) as supervisor:
    leaf = "echo $$ > {0}.new; mv {0}.new {0}; exec sleep 60".format(role + "-leaf")
    supervisor.start(Part(name="leaf", argv=["/bin/sh", "-c", leaf], env=environment, cwd=folder))
    if role == "outer":
        argv = [sys.executable, __file__, "inner", *sys.argv[2:]]
        supervisor.start(Part(name="inner", argv=argv, env=environment, lock=folder / "inner.lock"))
    (folder / (role + ".new")).write_text(str(os.getpid()))
    (folder / (role + ".new")).rename(folder / role)
    sys.exit(supervisor.watch())
"""
ROLES = ("outer", "outer-leaf", "inner", "inner-leaf")


@both_ways
@pytest.mark.parametrize("ending", [signal.SIGKILL, signal.SIGTERM])
def test_no_descendant_outlives_a_supervisor(tmp_path: Path, uses_watcher: bool, ending: signal.Signals) -> None:
    script = tmp_path / "family.py"
    script.write_text(FAMILY)
    argv = [sys.executable, str(script), "outer", str(tmp_path), str(uses_watcher)]
    with subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}) as outer:
        try:
            for role in ROLES:
                eventually((tmp_path / role).exists, f"{role} to begin")
            pids = [int((tmp_path / role).read_text()) for role in ROLES]
            with pytest.raises(BlockingIOError):
                take_lock(tmp_path / "inner.lock")
        finally:
            outer.send_signal(ending)
    for role, pid in zip(ROLES, pids, strict=True):
        eventually(lambda pid=pid: is_gone(pid), f"{role} to go")  # type: ignore[misc]
    assert outer.returncode == (0 if ending == signal.SIGTERM else -signal.SIGKILL)
    eventually(lambda: os.close(take_lock(tmp_path / "inner.lock")) is None, "the lock to be free")


def test_the_lock_of_a_part_is_held_by_the_part_and_not_by_us(tmp_path: Path) -> None:
    lock = tmp_path / "server.lock"
    with Supervisor(uses_watcher=False) as supervisor:
        supervisor.start(shell("server", "exec sleep 60", tmp_path, lock=lock))
        with pytest.raises(BlockingIOError):
            take_lock(lock)
        pid = supervisor.pid("server")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: os.close(take_lock(lock)) is None, "the lock to be free")


def test_parts_are_started_from_the_main_thread_alone(tmp_path: Path) -> None:
    caught: list[BaseException] = []

    def start() -> None:
        try:
            Supervisor().start(shell("server", "exec sleep 60", tmp_path))
        except AssertionError as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


def test_wait_until_gives_what_the_check_gives_once_it_succeeds(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        supervisor.start(shell("writer", "echo 42 > answer.new; mv answer.new answer; exec sleep 60", tmp_path))
        assert supervisor.wait_until("writer", (tmp_path / "answer").read_text, DEADLINE_S) == "42\n"


def test_wait_until_names_the_log_and_its_last_lines_when_the_part_died(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    with Supervisor() as supervisor:
        supervisor.start(shell("server", "seq 1 100; echo port taken >&2; exit 1", tmp_path, log=log))
        with pytest.raises(PartError) as caught:
            supervisor.wait_until("server", (tmp_path / "never").read_text, DEADLINE_S)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"server ended before it was ready; its log is {log}"
    assert lines[1:] == [f"  | {n}" for n in range(94, 101)] + ["  | port taken"]
    assert log.stat().st_mode & 0o077 == 0


def test_wait_until_gives_up_at_its_deadline() -> None:
    def check() -> None:
        raise ConnectionRefusedError("nobody listens")

    with pytest.raises(PartError, match=r"valkey was not ready after 0.1 s: nobody listens"):
        wait_until(check, lambda: True, "valkey", 0.1)

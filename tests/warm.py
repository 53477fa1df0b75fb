"""`quotagate` without its start: one process has imported everything, and forks for each command.

The tests run hundreds of commands, and each would take a second of a processor to import what it needs.
"""

import atexit
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
STARTED_WITHIN_S = 60.0
ENDS_WITHIN_S = 120.0
MODULES = (
    *("quotagate.auditing", "quotagate.catalog_printing", "quotagate.catalog_running", "quotagate.doctor"),
    *("quotagate.incidents", "quotagate.key_running", "quotagate.ledger_explaining", "quotagate.ledger_export"),
    *("quotagate.ledger_running", "quotagate.operator", "quotagate.rebuilding", "quotagate.subject_amending"),
    *("quotagate.subject_running", "gateway.app", "workers.context"),
)
MAX_REQUEST_BYTES = 1 << 16
CLIENT = """
import json, os, socket, sys
server = socket.socket(socket.AF_UNIX)
server.connect({path!r})
said = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
socket.send_fds(server, [len(said).to_bytes(4, "big")], [0, 1, 2])
server.sendall(said)
sys.exit(server.recv(1)[0])
"""


def _run(words: list[str], folder: str, environment: dict[str, str]) -> int:
    from quotagate.cli import main

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["quotagate", *words]
    try:
        main(prog_name="quotagate")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


def _serve(connection: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, files, _, _ = socket.recv_fds(connection, 4, 3)
    left, said = int.from_bytes(head, "big"), b""
    assert left <= MAX_REQUEST_BYTES
    while len(said) < left:
        said += connection.recv(left - len(said))
    for place, file in enumerate(files):
        os.dup2(file, place)
    status = 1
    try:
        status = _run(*json.loads(said))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        connection.sendall(bytes([status]))
        os._exit(0)


def main(path: str) -> None:
    """Serves until whoever started it is gone."""
    for name in MODULES:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{path}.new")
    server.listen()
    Path(f"{path}.new").rename(path)  # there is nothing at the path before somebody listens
    while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
        connection, _ = server.accept()
        with connection:
            if os.fork() == 0:
                _serve(connection)


@cache
def warmed() -> Path:
    """The address of the one that this process's commands are forked from; started when it is asked for first."""
    path = Path(tempfile.mkdtemp(prefix="quotagate-warm-")) / "quotagate"
    process = subprocess.Popen([sys.executable, "-m", "tests.warm", str(path)], cwd=ROOT, stdin=subprocess.PIPE)
    atexit.register(process.kill)
    end = time.monotonic() + STARTED_WITHIN_S
    while not path.exists():
        assert process.poll() is None, "what commands are forked from did not start"
        assert time.monotonic() < end, "what commands are forked from is not there yet"
        time.sleep(0.02)
    return path


def command(words: list[str], folder: Path, environment: Mapping[str, str]) -> "subprocess.CompletedProcess[str]":
    """What `quotagate <words>` prints, and how it ends."""
    readers, writers = zip(os.pipe(), os.pipe(), strict=True)
    nothing = os.open(os.devnull, os.O_RDONLY)
    said = json.dumps([words, str(folder), dict(environment)]).encode()
    with socket.socket(socket.AF_UNIX) as server, ThreadPoolExecutor(2) as reading:
        server.settimeout(ENDS_WITHIN_S)
        server.connect(str(warmed()))
        socket.send_fds(server, [len(said).to_bytes(4, "big")], [nothing, *writers])
        server.sendall(said)
        for each in (nothing, *writers):
            os.close(each)
        printed = [reading.submit(_read, each) for each in readers]
        status = server.recv(1)[0]
        told = [each.result(ENDS_WITHIN_S) for each in printed]
    return subprocess.CompletedProcess(["quotagate", *words], status, *told)


def _read(reader: int) -> str:
    with open(reader, encoding="utf-8") as printed:
        return printed.read()


if __name__ == "__main__":
    main(sys.argv[1])

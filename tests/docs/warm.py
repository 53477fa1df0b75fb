"""`quotagate` without its start: one process has imported everything, and forks for each command of a page.

A page has ten commands or so, and each would take a second of a processor to import what it needs.
"""

import importlib
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path

MODULES = ("doctor", "incidents", "key_running", "ledger_export", "ledger_running", "operator", "rebuilding")
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
    """Serves until it is killed."""
    for name in MODULES:
        importlib.import_module(f"quotagate.{name}")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{path}.new")
    server.listen()
    Path(f"{path}.new").rename(path)  # there is nothing at the path before somebody listens
    while True:
        connection, _ = server.accept()
        with connection:
            if os.fork() == 0:
                _serve(connection)


if __name__ == "__main__":
    main(sys.argv[1])

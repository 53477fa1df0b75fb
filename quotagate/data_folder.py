"""The folder in which `quotagate up` keeps everything on this machine.

DIR/lock                             held by the one supervisor at work here
DIR/valkey/   DIR/valkey.lock        append-only files; the lock is held by the server itself
DIR/postgres/ DIR/postgres.lock      the cluster, likewise
DIR/postgres.new/                    a cluster in the making, renamed when it is complete
DIR/<name>.password                  made once
DIR/<name>.port                      where a part listened the last time
"""

import os
import secrets
import socket
from collections.abc import Collection
from pathlib import Path
from typing import IO

from quotagate.child_process import take_lock, wait_for_lock

# Kernels take the ports of outgoing connections from 32768 up. A client that keeps trying to reach a server which is
# away can be given the server's own port there, is then connected to itself, and the server does not get it back.
PORTS = range(20_000, 32_000)
PORT_TRIES = 200  # each fails only where something listens already
FOLDER_MODE = 0o711  # a server that runs as another user passes through; it cannot list what is here


class DataInUseError(RuntimeError):
    """Another supervisor is at work in the data folder."""


def lock_data(directory: Path) -> IO[str]:
    """Make `directory` ours until the file returned is closed or this process ends, in whatever way. DataInUseError."""
    directory.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    path = directory / "lock"
    try:
        file = os.fdopen(take_lock(path), "r+")
    except BlockingIOError as error:
        holder = path.read_text().strip() or "unknown"
        raise DataInUseError(f"another quotagate (process {holder}) uses {directory}; stop that one first") from error
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def lock_beside(data: Path) -> Path:
    """The file on which the server whose data is in `data` holds a lock as long as any of its processes lives."""
    return data.with_name(f"{data.name}.lock")


def free_port(avoid: Collection[int] = ()) -> int:
    """A port of 127.0.0.1 on which nothing listens."""
    for _ in range(PORT_TRIES):
        port = secrets.choice(PORTS)
        if port not in avoid and _is_free(port):
            return port
    raise OSError(f"no free port from {PORTS.start} to {PORTS.stop} on 127.0.0.1")


def remembered_port(data: Path, name: str) -> int:
    """The port that `name` had the last time if it is free, else a new one: addresses outlive a restart.

    Waits while a server whose supervisor was killed is still on its way out (it holds DATA/name.lock).
    """
    if (data / f"{name}.lock").exists():
        wait_for_lock(data / f"{name}.lock")
    ports = {file.stem: int(text) for file in data.glob("*.port") if (text := file.read_text().strip()).isdecimal()}
    if name in ports and _is_free(ports[name]):
        return ports[name]
    port = free_port(avoid=ports.values())
    write_private(data / f"{name}.port", f"{port}\n")
    return port


def kept_password(file: Path) -> str:
    """The password in `file`, made at the first call; it can stand in a URL as it is."""
    if not file.exists():
        write_private(file, secrets.token_urlsafe(24))
    return file.read_text().strip()


def write_private(file: Path, text: str) -> None:
    """Replace `file` as a whole, durably, readable for us alone."""
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", errors="surrogateescape") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    new.rename(file)
    sync_folder(file.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable; the files themselves have their own fsync."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As the servers do it: the remains of closed connections do not count as use.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
        return True

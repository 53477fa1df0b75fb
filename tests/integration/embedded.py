"""Starts the embedded servers, asks them, and waits, with a deadline, for what is to happen."""

import contextlib
import os
import pwd
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import psutil
import redis
import sqlalchemy as sa

from quotagate.embedded import EmbeddedPostgres, kept_password, remembered_port, valkey_part, valkey_url
from quotagate.supervisor import Supervisor, wait_until

DEADLINE_S = 20.0
IS_ROOT = os.geteuid() == 0
SERVER_USER = pwd.getpwnam("nobody").pw_uid if IS_ROOT else os.geteuid()
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # for scripts, which import what we import


def start_valkey(supervisor: Supervisor, folder: Path) -> "redis.Redis":
    password = kept_password(folder / "valkey.password")
    port = remembered_port(folder, "valkey")
    supervisor.start(valkey_part(folder / "valkey", port, folder / "valkey.log", password=password))
    client = redis.Redis.from_url(valkey_url(port, password))
    supervisor.wait_until("valkey", client.ping, DEADLINE_S)
    return client


def start_postgres(supervisor: Supervisor, cluster: EmbeddedPostgres) -> sa.Engine:
    port = remembered_port(cluster.data.parent, "postgres")
    supervisor.start(cluster.part(port))
    engine = sa.create_engine(cluster.owner_url(port), poolclass=sa.NullPool)
    supervisor.wait_until("postgres", lambda: ask(engine, "select 1"), DEADLINE_S)
    return engine


def ask(engine: sa.Engine, question: str) -> object:
    with engine.connect() as connection:
        return connection.scalar(sa.text(question))


def do(engine: sa.Engine, statement: str) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text(statement))


def eventually(condition: Callable[[], bool], what: str) -> None:
    def check() -> None:
        assert condition()

    wait_until(check, lambda: True, what, DEADLINE_S)


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # ended; whoever inherited it has not looked yet
    except psutil.NoSuchProcess:
        return True


@contextlib.contextmanager
def deadline() -> Iterator[None]:
    """Around what could wait for ever."""

    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"not done within {DEADLINE_S} s")

    former = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, DEADLINE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)

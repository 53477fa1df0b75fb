"""One process of a deployment each: what `quotagate gateway | worker | scheduler | migrate` run."""

import errno
import hmac
import os
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import structlog

from gateway.handing_over import HandingOver, TakenOver, take_over
from gateway.listening import listen
from quota.errors import Unsafe
from quota.logs import configure
from quota.settings import Settings
from quotagate.supervisor import Part, Supervisor

WORKER_ROLES = ("drain", "jobs")
STOP_AFTER_S = 15.0
"""Longer than a gateway's or a worker's own patience with what is under way."""


def command(*words: str) -> list[str]:
    """This very program with other words."""
    return [sys.executable, "-m", "quotagate", *words]


def gateway_part(
    name: str, listener: socket.socket, env: Mapping[str, str], log: Path | None = None, tell_fd: int | None = None
) -> Part:
    """A gateway process on a socket that the parent holds open, so that a restart refuses nobody. It writes a byte to
    `tell_fd` when it serves."""
    fd = listener.fileno()
    told = [] if tell_fd is None else ["--tell-fd", str(tell_fd)]
    return Part(
        name=name,
        argv=command("gateway", "--fd", str(fd), *told),
        env=env,
        pass_fds=(fd,) if tell_fd is None else (fd, tell_fd),
        stop_after_s=STOP_AFTER_S,
        log=log,
    )


def worker_part(role: str, env: Mapping[str, str], log: Path | None = None) -> Part:
    return Part(
        name=f"worker-{role}", argv=command("worker", "--role", role), env=env, stop_after_s=STOP_AFTER_S, log=log
    )


def scheduler_part(env: Mapping[str, str], log: Path | None = None) -> Part:
    return Part(name="scheduler", argv=command("scheduler"), env=env, stop_after_s=STOP_AFTER_S, log=log)


def run_gateway(environment: Mapping[str, str], fd: int | None, tell_fd: int | None) -> int:
    """Serves; with several processes, as their supervisor. Where a gateway of this user listens on the address already,
    it takes over from that one."""
    settings = Settings.from_environment(environment, required=("redis_url", "database_url", "key_pepper"))
    from gateway import main

    configure(settings.log_level, "gateway")
    if fd is not None:
        listener = socket.socket(fileno=fd)
        listener.set_inheritable(False)
        main.serve(settings, listener, lambda _: _tell(tell_fd))
        return 0
    listener, older = _listener(settings)

    def serving(stop: Callable[[], None]) -> None:
        if older is not None:
            older.serving()
        HandingOver(listener, stop, lambda: _deployment(settings)).begin()

    if settings.gateway_processes == 1:
        main.serve(settings, listener, serving)
        return 0
    with tempfile.TemporaryDirectory(prefix="quotagate-metrics-") as metrics_dir:
        env = {**environment, "QUOTAGATE_METRICS_DIR": settings.metrics_dir or metrics_dir}
        heard, told = os.pipe()
        threading.Thread(target=_when_all_serve, args=(heard, settings.gateway_processes, serving), daemon=True).start()
        parts = [
            gateway_part(f"gateway-{each}", listener, env, tell_fd=told) for each in range(settings.gateway_processes)
        ]
        return supervise(parts, listener.close)


def _listener(settings: Settings) -> tuple[socket.socket, TakenOver | None]:
    """A listening socket; and whom it was taken from, if a gateway of this user has it."""
    try:
        return listen(settings.host, settings.port), None
    except OSError as error:
        is_taken = error.errno == errno.EADDRINUSE
        older = take_over(settings.host, settings.port, _deployment(settings)) if is_taken else None
        if older is not None:
            structlog.get_logger().info("taking over from a running gateway", host=settings.host, port=settings.port)
            return older.listener, older
        raise Unsafe(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): set QUOTAGATE_PORT or QUOTAGATE_HOST"
        ) from error


def _deployment(settings: Settings) -> bytes:
    """What only gateways of one deployment have in common: the ledger, where its Redis is, and the pepper."""
    from ledger import shards
    from ledger.store import ALL_TENANTS, connect, transaction

    engine = connect(settings.database_url, pool_size=1)
    try:
        with transaction(engine, ALL_TENANTS) as connection:
            ledger = shards.store_id(connection)
    finally:
        engine.dispose()
    redis = urlsplit(settings.redis_url)
    words = f"{ledger} {redis.hostname} {redis.port or 6379} {redis.path.strip('/') or 0} {redis.query}"
    return hmac.digest(settings.key_pepper.encode(), words.encode(), "sha256")


def _tell(tell_fd: int | None) -> None:
    """Says to the parent that this process serves."""
    if tell_fd is not None:
        with suppress(OSError):
            os.write(tell_fd, b"S")
        os.close(tell_fd)


def _when_all_serve(heard: int, processes: int, serving: Callable[[Callable[[], None]], None]) -> None:
    """Waits until so many processes have said that they serve."""
    for _ in range(processes):
        os.read(heard, 1)
    serving(lambda: os.kill(os.getpid(), signal.SIGTERM))


def run_worker(environment: Mapping[str, str], role: str | None) -> int:
    """Serves one role; both, as their supervisor, if none is named."""
    settings = Settings.from_environment(environment, required=("redis_url", "database_url"))
    if role is None:
        return supervise([worker_part(each, environment) for each in WORKER_ROLES])
    from workers.main import run

    configure(settings.log_level, f"worker-{role}")
    return _until_redis_goes(lambda: run(settings, role))


def run_scheduler(environment: Mapping[str, str]) -> int:
    """Serves until it is told to stop."""
    settings = Settings.from_environment(environment, required=("redis_url",))
    from workers.schedule import run

    configure(settings.log_level, "scheduler")
    return _until_redis_goes(lambda: run(settings))


def _until_redis_goes(serve: Callable[[], None]) -> int:
    """0 after a stop; 1 when Redis went away, with one line in the log: whoever supervises starts the process again."""
    from redis.exceptions import RedisError

    try:
        serve()
    except RedisError as error:
        structlog.get_logger().error("Redis went away", reason=str(error))
        return 1
    return 0


def run_migrate(environment: Mapping[str, str]) -> None:
    """Brings the schema up to date; with QUOTAGATE_DATABASE_URL set, makes that login too."""
    settings = Settings.from_environment(environment, required=("owner_database_url",))
    migrate(settings.owner_database_url, settings.database_url, settings.shards)


def migrate(owner_url: str, application_url: str, shard_count: int) -> None:
    from ledger import schema
    from ledger.store import connect, outages_told

    owner = connect(owner_url, pool_size=1)
    try:
        with outages_told():
            schema.migrate(owner, shard_count)
            if application_url:
                schema.make_application_login(owner_url, application_url)
    finally:
        owner.dispose()


def supervise(parts: list[Part], before_stop: Callable[[], None] = lambda: None) -> int:
    """Keeps equal parts running until told to stop."""
    supervisor = Supervisor()
    try:
        for part in parts:
            supervisor.start(part)
        failure = supervisor.watch()
    finally:
        before_stop()
        supervisor.stop(together=True)
    if failure is not None:
        sys.stderr.write(failure + os.linesep)
    return 0 if failure is None else 1

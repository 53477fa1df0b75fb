"""One process of a deployment each: what `quotagate gateway | worker | scheduler | migrate` run."""

import os
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

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


def gateway_part(name: str, listener: socket.socket, env: Mapping[str, str], log: Path | None = None) -> Part:
    """A gateway process on a socket that the parent holds open, so that a restart refuses nobody."""
    fd = listener.fileno()
    return Part(
        name=name, argv=command("gateway", "--fd", str(fd)), env=env, pass_fds=(fd,), stop_after_s=STOP_AFTER_S, log=log
    )


def worker_part(role: str, env: Mapping[str, str], log: Path | None = None) -> Part:
    return Part(
        name=f"worker-{role}", argv=command("worker", "--role", role), env=env, stop_after_s=STOP_AFTER_S, log=log
    )


def scheduler_part(env: Mapping[str, str], log: Path | None = None) -> Part:
    return Part(name="scheduler", argv=command("scheduler"), env=env, stop_after_s=STOP_AFTER_S, log=log)


def run_gateway(environment: Mapping[str, str], fd: int | None) -> int:
    """Serves; with several processes, as their supervisor."""
    settings = Settings.from_environment(environment, required=("redis_url", "database_url", "key_pepper"))
    from gateway import main
    from gateway.listening import listen

    configure(settings.log_level, "gateway")
    if fd is not None:
        listener = socket.socket(fileno=fd)
        listener.set_inheritable(False)
        main.serve(settings, listener)
        return 0
    try:
        listener = listen(settings.host, settings.port)
    except OSError as error:
        raise Unsafe(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): set QUOTAGATE_PORT or QUOTAGATE_HOST"
        ) from error
    if settings.gateway_processes == 1:
        main.serve(settings, listener)
        return 0
    with tempfile.TemporaryDirectory(prefix="quotagate-metrics-") as metrics_dir:
        env = {**environment, "QUOTAGATE_METRICS_DIR": settings.metrics_dir or metrics_dir}
        parts = [gateway_part(f"gateway-{each}", listener, env) for each in range(settings.gateway_processes)]
        return supervise(parts)


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


def supervise(parts: list[Part]) -> int:
    """Keeps equal parts running until told to stop."""
    supervisor = Supervisor()
    try:
        for part in parts:
            supervisor.start(part)
        failure = supervisor.watch()
    finally:
        supervisor.stop(together=True)
    if failure is not None:
        sys.stderr.write(failure + os.linesep)
    return 0 if failure is None else 1

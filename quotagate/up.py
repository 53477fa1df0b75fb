"""Everything on one machine, in one command: the stores, the gateway, the workers, the scheduler."""

import json
import shutil
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from quota.catalog import Catalog, difference, parse_json, to_document
from quota.errors import Unsafe
from quota.settings import Settings, variable
from quotagate import banner, parts
from quotagate.catalog_file import read_catalog
from quotagate.data_folder import kept_password, lock_data, remembered_port, write_private
from quotagate.embedded import EmbeddedPostgres, valkey_part, valkey_url
from quotagate.plain_commands import counted
from quotagate.supervisor import Supervisor

READY_AFTER_S = 60.0
MAX_LOG_BYTES = 10 * 1024 * 1024
"""A log that has grown beyond this is put aside at the next start; one older log is kept."""
APPLICATION_LOGIN = "quotagate_gateway"


class Up:
    """One run of `quotagate up`."""

    def __init__(
        self, environment: Mapping[str, str], *, host: str | None, port: int | None, data: Path, catalog: Path | None
    ) -> None:
        given = dict(environment)
        if host is not None:
            given[variable("host")] = host
        if port is not None:
            given[variable("port")] = str(port)
        self._settings = Settings.from_environment(given)
        self._environment = given
        self._data = data.resolve()
        self._catalog = None if catalog is None else read_catalog(catalog)
        self._supervisor = Supervisor()

    def run(self) -> int:
        """Stays until SIGTERM or Ctrl-C; 0 then, 1 if a part could not be kept running."""
        from gateway.listening import listen

        settings, started = self._settings, time.monotonic()
        # Held for as long as this process lives: two on one folder would be two Redis on one file.
        with lock_data(self._data), self._supervisor:
            (self._data / "urls.json").unlink(missing_ok=True)
            try:
                listener = listen(settings.host, settings.port)
            except OSError as error:
                raise Unsafe(
                    f"cannot listen on {settings.host}:{settings.port} ({error.strerror}): choose another --port"
                ) from error
            redis_url = settings.redis_url or self._start_valkey()
            _reach_redis(redis_url)  # before anything is changed in a database that belongs to somebody
            owner_url, application_url = self._start_postgres()
            env = self._child_environment(redis_url, application_url)
            self._start_parts(env, listener)
            host, port = listener.getsockname()[:2]
            address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
            self._wait_until_ready(address)
            admin_key = env[variable("admin_key")]
            catalog, kept = self._apply_catalog(address, admin_key)
            urls = {
                "gateway": address,
                "redis": redis_url,
                "database": owner_url.replace("+psycopg", "", 1),
                "application_database": application_url.replace("+psycopg", "", 1),
            }
            write_private(self._data / "urls.json", json.dumps(urls, indent=2) + "\n")
            banner.show(
                sys.stdout,
                address=address,
                admin_key=admin_key,
                catalog=catalog,
                kept=kept,
                data=self._data,
                took_s=time.monotonic() - started,
            )
            try:
                failure = self._supervisor.watch()
            finally:
                (self._data / "urls.json").unlink(missing_ok=True)
        if failure is not None:
            sys.stderr.write(f"quotagate: {failure}\n")
        return 0 if failure is None else 1

    def _log(self, name: str) -> Path:
        log = self._data / "logs" / f"{name}.log"
        log.parent.mkdir(exist_ok=True)
        if log.exists() and log.stat().st_size > MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        return log

    def _start_valkey(self) -> str:
        import redis

        port = remembered_port(self._data, "valkey")
        password = kept_password(self._data / "valkey.password")
        fsync = "always" if self._settings.durability == "always" else "everysec"
        self._supervisor.start(
            valkey_part(self._data / "valkey", port, self._log("valkey"), password=password, appendfsync=fsync)
        )
        url = valkey_url(port, password)
        # A large append-only file takes a while to load; `ping` fails until it is in.
        self._supervisor.wait_until("valkey", redis.Redis.from_url(url).ping, READY_AFTER_S)
        return url

    def _start_postgres(self) -> tuple[str, str]:
        """The owner's URL and the application's. A given server is asked whether its login can be the owner."""
        import psycopg

        settings = self._settings
        if not settings.database_url:
            server = EmbeddedPostgres.prepare(self._data / "postgres", self._log("postgres"))
            port = remembered_port(self._data, "postgres")
            self._supervisor.start(server.part(port))
            owner_url = server.owner_url(port)
            plain = owner_url.replace("+psycopg", "", 1)
            self._supervisor.wait_until("postgres", lambda: psycopg.connect(plain).close(), READY_AFTER_S)
        elif settings.owner_database_url:
            owner_url = settings.owner_database_url
        elif _may_own(settings.database_url):
            owner_url = settings.database_url
        else:
            return settings.database_url, settings.database_url
        if settings.owner_database_url:
            application_url = settings.database_url
        else:
            password = kept_password(self._data / "application.password")
            # A login of this folder's own: another `up` on the same server must not change the password of ours.
            name = f"{APPLICATION_LOGIN}_{sha256(password.encode()).hexdigest()[:8]}"
            url = make_url(owner_url).set(username=name, password=password)
            application_url = url.render_as_string(hide_password=False)
        parts.migrate(owner_url, application_url, settings.shards)
        return owner_url, application_url

    def _child_environment(self, redis_url: str, application_url: str) -> dict[str, str]:
        metrics = self._data / "metrics"
        shutil.rmtree(metrics, ignore_errors=True)  # the counts of processes that are gone
        metrics.mkdir()
        env = {name: value for name, value in self._environment.items() if name != variable("owner_database_url")}
        return env | {
            variable("redis_url"): redis_url,
            variable("database_url"): application_url,
            variable("metrics_dir"): self._settings.metrics_dir or str(metrics),
            variable("outage_dir"): self._settings.outage_dir or str(self._data / "outage"),
            variable("key_pepper"): self._settings.key_pepper or kept_password(self._data / "key.pepper"),
            variable("admin_key"): self._settings.admin_key or kept_password(self._data / "admin.key"),
        }

    def _start_parts(self, env: Mapping[str, str], listener: Any) -> None:
        for each in range(self._settings.gateway_processes):
            name = "gateway" if self._settings.gateway_processes == 1 else f"gateway-{each}"
            self._supervisor.start(parts.gateway_part(name, listener, env, log=self._log(name)))
        for role in parts.WORKER_ROLES:
            self._supervisor.start(parts.worker_part(role, env, log=self._log(f"worker-{role}")))
        self._supervisor.start(parts.scheduler_part(env, log=self._log("scheduler")))

    def _wait_until_ready(self, address: str) -> None:
        first = "gateway" if self._settings.gateway_processes == 1 else "gateway-0"
        self._supervisor.wait_until(first, lambda: _call("GET", f"{address}/health/ready"), READY_AFTER_S)

    def _apply_catalog(self, address: str, admin_key: str) -> tuple[Catalog, str | None]:
        """The catalog that holds, and a sentence if it is not the given one: that is for a tenant which has none yet,
        because whoever starts again wants what was applied since."""
        versions = json.loads(_call("GET", f"{address}/v1/catalog/versions?limit=1", admin_key))["items"]
        if self._catalog is not None and not versions:
            _call("PUT", f"{address}/v1/catalog", admin_key, json.dumps(to_document(self._catalog)).encode())
        holds = parse_json(_call("GET", f"{address}/v1/catalog", admin_key))
        changes = difference(holds, self._catalog) if self._catalog is not None else []
        if not changes:
            return holds, None
        return holds, (
            f"Catalog version {versions[0]['version']} is kept: --catalog is for the first start, and would make "
            f"{counted(len(changes), 'change')}. `quotagate catalog apply FILE` shows and makes them."
        )


def _call(method: str, url: str, key: str | None = None, body: bytes | None = None) -> bytes:
    headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
    request = urllib.request.Request(url, data=body, method=method, headers=headers)  # noqa: S310 - our own address
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            content: bytes = answer.read()
            return content
    except urllib.error.HTTPError as error:
        raise Unsafe(f"{method} {url} answered {error.code}: {error.read().decode(errors='replace')}") from error


def _reach_redis(url: str) -> None:
    import redis

    try:
        redis.Redis.from_url(url, socket_connect_timeout=5, socket_timeout=5).ping()
    except redis.RedisError as error:
        raise Unsafe(f"QUOTAGATE_REDIS_URL cannot be reached: {error}") from error


def _may_own(url: str) -> bool:
    """Whether this login may make tables and roles, as migrate must."""
    import psycopg

    try:
        with psycopg.connect(url.replace("+psycopg", "", 1), connect_timeout=5) as connection:
            row = connection.execute(
                "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
            ).fetchone()
    except psycopg.OperationalError as error:
        raise Unsafe(f"QUOTAGATE_DATABASE_URL cannot be reached: {error}") from error
    return bool(row and row[0])

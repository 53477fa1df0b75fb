"""The whole system as a user runs it: `quotagate up` in a process of its own, spoken to over HTTP and SQL."""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import psutil
import psycopg
import redis

from gateway.auth import digest_of, key_id_of
from gateway.listening import listen
from ledger import api_keys
from ledger.store import connect, transaction
from tests import warm

ROOT = Path(__file__).parent.parent
READY_AFTER_S = 60.0
T = TypeVar("T")


def eventually(check: Callable[[], T], what: str, deadline_s: float = 15.0) -> T:
    """What `check` returns as soon as it is true; else an assertion error that says what was waited for."""
    end = time.monotonic() + deadline_s
    while True:
        last = check()
        if last:
            return last
        assert time.monotonic() < end, f"after {deadline_s} s still not: {what}; last seen: {last!r}"
        time.sleep(0.02)


class System:
    """One `quotagate up` on a data folder; may be stopped, killed and started again."""

    def __init__(self, data: Path, *, catalog: Path | None = None, **settings: str) -> None:
        self.data = data
        self._catalog = catalog
        self._settings = {f"QUOTAGATE_{name.upper()}": value for name, value in settings.items()}
        self.process: subprocess.Popen[bytes] | None = None
        self.urls: dict[str, str] = {}
        self.admin_key = ""

    @property
    def environment(self) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("QUOTAGATE_")}
        return clean | self._settings

    def start(self) -> "System":
        command = [sys.executable, "-m", "quotagate", "up", "--data", str(self.data), "--port", "0"]
        if self._catalog is not None:
            command += ["--catalog", str(self._catalog)]
        self.data.mkdir(parents=True, exist_ok=True)
        (self.data / "urls.json").unlink(missing_ok=True)  # one that was killed could not take it away
        with (self.data / "up.log").open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=log, stderr=log)

        def ready() -> bool:
            assert self.process is not None and self.process.poll() is None, (self.data / "up.log").read_text()[-4000:]
            return (self.data / "urls.json").exists()

        eventually(ready, "quotagate up is ready", READY_AFTER_S)
        self.urls = json.loads((self.data / "urls.json").read_text())
        self.admin_key = self._settings.get("QUOTAGATE_ADMIN_KEY") or (self.data / "admin.key").read_text().strip()
        return self

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def parts(self, *words: str) -> list[psutil.Process]:
        """The processes below `up` whose command line has all of these words."""
        assert self.process is not None
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if all(word in line for word in words):
                found.append(process)
        return found

    def client(self, key: str | None = None, **how: Any) -> httpx.Client:
        """An HTTP client that sends a key; the admin's if none is given."""
        headers = {"Authorization": f"Bearer {key or self.admin_key}"}
        return httpx.Client(base_url=self.urls["gateway"], headers=headers, timeout=10, **how)

    def command(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `quotagate <words>`, with this system's stores for the commands of people on call."""
        done = warm.command(list(words), self.data, self.environment)
        if check:
            done.check_returncode()
        return done

    def make_key(self, tenant: str, *scopes: str) -> str:
        """A new key of a tenant, which is made if it is new: as `quotagate key create` makes it, without its start."""
        pepper = (self.data / "key.pepper").read_text().strip()
        secret = f"qg_{secrets.token_hex(6)}_{secrets.token_urlsafe(32)}"
        granted = scopes or ("consume", "read", "admin", "ops")
        engine = connect(
            self.urls["application_database"].replace("postgresql:", "postgresql+psycopg:", 1), pool_size=1
        )
        with transaction(engine, tenant) as connection:
            api_keys.ensure(connection, tenant, key_id_of(pepper, secret), digest_of(pepper, secret), granted)
        engine.dispose()
        return secret

    def sql(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Rows, as the owner sees them: every tenant's."""
        with psycopg.connect(self.urls["database"]) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    def redis(self) -> "redis.Redis":
        return redis.Redis.from_url(self.urls["redis"])

    def drained(self, deadline_s: float = 15.0) -> None:
        """Waits until the ledger has every entry of the journal."""
        connection = self.redis()

        def empty() -> bool:
            journals = list(connection.scan_iter(match="qg:{*}:j", count=1000))
            return sum(connection.xlen(name) for name in journals) == 0

        eventually(empty, "the journal is drained", deadline_s)

    def reconciled(self) -> dict[str, Any]:
        """The report of a reconciliation that is run now."""
        done = self.command("reconcile", "--json", "--data", str(self.data), check=False)
        assert done.returncode in (0, 1), done.stderr
        return dict(json.loads(done.stdout.splitlines()[-1]))

    def server(self, name: str) -> psutil.Process:
        """The Redis or the Postgres (`redis`, `database`) of this system, found by the port that it listens on."""
        port = port_of(self.urls[name])
        assert self.process is not None
        for process in psutil.Process(self.process.pid).children():
            try:
                connections = process.net_connections()
            except psutil.Error:
                continue
            if any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in connections):
                return process
        raise AssertionError(f"nothing of this system listens on {port}")


class Gateway:
    """One more gateway on the stores of a system, with settings of its own; may be killed and started again.

    `command` is the module, with its arguments, that is run in place of `quotagate`.
    """

    def __init__(
        self, system: System, name: str, *, command: tuple[str, ...] = ("quotagate",), **settings: str | int
    ) -> None:
        self._system = system
        self._log = system.data / "logs" / f"{name}.log"
        self._listener = listen("127.0.0.1", 0)
        self._command = command
        own: dict[str, str | int] = {
            "redis_url": system.urls["redis"],
            "database_url": system.urls["application_database"],
            "key_pepper": (system.data / "key.pepper").read_text().strip(),
            "outage_dir": str(system.data / f"outage-{name}"),
        }
        self._settings = own | settings
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def start(self) -> "Gateway":
        fd = self._listener.fileno()
        command = [sys.executable, "-m", *self._command, "gateway", "--fd", str(fd)]
        env = self._system.environment | {
            f"QUOTAGATE_{name.upper()}": str(each) for name, each in self._settings.items()
        }
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log, pass_fds=(fd,))

        def ready() -> bool:
            assert self.process is not None and self.process.poll() is None, self._log.read_text()[-4000:]
            with suppress(httpx.HTTPError):
                return httpx.get(f"{self.url}/health/ready", timeout=1).status_code == 200
            return False

        eventually(ready, "the gateway is ready", READY_AFTER_S)
        return self

    def client(self, key: str | None = None, **how: Any) -> httpx.Client:
        """An HTTP client that sends a key; the admin's if none is given."""
        headers = {"Authorization": f"Bearer {key or self._system.admin_key}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=10, **how)

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(30)
        self._listener.close()
        return status


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def through(url: str, port: int) -> str:
    """The same address on another port: a proxy's."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{port}").geturl()

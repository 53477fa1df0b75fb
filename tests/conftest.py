"""Real servers for every test that needs one: started here from wheels, on free ports, stopped with the session."""

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest
import redis
import structlog

from quota.catalog import parse_toml, to_document
from quotagate.data_folder import remembered_port
from quotagate.embedded import EmbeddedPostgres, valkey_part, valkey_url
from quotagate.parts import migrate
from quotagate.supervisor import Supervisor
from tests.system import ROOT, System

TEMPLATE = "quotagate_template"
SHARDS = 8
IN_MEMORY = Path("/dev/shm")
STORES_BYTES = 4 << 30
"""Room for all that a session writes; Postgres keeps up to 1 GB of its log."""


@dataclass(frozen=True)
class Stores:
    """A Valkey and a PostgreSQL of the session's own. `owner_url` is libpq's; its database is empty."""

    redis_url: str
    owner_url: str


@pytest.fixture(autouse=True)
def logs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What configures logs in a test, as a command does, does so for that test alone."""
    configure = structlog.configure
    uncached = {"cache_logger_on_first_use": False}
    monkeypatch.setattr(structlog, "configure", lambda **words: configure(**words | uncached))
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def _stores_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """In memory, where there is room: each test has a database of its own, which is 500 files to make."""
    for left in IN_MEMORY.glob("quotagate-tests-*"):
        if not psutil.pid_exists(int(left.name.rpartition("-")[2])):
            shutil.rmtree(left, ignore_errors=True)
    if not IN_MEMORY.is_dir() or shutil.disk_usage(IN_MEMORY).free < STORES_BYTES:
        yield tmp_path_factory.mktemp("stores")
        return
    folder = IN_MEMORY / f"quotagate-tests-{os.getpid()}"
    folder.mkdir(mode=0o700)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def stores(_stores_folder: Path) -> Iterator[Stores]:
    data = _stores_folder
    with Supervisor() as supervisor:
        port = remembered_port(data, "valkey")
        supervisor.start(valkey_part(data / "valkey", port, data / "valkey.log", password="test"))
        redis_url = valkey_url(port, "test")
        supervisor.wait_until("valkey", redis.Redis.from_url(redis_url).ping, 30)
        server = EmbeddedPostgres.prepare(data / "postgres", data / "postgres.log")
        port = remembered_port(data, "postgres")
        supervisor.start(server.part(port))
        owner_url = server.owner_url(port).replace("+psycopg", "", 1)
        supervisor.wait_until("postgres", lambda: psycopg.connect(owner_url).close(), 30)
        yield Stores(redis_url, owner_url)


@pytest.fixture
def connection(stores: Stores) -> Iterator["redis.Redis"]:
    """A Redis with nothing in it."""
    connection = redis.Redis.from_url(stores.redis_url)
    connection.flushall()
    yield connection
    connection.close()


@dataclass(frozen=True)
class Database:
    """A migrated database of the test's own, as the owner and as the application reach it (SQLAlchemy URLs)."""

    owner_url: str
    application_url: str


@pytest.fixture(scope="session")
def _template(stores: Stores) -> str:
    with psycopg.connect(stores.owner_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {TEMPLATE}")
    return _url(stores.owner_url, TEMPLATE)


def _url(owner_url: str, database: str, user: str | None = None) -> str:
    from sqlalchemy import make_url

    url = make_url(owner_url).set(drivername="postgresql+psycopg", database=database)
    if user is not None:
        url = url.set(username=user, password="application")
    return url.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def _migrated(stores: Stores, _template: str) -> str:
    migrate(_template, _url(stores.owner_url, TEMPLATE, "application"), SHARDS)
    return TEMPLATE


@contextmanager
def database_of(stores: Stores, template: str) -> Iterator[Database]:
    """A copy of a database that nobody is connected to."""
    name = f"test_{secrets.token_hex(6)}"
    with psycopg.connect(stores.owner_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield Database(_url(stores.owner_url, name), _url(stores.owner_url, name, "application"))
    with psycopg.connect(stores.owner_url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def database(stores: Stores, _migrated: str) -> Iterator[Database]:
    with database_of(stores, _migrated) as database:
        yield database


@pytest.fixture(scope="module")
def shared_database(stores: Stores, _migrated: str) -> Iterator[Database]:
    """One for all tests of a module, which leave it as they found it."""
    with database_of(stores, _migrated) as database:
        yield database


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """One `quotagate up` for all tests that do not break it; each takes a tenant of its own."""
    running = System(tmp_path_factory.mktemp("system")).start()
    yield running
    assert running.stop() == 0


@dataclass(frozen=True)
class Tenant:
    """A tenant with a catalog and a key with every scope."""

    name: str
    key: str
    client: httpx.Client

    def subscribe(self, subject: str, plan: str, **fields: Any) -> httpx.Response:
        answer = self.client.put(f"/v1/subjects/{_quoted(subject)}/subscription", json={"plan": plan, **fields})
        assert answer.status_code == 200, answer.text
        return answer

    def consume(self, subject: str, metric: str, amount: int = 1, **headers: str) -> httpx.Response:
        body = {"subject": subject, "metric": metric, "amount": amount}
        return self.client.post("/v1/consume", json=body, headers=headers)

    def operate(self, subject: str, operation: str, quantity: int = 1, **headers: str) -> httpx.Response:
        body = {"subject": subject, "operation": operation, "quantity": quantity}
        return self.client.post("/v1/consume", json=body, headers=headers)

    def check(self, subject: str, metric: str, amount: int = 1) -> httpx.Response:
        return self.client.post("/v1/check", json={"subject": subject, "metric": metric, "amount": amount})

    def status(self, subject: str) -> dict[str, Any]:
        answer = self.client.get(f"/v1/subjects/{_quoted(subject)}/status")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


def _quoted(subject: str) -> str:
    from urllib.parse import quote

    return quote(subject, safe="")


@pytest.fixture
def make_tenant(system: System) -> Iterator[Callable[[str | Path | dict[str, Any]], Tenant]]:
    """Makes tenants: of an example by its name, or of a catalog document."""
    clients = []

    def make(catalog: str | dict[str, Any]) -> Tenant:
        name = f"tenant-{secrets.token_hex(4)}"
        key = system.make_key(name)
        client = system.client(key)
        clients.append(client)
        if isinstance(catalog, str):
            catalog = to_document(parse_toml((ROOT / "examples" / f"{catalog}.toml").read_text()))
        answer = client.put("/v1/catalog", json=catalog)
        assert answer.status_code == 200, answer.text
        return Tenant(name, key, client)

    yield make
    for client in clients:
        client.close()

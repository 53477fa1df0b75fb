"""`quotagate up`: it is ready soon, leaves no process however it ends, keeps the data, and refuses what is unsafe."""

import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
import redis
from sqlalchemy import make_url

from tests.conftest import Database, Stores
from tests.system import READY_AFTER_S, ROOT, System, eventually

CREDITS = ROOT / "examples" / "credits.toml"
ADMIN_KEY = "the-first-key-of-this-test"
GONE_AFTER_S = 15.0
REFUSED_AFTER_S = 30.0
PARTS = ("valkey-server", "postgres", "gateway", "worker --role drain", "worker --role jobs", "scheduler")


class House:
    """A system on one data folder that the tests of this file start and stop in turn."""

    def __init__(self, folder: Path) -> None:
        self.system = System(folder, catalog=CREDITS, admin_key=ADMIN_KEY)
        self.first_start_s = 0.0

    def running(self) -> System:
        """The system, started if it is not running."""
        process = self.system.process
        if process is None or process.poll() is not None:
            (self.system.data / "urls.json").unlink(missing_ok=True)  # a killed one could not take it away
            started = time.monotonic()
            self.system.start()
            self.first_start_s = self.first_start_s or time.monotonic() - started
        return self.system


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("house") / "data")
    yield house
    process = house.system.process
    if process is not None and process.poll() is None:
        house.system.stop()


def _descendants(system: System) -> list[psutil.Process]:
    assert system.process is not None
    found = psutil.Process(system.process.pid).children(recursive=True)
    lines = [_line(process) for process in found]
    for part in PARTS:
        assert any(part in line for line in lines), f"{part} does not run: {lines}"
    return found


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:  # one of Postgres's own that has just ended
        return ""


def _living(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [each for each in processes if _lives(each)]


def _lives(process: psutil.Process) -> bool:
    try:
        # A zombie has ended; whoever inherited it has only not looked yet.
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _use(system: System, amount: int = 1) -> int:
    """Consumes credits; how many are used then."""
    with system.client() as client:
        answer = client.post("/v1/consume", json={"subject": "u_1", "metric": "credits", "amount": amount})
    assert answer.status_code == 200, answer.text
    return int(answer.json()["used"])


def _entries(system: System) -> list[tuple[int, int]]:
    """Amount and balance of each of u_1's consumes in the ledger, in their order."""
    system.drained()
    found = system.sql(
        "SELECT amount, used_after FROM entries WHERE subject = 'u_1' AND kind = 'consume' ORDER BY epoch, n"
    )
    return [(amount, used_after) for amount, used_after in found]


def test_a_fresh_start_is_ready_within_a_minute_and_writes_its_addresses_for_its_owner_alone(house: House) -> None:
    system = house.running()
    assert house.first_start_s < READY_AFTER_S
    file = system.data / "urls.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    urls = json.loads(file.read_text())
    assert urls.keys() >= {"gateway", "redis", "database"}
    assert httpx.get(f"{urls['gateway']}/health/ready").status_code == 200
    assert redis.Redis.from_url(urls["redis"]).ping()
    with psycopg.connect(urls["database"]) as connection:
        assert connection.execute("SELECT count(*) FROM shards").fetchone() == (64,)
    _descendants(system)


def test_it_prints_the_address_the_key_and_requests_that_can_be_pasted(house: House) -> None:
    system = house.running()
    printed = (system.data / "up.log").read_text()
    assert system.urls["gateway"] in printed
    commands = [line for line in printed.splitlines() if line.startswith("curl ")][:3]
    replies = []
    for command in commands:
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True, timeout=30)
        replies.append(json.loads(done.stdout))
    allowed, denied, status = replies
    assert allowed["allowed"] is True
    assert (denied["status"], denied["code"]) == (429, "QUOTA_EXCEEDED")
    assert status["metrics"]


def test_the_admin_key_setting_fixes_the_first_key(house: House) -> None:
    system = house.running()
    with system.client(ADMIN_KEY) as client:
        assert client.get("/v1/catalog").json()["default_plan"] == "free"
        assert client.get("/v1/ops/reconciliation").status_code in {200, 404}
    with system.client(f"{ADMIN_KEY}-not") as client:
        assert client.get("/v1/catalog").status_code == 401


def _sentences(done: "subprocess.CompletedProcess[str]", *words: str) -> None:
    """It ended with one plain sentence a mistake, here one, and with no stack trace."""
    assert done.returncode not in {0, None}, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("quotagate: ")
    for word in words:
        assert word in lines[0]


def _quotagate(*words: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    clean = {name: value for name, value in os.environ.items() if not name.startswith("QUOTAGATE_")}
    env = clean | {f"QUOTAGATE_{name.upper()}": value for name, value in settings.items()}
    return subprocess.run(
        [sys.executable, "-m", "quotagate", *words],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=REFUSED_AFTER_S,
    )


def test_a_second_one_on_the_same_folder_is_refused_and_the_first_goes_on(house: House) -> None:
    system = house.running()
    _sentences(_quotagate("up", "--data", str(system.data), "--port", "0"), "another quotagate", str(system.data))
    assert (system.data / "urls.json").exists()
    _use(system)


def test_sigterm_ends_every_process_and_the_next_start_has_all_the_data(house: House) -> None:
    system = house.running()
    processes = _descendants(system)
    used = _use(system, 2)
    assert system.stop() == 0
    assert _living(processes) == []
    assert not (system.data / "urls.json").exists()
    system = house.running()
    assert _use(system) == used + 1
    assert _entries(system)[-2:] == [(2, used), (1, used + 1)]


def test_a_kill_of_the_supervisor_leaves_no_process_and_the_next_start_has_all_the_data(house: House) -> None:
    system = house.running()
    processes = _descendants(system)
    before = _entries(system)
    used = [_use(system, 1) for _ in range(5)]
    system.kill()
    eventually(lambda: not _living(processes), "no process is left", GONE_AFTER_S)
    started = time.monotonic()
    system = house.running()
    assert time.monotonic() - started < READY_AFTER_S
    used.append(_use(system))
    assert used == list(range(used[0], used[0] + 6))
    assert _entries(system) == before + [(1, each) for each in used]
    assert system.reconciled()["drifted"] == 0


def test_ctrl_c_ends_every_process(house: House) -> None:
    system = house.running()
    processes = _descendants(system)
    assert system.process is not None
    system.process.send_signal(signal.SIGINT)
    assert system.process.wait(60) == 0
    assert _living(processes) == []
    assert not (system.data / "urls.json").exists()
    assert "Traceback" not in (system.data / "up.log").read_text()


@contextmanager
def _own_database(stores: Stores) -> Iterator[str]:
    """A database with nothing in it; the owner's URL."""
    name = f"up_{secrets.token_hex(6)}"
    with psycopg.connect(stores.owner_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        yield make_url(stores.owner_url).set(database=name).render_as_string(hide_password=False)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_servers_that_are_given_replace_the_embedded_ones(
    stores: Stores, connection: "redis.Redis", tmp_path: Path
) -> None:
    with _own_database(stores) as owner_url:
        given = {"redis_url": stores.redis_url, "database_url": owner_url}
        system = System(tmp_path / "data", catalog=CREDITS, **given).start()
        try:
            assert system.parts("valkey-server") == []
            assert system.parts("postgres") == []
            assert (system.urls["redis"], system.urls["database"]) == (stores.redis_url, owner_url)
            assert _use(system, 3) == 3
            assert _entries(system) == [(3, 3)]
            assert list(connection.scan_iter(match="qg:{*}:a:default:u_1:credits"))
            processes = psutil.Process(system.process.pid).children(recursive=True) if system.process else []
        finally:
            assert system.stop() == 0
        assert _living(processes) == []
        assert connection.ping()


def test_a_misspelt_setting_is_named(tmp_path: Path) -> None:
    folder = str(tmp_path / "data")
    _sentences(_quotagate("up", "--data", folder, "--port", "0", durabilty="always"), "QUOTAGATE_DURABILTY")
    assert not (tmp_path / "data" / "postgres").exists()


def test_a_port_in_use_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        _sentences(_quotagate("up", "--data", str(tmp_path / "data"), "--port", port), port, "--port")


def _gateway(stores: Stores, database_url: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    given = {"redis_url": stores.redis_url, "key_pepper": "pepper-of-this-test", "port": "0"}
    return _quotagate("gateway", **(given | {"database_url": database_url} | settings))


@contextmanager
def _configured(connection: "redis.Redis", name: str, value: str) -> Iterator[None]:
    former = connection.config_get(name)[name]
    connection.config_set(name, value)
    try:
        yield
    finally:
        connection.config_set(name, former)


@pytest.mark.parametrize(
    ("name", "value", "durability"),
    [
        ("maxmemory-policy", "allkeys-lru", "everysec"),
        ("appendonly", "no", "everysec"),
        ("appendfsync", "everysec", "always"),
    ],
)
def test_a_redis_that_could_forget_is_refused(
    stores: Stores, database: Database, connection: "redis.Redis", name: str, value: str, durability: str
) -> None:
    with _configured(connection, name, value):
        _sentences(_gateway(stores, database.application_url, durability=durability), name, value)


def test_a_role_that_owns_the_ledger_is_refused(stores: Stores, database: Database) -> None:
    _sentences(_gateway(stores, database.owner_url), "role", "quotagate_app")


def test_a_database_without_tables_is_refused(stores: Stores, database: Database) -> None:
    with _own_database(stores) as owner_url:
        empty = make_url(database.application_url).set(database=make_url(owner_url).database)
        _sentences(_gateway(stores, empty.render_as_string(hide_password=False)), "quotagate migrate")


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken and on which nobody listens."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield closed.getsockname()[1]


def test_a_redis_that_is_not_there_is_told_in_one_sentence(
    stores: Stores, database: Database, closed_port: int
) -> None:
    url = f"redis://127.0.0.1:{closed_port}/0"
    _sentences(_gateway(stores, database.application_url, redis_url=url))


def test_a_database_that_is_not_there_is_told_in_one_sentence(
    stores: Stores, database: Database, closed_port: int
) -> None:
    url = make_url(database.application_url).set(port=closed_port)
    _sentences(_gateway(stores, url.render_as_string(hide_password=False)))

"""The embedded servers, run for real inside a closed folder with a space in its name; Valkey, and both together."""

import importlib.util
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from quota.errors import Unsafe
from quotagate.child_process import PartError, wait_for_lock
from quotagate.embedded import (
    DataInUseError,
    EmbeddedPostgres,
    EmbeddedServerError,
    kept_password,
    lock_data,
    valkey_part,
)
from quotagate.supervisor import Supervisor
from tests.integration.embedded import (
    DEADLINE_S,
    ENVIRONMENT,
    ask,
    deadline,
    eventually,
    is_gone,
    start_postgres,
    start_valkey,
)

RUNS = 3


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    closed = tmp_path / "closed folder"
    closed.mkdir(mode=0o700)
    return closed


def test_valkey_keeps_its_data_and_its_port_over_a_restart(folder: Path) -> None:
    with Supervisor() as supervisor:
        client = start_valkey(supervisor, folder)
        client.xadd("journal", {"amount": 7})
        client.eval("return redis.call('INCRBY', KEYS[1], 5)", 1, "counter")
        port = client.get_connection_kwargs()["port"]
        client.close()
    with Supervisor() as supervisor, start_valkey(supervisor, folder) as client:
        assert client.get("counter") == b"5"
        assert client.xlen("journal") == 1
        assert client.get_connection_kwargs()["port"] == port


def test_valkey_keeps_what_it_acknowledged_when_it_is_killed(folder: Path) -> None:
    def tell(sentence: str) -> None:
        if sentence == "valkey runs again":
            signal.raise_signal(signal.SIGTERM)

    with Supervisor(tell=tell) as supervisor, start_valkey(supervisor, folder) as client:
        for _ in range(1000):
            client.incr("counter")
        pid = supervisor.pid("valkey")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        with deadline():
            assert supervisor.watch() is None
        supervisor.wait_until("valkey", client.ping, DEADLINE_S)
        assert client.get("counter") == b"1000"


def test_valkey_is_durable_evicts_nothing_and_shows_its_password_to_nobody(folder: Path) -> None:
    with Supervisor() as supervisor, start_valkey(supervisor, folder) as client:
        settings = client.config_get("append*", "maxmemory-policy", "save", "bind", "aof-use-rdb-preamble")
        expected = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction", "save": ""}
        assert expected.items() <= settings.items()
        assert settings["bind"] == "127.0.0.1"
        stranger = redis.Redis(port=client.get_connection_kwargs()["port"], retry=Retry(NoBackoff(), 0))
        with stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()
        password = kept_password(folder / "valkey.password")
        server = psutil.Process(supervisor.pid("valkey"))
        shown = server.cmdline() + [f"{key}={value}" for key, value in server.environ().items()]
        assert not any(password in word for word in shown)
        assert stat.S_IMODE((folder / "valkey/valkey.conf").stat().st_mode) == 0o600
        assert stat.S_IMODE((folder / "valkey.password").stat().st_mode) == 0o600
        assert stat.S_IMODE((folder / "valkey").stat().st_mode) == 0o700


def test_valkey_reads_any_name_of_its_folder(tmp_path: Path) -> None:
    strange = tmp_path / 'a "quoted" back\\slash'
    strange.mkdir()
    with Supervisor() as supervisor, start_valkey(supervisor, strange) as client:
        assert client.config_get("dir")["dir"] == str(strange / "valkey")


def test_valkey_without_fsync_is_refused(folder: Path) -> None:
    with pytest.raises(Unsafe, match="always or everysec"):
        valkey_part(folder / "valkey", 20_000, folder / "log", password="secret", appendfsync="no")


SERVERS = """
import sys
from pathlib import Path
from quotagate.data_folder import lock_data
from quotagate.embedded import EmbeddedPostgres
from quotagate.supervisor import Supervisor
from tests.integration.embedded import do, start_postgres, start_valkey
folder = Path(sys.argv[1])
lock = lock_data(folder)
with Supervisor(uses_watcher=sys.argv[2] == "True") as supervisor:
    start_valkey(supervisor, folder).incr("runs")
    engine = start_postgres(supervisor, EmbeddedPostgres.prepare(folder / "postgres", folder / "postgres.log"))
    do(engine, "create table if not exists runs (n int)")
    do(engine, "insert into runs values (1)")
    print(supervisor.pid("valkey"), supervisor.pid("postgres"), flush=True)
    sys.exit(supervisor.watch())
"""


@pytest.mark.parametrize("uses_watcher", [False, True], ids=["kernel", "watcher"])
def test_after_a_kill_of_the_supervisor_its_servers_end_and_the_next_start_waits_for_them(
    folder: Path, uses_watcher: bool
) -> None:
    script = folder / "servers.py"
    script.write_text(SERVERS)
    argv = [sys.executable, str(script), str(folder), str(uses_watcher)]
    former: list[int] = []
    addresses = set()
    for _ in range(RUNS):
        with subprocess.Popen(argv, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                pids = [int(word) for word in process.stdout.readline().split()]
                assert len(pids) == 2
                assert all(is_gone(pid) for pid in former), "two servers on the same data"
                with pytest.raises(DataInUseError, match=rf"another quotagate \(process {process.pid}\) uses"):
                    lock_data(folder)
            finally:
                process.kill()
        former = pids
        addresses.add((folder / "valkey.port").read_text() + (folder / "postgres.port").read_text())
    assert len(addresses) == 1
    for pid in former:
        eventually(lambda pid=pid: is_gone(pid), "the servers to go")  # type: ignore[misc]
    with lock_data(folder), Supervisor() as supervisor, start_valkey(supervisor, folder) as client:
        engine = start_postgres(supervisor, EmbeddedPostgres.prepare(folder / "postgres", folder / "postgres.log"))
        assert client.get("runs") == str(RUNS).encode()
        assert ask(engine, "select count(*) from runs") == RUNS


def test_a_server_that_lingers_keeps_others_from_its_data(folder: Path) -> None:
    cluster = EmbeddedPostgres.prepare(folder / "postgres", folder / "postgres.log")
    with Supervisor(uses_watcher=False) as supervisor:
        start_valkey(supervisor, folder).close()
        start_postgres(supervisor, cluster)
        for name in ("valkey", "postgres"):
            with pytest.raises(PartError, match=rf"an earlier run still holds .*{name}\.lock after 0.1 s"):
                wait_for_lock(folder / f"{name}.lock", 0.1)
    for name in ("valkey", "postgres"):
        wait_for_lock(folder / f"{name}.lock", 0.0)


def test_a_missing_wheel_is_explained_with_the_setting_to_use_instead(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(EmbeddedServerError, match="no wheel for this platform; set QUOTAGATE_REDIS_URL"):
        valkey_part(folder / "valkey", 20_000, folder / "log", password="secret")
    with pytest.raises(EmbeddedServerError, match="no wheel for this platform; set QUOTAGATE_DATABASE_URL"):
        EmbeddedPostgres.prepare(folder / "postgres", folder / "log")

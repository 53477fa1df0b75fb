"""What `quotagate doctor` finds, on real servers: each finding says what is wrong and what to do."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from click.testing import CliRunner
from sqlalchemy import Engine, NullPool, create_engine, text

from ledger import incidents, schema
from ledger.store import ALL_TENANTS, connect, transaction
from quota import keys
from quota.lives import Looking
from quotagate.cli import main
from quotagate.doctor import run_doctor
from tests.conftest import SHARDS, Database, Stores
from tests.integration.at_work import put_all

NOBODY = "redis://127.0.0.1:1/0"
NOWHERE = "postgresql://nobody:nothing@127.0.0.1:1/nothing"
RUN = (
    "INSERT INTO reconciliations (started_at, finished_at, accounts, drifted, corrected, undrained_entries, lag_ms,"
    " incidents, drifts, refusal) VALUES (now(), now(), 1, 1, 0, 0, 0, 0, '[]', {})"
)


JOURNAL_IS_NONE = "the journal of shard 2 in Redis is something else, and no shard's entries are drained"

COMMANDS = {"reconcile": 2, "rebuild": 0}


class Doctor:
    """Asks the doctor about an empty Redis and a fresh ledger, with other settings where they are given."""

    def __init__(self, usual: dict[str, str], folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self._usual, self._folder, self._capsys = usual, folder, capsys
        self.notes: list[str] = []

    def __call__(self, *, incidents_h: int = 24, **settings: str) -> list[str]:
        """Its findings; its notes are kept."""
        environment = {f"QUOTAGATE_{name.upper()}": value for name, value in (self._usual | settings).items()}
        count = run_doctor(environment, self._folder, incidents_h=incidents_h, as_json=True)
        (line,) = self._capsys.readouterr().out.splitlines()
        told = json.loads(line)
        assert count == len(told["findings"])
        self.notes = told["notes"]
        return list(told["findings"])


@pytest.fixture(scope="module")
def database(shared_database: Database) -> Database:
    return shared_database


@pytest.fixture(autouse=True)
def owner(database: Database) -> Iterator[Engine]:
    engine = create_engine(database.owner_url, poolclass=NullPool)
    yield engine
    do(engine, "TRUNCATE incidents, reconciliations, tenants, balances")
    engine.dispose()


@pytest.fixture
def doctor(
    stores: Stores,
    connection: "redis.Redis",
    database: Database,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> Doctor:
    put_all(connection)
    usual = {"redis_url": stores.redis_url, "database_url": database.application_url, "journal_entries": "1000"}
    return Doctor(usual, tmp_path, capsys)


def do(owner: Engine, *statements: str) -> None:
    with owner.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))


def test_a_fresh_deployment_has_nothing(doctor: Doctor) -> None:
    assert doctor() == []


def test_nobody_at_work_is_told_before_anything_waits(doctor: Doctor, connection: "redis.Redis") -> None:
    connection.delete("rq:workers:quotagate-jobs")
    (finding,) = doctor()
    assert finding == "no worker of the role jobs is registered: start `quotagate worker --role jobs`"
    (away,) = doctor(broker_url=NOBODY)
    assert away.startswith("the broker cannot be reached: ")


def test_the_login_of_the_application_may_ask_for_the_archive(database: Database) -> None:
    engine = connect(database.application_url, pool_size=1)
    with transaction(engine, ALL_TENANTS) as connection:
        assert schema.archived(connection) == (None, None)
    engine.dispose()


def test_it_says_so_in_words_as_well(
    stores: Stores,
    connection: "redis.Redis",
    database: Database,
    owner: Engine,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    put_all(connection)
    urls = {"QUOTAGATE_REDIS_URL": stores.redis_url, "QUOTAGATE_DATABASE_URL": database.application_url}
    assert run_doctor(urls, tmp_path, incidents_h=24, as_json=False) == 0
    assert capsys.readouterr().out == "✓ Redis and Postgres can keep what the gateway acknowledges.\n"
    assert run_doctor(urls | {"QUOTAGATE_REDIS_URL": NOBODY}, tmp_path, incidents_h=24, as_json=False) == 1
    assert capsys.readouterr().out.startswith("✗ Redis cannot be reached: ")
    do(owner, "INSERT INTO incidents (shard, kind, detail) VALUES (1, 'lost', '{}')")
    do(owner, RUN.format("NULL").replace("1, 1, 0", "1, 0, 0").replace("now()", "clock_timestamp()"))
    assert run_doctor(urls, tmp_path, incidents_h=24, as_json=False) == 0
    note, verdict = capsys.readouterr().out.splitlines()
    assert note.startswith("· 1 incident `lost` in the last 24 h") and verdict.startswith("✓ ")


def test_whichever_store_is_away_hides_nothing_of_the_other(doctor: Doctor, owner: Engine) -> None:
    do(owner, "INSERT INTO incidents (shard, kind, detail) VALUES (1, 'gap', '{}')")
    counters, gap = doctor(redis_url=NOBODY)
    assert counters.startswith("Redis cannot be reached: ")
    assert "1 incident `gap` in the last 24 h" in gap
    (ledger,) = doctor(database_url=NOWHERE)
    assert "the ledger cannot be reached" in ledger
    assert len(doctor(redis_url=NOBODY, database_url=NOWHERE)) == 2


def test_a_login_that_may_change_the_past_is_told(doctor: Doctor, database: Database) -> None:
    (finding,) = doctor(database_url=database.owner_url)
    assert "owns or may change the ledger's entries" in finding
    assert "use a login that is only a member of quotagate_app" in finding


def test_a_redis_of_another_ledger_is_told(doctor: Doctor, connection: "redis.Redis") -> None:
    connection.hset(keys.head(3), mapping={"epoch": 1, "store": "another"})
    (finding,) = doctor()
    assert "this Redis holds the counters of another ledger" in finding


def test_incidents_are_counted_by_kind_with_what_to_do(doctor: Doctor, owner: Engine) -> None:
    old = "INSERT INTO incidents (shard, kind, detail, found_at) VALUES (1, 'lost', '{}', now() - interval '25 hours')"
    new = "INSERT INTO incidents (shard, kind, detail) SELECT 1, kind, '{}' FROM unnest(ARRAY[%s]) AS kind"
    do(owner, old, new % ", ".join(f"'{kind}'" for kind in [*incidents.WHAT_TO_DO, "gap", "of_a_new_kind"]))
    found = doctor()
    assert len(found) == len(incidents.WHAT_TO_DO) + 1
    (gap,) = [each for each in found if "`gap`" in each]
    assert "2 incidents `gap` in the last 24 h, the newest at 20" in gap
    assert incidents.WHAT_TO_DO["gap"] in gap
    (lost,) = [each for each in doctor(incidents_h=48) if "`lost`" in each]
    assert lost.startswith("2 incidents `lost` in the last 48 h")
    assert doctor(incidents_h=0) == []


def test_a_loss_that_has_healed_by_itself_is_a_note_and_no_finding(doctor: Doctor, owner: Engine) -> None:
    lost = "INSERT INTO incidents (shard, kind, detail, found_at) VALUES (1, '{}', '{{}}', now() - interval '1 minute')"
    do(owner, lost.format("lost"), lost.format("rewound"), lost.format("lost_entries"))
    assert len(doctor()) == 3, "nobody has compared the counters since"
    do(owner, RUN.format("NULL").replace("now()", "now() - interval '2 minutes'"))
    assert len(doctor()) == 3, "nobody has since, still"
    do(owner, RUN.format("NULL"))
    assert len(doctor()) == 3, "one account differs"
    do(owner, RUN.format("NULL").replace("1, 1, 0", "1, 1, 1"))
    (finding,) = doctor()
    assert "`lost_entries`" in finding, "whoever was told of them must be thought of"
    assert sorted(each.split("`")[1] for each in doctor.notes) == ["lost", "rewound"]
    assert "the reconciliation since has left no counter that differs" in doctor.notes[0]
    do(owner, lost.format("lost").replace("- interval '1 minute'", ""))
    assert len(doctor()) == 2, "and again"


def test_a_refusal_to_correct_is_told_while_it_lasts(doctor: Doctor, owner: Engine) -> None:
    do(owner, RUN.format("'200 of 300 accounts differ'"))
    (finding,) = doctor()
    assert finding.startswith("the last reconciliation has corrected nothing: 200 of 300 accounts differ; ")
    assert "--correct-all" in finding
    do(owner, RUN.format("NULL"))
    assert doctor() == []


def test_nobody_who_reconciles_is_noticed(doctor: Doctor, owner: Engine) -> None:
    do(owner, "INSERT INTO tenants (tenant, created_at) VALUES ('t', now() - interval '9 minutes')")
    assert doctor() == []
    do(owner, "UPDATE tenants SET created_at = now() - interval '11 minutes'")
    (finding,) = doctor()
    assert finding.startswith("nothing was reconciled for 66")
    assert "are `quotagate worker` and `quotagate scheduler` running?" in finding
    assert doctor(reconcile_every_s="3600") == []


def test_a_redis_whose_clock_is_wrong_does_not_make_a_worker_idle(
    doctor: Doctor, owner: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    do(owner, RUN.format("NULL").replace("now()", "now() - interval '2 hours'"))
    (finding,) = doctor()
    assert finding.startswith("nothing was reconciled for 72")

    async def two_hours_ago(_: Looking) -> int:
        return int(time.time() - 7_200) * 1000

    monkeypatch.setattr(Looking, "now_ms", two_hours_ago)
    of_postgres, of_this_machine = doctor()
    assert of_postgres.startswith("Postgres's clock is 720") and "s ahead of Redis's" in of_postgres
    assert of_this_machine.startswith("this machine's clock is 720") and "have NTP set" in of_this_machine


def test_what_works_and_is_unsafe_all_the_same_is_told_of_real_servers(
    doctor: Doctor, connection: "redis.Redis", owner: Engine
) -> None:
    used = int(connection.info("memory")["used_memory"])
    name = owner.url.database
    connection.config_set("maxmemory", used + used // 10)
    do(owner, f'ALTER DATABASE "{name}" SET synchronous_commit = off')
    try:
        of_secret, of_budget, of_room, of_commits = doctor(key_pepper="change-this-pepper", journal_entries="5000000")
    finally:
        connection.config_set("maxmemory", 0)
        do(owner, f'ALTER DATABASE "{name}" RESET synchronous_commit')
    assert "QUOTAGATE_KEY_PEPPER is one that everybody knows" in of_secret
    assert "raise maxmemory" in of_budget and "% of its maxmemory" in of_room
    assert "synchronous_commit is off" in of_commits
    assert doctor() == []


def test_a_journal_that_is_half_full_is_told_before_requests_are_refused(
    doctor: Doctor, connection: "redis.Redis"
) -> None:
    for n in range(SHARDS * 63):
        connection.xadd(keys.journal(n % SHARDS), {"line": "x"})
    (finding,) = doctor()
    assert finding.startswith("504 entries wait for the ledger, of 1,000 that may (QUOTAGATE_JOURNAL_ENTRIES)")
    assert doctor(journal_entries="2000") == []


def test_periods_that_wait_to_be_sealed_are_told_after_an_hour(doctor: Doctor, owner: Engine) -> None:
    ended = (
        "INSERT INTO balances (tenant, subject, metric, period_kind, period_start, period_end, used, shard, epoch, n) "
        "VALUES ('t', '{0}', 'm', 'day', now() - interval '3 days', now() - interval '{0}', 0, 1, 1, 1)"
    )
    do(owner, ended.format("59 minutes"))
    assert doctor() == []
    do(owner, ended.format("61 minutes"), ended.format("30 hours"))
    (finding,) = doctor()
    assert finding.startswith("2 periods that are over wait to be sealed, the oldest for 30 h: ")


def test_months_that_nobody_has_made_are_told(doctor: Doctor, owner: Engine) -> None:
    with owner.connect() as connection:
        query = "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'entries'::regclass ORDER BY 1"
        names = connection.execute(text(query)).scalars().all()
    do(owner, *(f"DROP TABLE {name}" for name in names[2:]))
    (finding,) = doctor()
    assert "no partition for the coming month" in finding
    do(owner, "SELECT make_partitions(12)")
    assert doctor() == []


def test_a_journal_that_is_something_else_is_told_and_ends_no_command_with_a_stack_trace(
    doctor: Doctor, stores: Stores, database: Database, connection: "redis.Redis", tmp_path: Path
) -> None:
    connection.set(keys.journal(2), "no stream")
    assert [each for each in doctor() if each.startswith(JOURNAL_IS_NONE)] == doctor()
    environment = {"QUOTAGATE_REDIS_URL": stores.redis_url, "QUOTAGATE_DATABASE_URL": database.application_url}
    said = [CliRunner().invoke(main, [each, "--data", str(tmp_path)], env=environment) for each in COMMANDS]
    assert [each.exit_code for each in said] == list(COMMANDS.values()), said
    assert said[0].stderr.startswith("quotagate: Redis: ") and "WRONGTYPE" in said[0].stderr

"""With the archived months beside it, the ledger reads as if none had ever left it."""

import json
import signal
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from ledger import archive_reading, replay, replay_balances, replay_buckets, replay_verification
from ledger.archive_files import csv_file, manifest_file, name_of
from quota.catalog import parse_toml, to_document
from quota.errors import InvalidRequest, NotFound
from quotagate.ledger_export import Output
from quotagate.ledger_running import balances_at, run_job
from tests.integration.archiving import History
from tests.integration.replaying import as_owner

CATALOG = """
default_plan = "free"
[metrics.m]
[metrics.n]
[metrics.ever]
[metrics.slept]
[plans.free.limits]
m = { limit = 10, period = "month" }
n = { limit = 2, period = "month" }
ever = { limit = 40 }
slept = { limit = 3 }
"""


class Told:
    """What each command tells of a ledger, in as small steps as there are."""

    def __init__(self, history: History, archived: Path | None) -> None:
        self.history, self.archived = history, archived

    def run(self, name: str, **asked: Any) -> tuple[dict[str, Any], list[Any]]:
        found: list[Any] = []
        how: dict[str, Any] = {"resume": None, "is_quiet": True, "archived": self.archived, "show": found.extend}
        asked = {"step_entries": 10, **asked}
        return run_job(self.history.environment, self.history.folder, name, asked, **how).result, found

    def verify(self) -> dict[str, Any]:
        return self.run("verify")[0]

    def replay(self, at_ms: int) -> list[Any]:
        return self.run("replay", at_ms=at_ms)[1]

    def export(self) -> bytes:
        file = self.history.folder / "export.csv"
        asked = {"from_ms": 0, "to_ms": self.history.now_ms, "form": "csv", "step_entries": 10}
        with Output(file) as output:
            how: dict[str, Any] = {"resume": None, "is_quiet": True, "archived": self.archived}
            run_job(self.history.environment, self.history.folder, "export", asked, output=output, **how)
        return file.read_bytes()

    def simulate(self) -> tuple[dict[str, Any], list[Any]]:
        catalog = to_document(parse_toml(CATALOG))
        stretch = {"from_ms": self.history.at_ms(self.history.months[0], 1), "to_ms": self.history.now_ms}
        return self.run("simulate", tenant="t", catalog=catalog, **stretch)

    def balance(self, at_ms: int) -> list[Any]:
        asked: dict[str, Any] = {"tenant": "t", "subject": "u", "metric": None, "at_ms": at_ms}
        return balances_at(self.history.environment, self.history.folder, archived=self.archived, **asked)

    def everything(self) -> list[Any]:
        first, second, _ = self.history.months
        instants = [self.history.at_ms(month, day) for month, day in ((first, 10), (first, 20), (second, 6))]
        balances = [(self.replay(at_ms), self.balance(at_ms)) for at_ms in instants]
        return [self.verify(), self.export(), self.simulate(), *balances]


def test_every_command_tells_what_it_told_before(history: History) -> None:
    before = Told(history, None).everything()
    assert before[0]["differing"] == 0
    assert before[2][0]["denied"] > 3
    history.archive(2, drop=True)
    assert Told(history, history.folder).everything() == before


def test_the_newest_months_are_enough_and_before_them_what_is_carried_holds(history: History, tmp_path: Path) -> None:
    before = Told(history, None)
    since = history.at_ms(history.months[1], 6)
    wanted = (before.replay(since), before.balance(since))
    history.archive(3)
    newest = tmp_path / "newest"
    newest.mkdir()
    for month in history.months[1:]:
        for file in (csv_file(history.folder, month), manifest_file(history.folder, month)):
            file.rename(newest / file.name)
    told = Told(history, newest)
    assert (told.replay(since), told.balance(since)) == wanted
    found = told.verify()
    assert (found["differing"], found["carried"], found["chain"]["archived"]) == (0, 24, 24)
    with pytest.raises(InvalidRequest, match="--archive DIR"):
        told.balance(history.at_ms(history.months[0], 13))
    csv_file(newest, history.months[1]).with_name(manifest_file(newest, history.months[2]).name).unlink()
    with pytest.raises(InvalidRequest, match=f"lacks {name_of(history.months[2])}"):
        told.verify()


def test_a_folder_that_is_not_what_was_archived_is_refused(history: History, tmp_path: Path) -> None:
    month = history.months[0]
    history.archive(1)
    with pytest.raises(InvalidRequest, match="has no month that was archived"):
        Told(history, tmp_path / "export").history.folder.joinpath("none").mkdir()
        Told(history, tmp_path / "none").verify()
    whole = csv_file(history.folder, month).read_bytes()
    csv_file(history.folder, month).write_bytes(whole + b"\0")
    with pytest.raises(InvalidRequest, match="its sha256 is another"):
        Told(history, history.folder).verify()
    csv_file(history.folder, month).write_bytes(whole)
    as_owner(history.database, "UPDATE archives SET sha256 = repeat('0', 64)")
    with pytest.raises(InvalidRequest, match="is not what was archived from this ledger"):
        Told(history, history.folder).verify()


def test_an_archive_that_was_forged_with_all_its_sums_breaks_the_chain(history: History) -> None:
    """The owner takes a month back, edits it, and archives it again: the links were made before."""
    as_owner(history.database, "UPDATE entries SET reason = 'another' WHERE n = 3")
    history.archive(1)
    assert Told(history, None).verify()["differing"] == 0
    (found,) = [each for each in Told(history, history.folder).verify()["differences"] if "link" in each]
    assert (found["what"], found["entry"], found["metric"]) == ("changed", "3.1-3", "m")


def test_a_job_goes_on_with_the_same_archive_alone(history: History) -> None:
    history.archive(1)
    job = history.pipeline.call(
        lambda connection: connection.execute(
            text(
                "INSERT INTO jobs (tenant, job, arguments, requested_by) "
                "VALUES ('*', 'replay', CAST(:arguments AS jsonb), 'cli') RETURNING id"
            ),
            {"arguments": json.dumps({"at_ms": history.now_ms, "archived": [name_of(history.months[0])]})},
        ).scalar_one()
    )
    environment, folder = history.environment, history.folder
    with pytest.raises(InvalidRequest, match="go on with the same --archive"):
        run_job(environment, folder, "replay", {}, resume=str(job), is_quiet=True)
    done = run_job(environment, folder, "replay", {}, resume=str(job), is_quiet=True, archived=folder)
    assert done.result["balances"] == 5
    with pytest.raises(NotFound):
        run_job(environment, folder, "replay", {}, resume="00000000-0000-4000-8000-000000000000", is_quiet=True)


def test_a_stopped_job_says_which_archive_it_goes_on_with(history: History, capsys: pytest.CaptureFixture[str]) -> None:
    history.archive(1)
    asked = {"step_entries": 1, "at_ms": history.now_ms}

    def stop(_: Any) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(SystemExit):
        how: dict[str, Any] = {"resume": None, "is_quiet": True, "archived": history.folder, "show": stop}
        run_job(history.environment, history.folder, "replay", asked, **how)
    said = capsys.readouterr().err.split()
    assert said[said.index("--archive") + 1] == said[said.index("--data") + 1] == str(history.folder)


def test_a_tenant_sees_only_its_own_of_what_was_archived(history: History) -> None:
    history.archive(1)
    read = archive_reading.months_to_read(history.pipeline.engine, history.folder)
    engine = archive_reading.connect_with(history.database.application_url, read)
    for tenant, seen in ((None, 48), ("t", 48), ("other", 0)):
        with replay.snapshot(engine, tenant) as connection:
            assert connection.execute(text("SELECT count(*) FROM entries")).scalar_one() == seen
    engine.dispose()


def test_a_step_still_reads_its_own_accounts_alone(history: History) -> None:
    """The two parts are merged in the order of an index each, and nothing is sorted as a whole."""
    history.archive(2)
    read = archive_reading.months_to_read(history.pipeline.engine, history.folder)
    engine = archive_reading.connect_with(history.database.application_url, read)
    with replay.snapshot(engine, None) as connection:
        span = replay.whole(connection, None, None)
        assert span is not None
        now = datetime.now(UTC)
        parameters = replay.first_part(connection, span, 3).parameters()
        parameters |= {"most": 10, "at": now, "since": now, "since_ms": 0, "entries": 3}  # type: ignore[dict-item]
        statements = (replay_verification._lines, replay_buckets.CAPS, replay_buckets.GRANTS, replay_buckets.HOLDS)
        for statement in (*statements, replay_balances._balances, replay._border):
            lines = [row[0] for row in connection.execute(text("EXPLAIN " + statement.text), parameters)]
            scans = [line for line in lines if "Scan" in line and ("entries_" in line)]
            assert scans
            assert [line for line in scans if "Index" not in line or "_subject_metric_epoch_n_" not in line] == []
            assert any("Merge Append" in line for line in lines), "\n".join(lines)
    engine.dispose()

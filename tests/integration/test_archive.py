"""Old months leave the ledger for a file: what is left is right without them, and with them it is as it was."""

from typing import Any

import psycopg
import pytest
from sqlalchemy.exc import ProgrammingError

from ledger import archive, balances_at, replay_balances, replay_verification
from ledger.archive_files import csv_file, manifest_file
from quota.errors import Conflict, InvalidRequest, Unsafe
from tests.conftest import Database
from tests.integration.archiving import History
from tests.integration.pipeline import Crashed, crash
from tests.integration.replaying import as_owner, through


def verified(history: History) -> dict[str, Any]:
    return through(history.pipeline, replay_verification.step)[0]


def balances(history: History) -> list[Any]:
    return through(history.pipeline, replay_balances.step, at_ms=history.now_ms)[1]


def months_left(history: History) -> int:
    return int(history.pipeline.rows("SELECT count(DISTINCT date_trunc('month', occurred_at)) FROM entries")[0][0])


def tables(history: History) -> set[str]:
    rows = history.pipeline.rows("SELECT relname FROM pg_class WHERE relname ~ '^(archived|entries)_[0-9_]+$'")
    return {name for (name,) in rows}


CHANGES = (
    ("UPDATE balances SET used = used + 1 WHERE metric = 'ever'", ("balance", "ever", 73, 72)),
    ("DELETE FROM balances WHERE metric = 'n'", ("balance", "n", None, 5)),
    ("UPDATE carried SET change = 4 WHERE metric = 'slept'", ("balance", "slept", 5, 4)),
    ("UPDATE cap_balances SET used = used + 1 WHERE metric = 'm'", ("cap", "m", 26, 25)),
    ("UPDATE grant_balances SET used = used + 1", ("grant", "n", 3, 2)),
)


class TestWhatStaysBehind:
    def test_the_ledger_is_verified_and_replayed_as_before(self, history: History) -> None:
        before, figures = balances(history), verified(history)
        assert (figures["differing"], figures["carried"], figures["chain"]["unlinked"]) == (0, 0, 0)
        for months in (1, 2, 3):
            history.archive(months)
            after = verified(history)
            assert (after["differing"], after["differences"], after["balances"]) == (0, [], figures["balances"])
            assert after["entries"] + after["carried"] == figures["entries"]
            assert after["chain"]["archived"] == after["carried"]
            assert after["chain"]["linked"] == after["entries"]
            assert after["chain"]["heads"] == figures["chain"]["heads"]
            assert balances(history) == before
            assert months_left(history) == 4 - months

    def test_a_balance_that_was_changed_afterwards_is_found(self, history: History) -> None:
        history.archive(3)
        as_owner(history.database, *(change for change, _ in CHANGES))
        differences = verified(history)["differences"]
        found = [(each["what"], each["metric"], each["stated"], each["added_up"]) for each in differences]
        assert found == [difference for _, difference in CHANGES]

    def test_an_entry_that_was_deleted_is_not_taken_for_an_archived_one(self, history: History) -> None:
        history.archive(2)
        ((epoch, n),) = history.pipeline.rows("SELECT epoch, n FROM entries ORDER BY epoch, n LIMIT 1")
        as_owner(history.database, f"DELETE FROM entries WHERE n = {n}")
        found = verified(history)
        assert ("deleted", f"3.{epoch}-{n}") in {(each["what"], each.get("entry")) for each in found["differences"]}
        assert found["chain"]["archived"] == found["carried"]

    def test_a_step_is_bounded_by_balances_too(self, history: History) -> None:
        history.archive(3)
        _, found, steps = through(history.pipeline, replay_balances.step, at_ms=history.now_ms, step_entries=1)
        assert found == balances(history)
        assert steps == 3

    def test_what_was_archived_is_refused_in_words_that_say_how_to_read_it(self, history: History) -> None:
        history.archive(2)
        with pytest.raises(InvalidRequest, match="--archive DIR"):
            through(history.pipeline, replay_balances.step, at_ms=history.at_ms(history.months[1]))
        with pytest.raises(InvalidRequest, match="--archive DIR"):
            history.pipeline.call(
                replay_balances.at_instant, "t", "u", None, history.at_ms(history.months[2], 1) - 3_600_000
            )
        (found,) = history.pipeline.call(
            replay_balances.at_instant, "t", "u", "ever", history.at_ms(history.months[2], 6)
        )
        assert found["used"] == 5 * 9

    def test_the_status_of_an_account_that_has_slept_since_is_still_told(self, history: History) -> None:
        def status(at_ms: int) -> list[Any]:
            found = history.pipeline.call(balances_at.at_instant, "t", "u", at_ms)
            return [(row.metric, row.used, row.plan, row.epoch, row.n) for row in found]

        since = history.at_ms(history.months[2], 7)
        before = [status(at_ms) for at_ms in (since, history.now_ms)]
        assert [metric for metric, *_ in before[0]] == ["ever", "slept"]
        history.archive(2)
        assert [status(at_ms) for at_ms in (since, history.now_ms)] == before
        with pytest.raises(InvalidRequest, match="were archived"):
            status(history.at_ms(history.months[1]))

    def test_the_application_can_read_neither_the_detached_table_nor_change_what_is_noted(
        self, history: History
    ) -> None:
        history.archive(1)
        name = f"archived_{history.months[0]:%Y_%m}"
        for statement in (
            f"SELECT * FROM {name}",
            "UPDATE archives SET entries = 0 RETURNING 1",
            "DELETE FROM carried RETURNING 1",
            "INSERT INTO archives (month, entries, sha256, places, archived_by) VALUES (now(), 0, '', '{}', '') "
            "RETURNING 1",
        ):
            with pytest.raises(ProgrammingError, match="permission denied"):
                history.pipeline.rows(statement)


class TestRefusals:
    def test_the_current_month_and_the_last_are_never_archived(self, history: History) -> None:
        for before in (4, 5, 6):
            with pytest.raises(InvalidRequest, match="still written"):
                history.archive(before)
        assert months_left(history) == 4

    def test_a_month_with_a_period_that_is_not_sealed_is_refused(self, history: History) -> None:
        as_owner(
            history.database, "UPDATE balances SET is_sealed = false WHERE period_start > '1971-01-01' AND metric = 'm'"
        )
        with pytest.raises(Conflict, match=r"1 periods .* not sealed, that of t u m"):
            history.archive(3)
        assert (months_left(history), list(history.folder.iterdir())) == (4, [])

    def test_a_month_with_an_open_hold_is_refused_and_those_before_it_are_done(self, history: History) -> None:
        since = history.months[1].isoformat()
        as_owner(
            history.database,
            "UPDATE holds SET settled_by = NULL WHERE (epoch, n) = (SELECT epoch, n FROM entries WHERE kind = 'hold' "
            f"AND occurred_at >= '{since}' ORDER BY epoch, n LIMIT 1)",
        )
        with pytest.raises(Conflict, match="1 of its holds are not settled, one of t u ever"):
            history.archive(3)
        assert months_left(history) == 3

    def test_a_month_that_is_not_in_the_chain_is_refused(self, history: History) -> None:
        as_owner(history.database, "DELETE FROM links WHERE seq > 0")
        with pytest.raises(Conflict, match="24 of its entries are not in the chain"):
            history.archive(1)

    def test_whoever_does_not_own_the_ledger_is_refused(self, history: History) -> None:
        history.database = Database(history.database.application_url, history.database.application_url)
        with pytest.raises(Unsafe, match="QUOTAGATE_OWNER_DATABASE_URL"):
            history.archive(1)

    def test_a_file_that_differs_from_the_ledger_is_kept_and_the_month_too(
        self, history: History, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(archive, "take_out", crash)
            with pytest.raises(Crashed):
                history.archive(1)
        written = csv_file(history.folder, history.months[0]).read_bytes()
        as_owner(history.database, "UPDATE entries SET amount = amount + 1 WHERE n = 3")
        with pytest.raises(Conflict, match="differs from what the ledger has"):
            history.archive(1)
        assert csv_file(history.folder, history.months[0]).read_bytes() == written
        assert months_left(history) == 4

    @pytest.mark.parametrize("damage", ["csv", "manifest"])
    def test_a_file_that_does_not_read_back_takes_no_month_out(
        self, history: History, monkeypatch: pytest.MonkeyPatch, damage: str
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr(archive, "take_out", crash)
            with pytest.raises(Crashed):
                history.archive(1)
        month = history.months[0]
        if damage == "csv":
            whole = csv_file(history.folder, month).read_bytes()
            csv_file(history.folder, month).write_bytes(whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:])
        else:
            manifest_file(history.folder, month).write_text("{}")
        with pytest.raises(InvalidRequest, match=r"is not what its manifest says|is no manifest"):
            history.archive(1)
        assert months_left(history) == 4


class TestKilled:
    @pytest.mark.parametrize(
        "killed_in",
        [
            "ledger.archive_files.sha256_of",  # the CSV is whole, and there is no manifest
            "ledger.archive.take_out",  # both are there
            "ledger.archive.carry",  # in the transaction that takes the month out
            "ledger.archive._detach",
            "ledger.archive.drop",  # taken out, and its table is left
        ],
    )
    def test_killed_at_any_step_it_goes_on_rightly(
        self, history: History, monkeypatch: pytest.MonkeyPatch, killed_in: str
    ) -> None:
        before, entries = balances(history), verified(history)["entries"]
        with monkeypatch.context() as patched:
            patched.setattr(killed_in, crash)
            with pytest.raises(Crashed):
                history.archive(2, drop=True)
        half = verified(history)
        assert (half["differing"], half["entries"] + half["carried"]) == (0, entries)
        assert balances(history) == before
        history.archive(2, drop=True)
        done = verified(history)
        assert (done["differing"], done["entries"] + done["carried"], months_left(history)) == (0, entries, 2)
        assert balances(history) == before
        assert not any(name.startswith("archived_") for name in tables(history))
        assert sorted(each.suffix for each in history.folder.iterdir()) == [".gz", ".gz", ".json", ".json"]
        assert history.archive(2, drop=True) == {"archived": [], "dropped": []}

    def test_killed_while_it_writes_it_leaves_no_file_of_that_name(
        self, history: History, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with monkeypatch.context() as patched:
            patched.setattr("os.fsync", crash)
            with pytest.raises(Crashed):
                history.archive(1)
        assert [each.name[-5:] for each in history.folder.iterdir()] == [".part"]
        assert [each["entries"] for each in history.archive(1)["archived"]] == [24]

    def test_two_at_once_do_not_meet(self, history: History) -> None:
        with psycopg.connect(history.database.owner_url.replace("+psycopg", "", 1)) as other:
            other.execute("SELECT pg_advisory_xact_lock(7261004)")
            with pytest.raises(Conflict, match="somebody else archives"):
                history.archive(1)

    def test_a_reader_that_does_not_end_is_waited_for_and_then_left_alone(
        self, history: History, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(archive, "LOCK_TIMEOUT_MS", 20)
        monkeypatch.setattr(archive, "LOCK_TRIES", 2)
        monkeypatch.setattr(archive, "PAUSE_S", 0.01)
        with psycopg.connect(history.database.owner_url.replace("+psycopg", "", 1)) as reader:
            reader.execute("SELECT count(*) FROM entries")
            with pytest.raises(Exception, match="read entries without a pause"):
                history.archive(1)
        assert (months_left(history), verified(history)["carried"]) == (4, 0)
        history.archive(1)

    def test_a_dropped_table_needs_its_file(self, history: History) -> None:
        history.archive(1)
        csv_file(history.folder, history.months[0]).unlink()
        with pytest.raises(InvalidRequest, match="cannot read"):
            history.archive(1, drop=True)
        assert f"archived_{history.months[0]:%Y_%m}" in tables(history)

"""What an outage leaves to be done, as a real PostgreSQL keeps it: written down once, claimed by one, and settled."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
import structlog
from alembic import command
from sqlalchemy import Connection, NullPool, create_engine, text
from sqlalchemy.exc import DBAPIError

from ledger import outages, repeats, schema
from ledger.outages import LetThrough, LostReply, Note
from ledger.repeats import TakeBack
from ledger.store import ALL_TENANTS, connect, transaction
from tests.conftest import SHARDS, Database
from tests.integration.ledger_rows import note_take_back
from tests.unit.outage_scene import let_through as noted_let_through
from tests.unit.outage_scene import lost_reply as noted_lost_reply

LATER_MS = 2_000
"""Later than the instant until which the lost replies of these tests could be charged."""


def ident(n: int) -> str:
    return str(UUID(int=n))


def let_through(n: int, **changes: Any) -> LetThrough:
    return noted_let_through("r", id=ident(n), **changes)


def lost_reply(n: int, **changes: Any) -> LostReply:
    return noted_lost_reply("r", id=ident(n), **changes)


class Ledger:
    """The ledger of one test, with all that gateways do to what an outage left."""

    def __init__(self, url: str) -> None:
        self.engine = connect(url)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with transaction(self.engine, ALL_TENANTS) as connection:
            return function(connection, *arguments)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with transaction(self.engine, ALL_TENANTS) as connection:
            found = connection.execute(text(statement))
            return [tuple(row) for row in found] if found.returns_rows else []

    def keep(self, *notes: Note) -> None:
        self.call(outages.keep, notes)

    def claimed(self, most: int = 100) -> list[LetThrough]:
        return list(self.call(outages.claim_let_through, most))

    def make_due(self) -> None:
        for table in ("outage_charges", "lost_replies", "take_backs"):
            self.rows(f"UPDATE {table} SET next_try_at = now()")


@pytest.fixture
def ledger(database: Database) -> Iterator[Ledger]:
    ledger = Ledger(database.application_url)
    yield ledger
    ledger.engine.dispose()


class TestKeep:
    def test_notes_of_both_kinds_come_back_as_they_were(self, ledger: Ledger) -> None:
        whole = let_through(
            1,
            subject="org/a:b",
            charges={"a": 2**53 - 1, "b": 0},
            operation="reel",
            metadata={"n": 1.5, "text": "ü\n"},
            idempotency_key='"k"',
            route="consume/batch",
            fingerprint="f",
        )
        lost = lost_reply(2, subject="org/a:b", attempt="p.1#2", until_ms=1_999)
        ledger.keep(whole, lost, let_through(3))
        assert sorted(ledger.claimed(), key=lambda each: each.id) == [whole, let_through(3)]
        assert ledger.call(outages.claim_lost, LATER_MS, 100) == [lost]

    def test_what_is_written_already_stays_as_it_is(self, ledger: Ledger) -> None:
        ledger.keep(let_through(1), lost_reply(2))
        ledger.keep(let_through(1, subject="other"), lost_reply(2, subject="other"), let_through(3), let_through(3))
        assert [each.subject for each in ledger.claimed()] == ["u", "u"]
        assert [each.subject for each in ledger.call(outages.claim_lost, LATER_MS, 100)] == ["u"]

    @pytest.mark.parametrize("bad", [noted_let_through("r", id="no name"), noted_lost_reply("r", id="no name")])
    def test_all_are_written_or_none(self, ledger: Ledger, bad: Note) -> None:
        with pytest.raises(DBAPIError):
            ledger.keep(let_through(1), lost_reply(2), bad)
        assert ledger.rows("SELECT 1 FROM outage_charges UNION ALL SELECT 2 FROM lost_replies") == []

    def test_nothing_at_all_may_be_kept(self, ledger: Ledger) -> None:
        ledger.keep()
        assert ledger.claimed() == []


@dataclass(frozen=True)
class Work:
    """A table of work that waits: how it comes to have rows, how they are claimed, by which numbers."""

    table: str
    add: Callable[[Ledger, int], object]
    claim: Callable[[Connection, int], list[int]]


def take_back(n: int) -> TakeBack:
    return TakeBack("t", 3, 1, n, 1, "consume", "repeated idempotency key")


KINDS = [
    Work(
        "outage_charges",
        lambda ledger, n: ledger.keep(let_through(n)),
        lambda connection, most: [UUID(each.id).int for each in outages.claim_let_through(connection, most)],
    ),
    Work(
        "lost_replies",
        lambda ledger, n: ledger.keep(lost_reply(n)),
        lambda connection, most: [UUID(each.id).int for each in outages.claim_lost(connection, LATER_MS, most)],
    ),
    Work(
        "take_backs",
        lambda ledger, n: ledger.call(note_take_back, take_back(n)),
        lambda connection, most: [each.first_n for each in repeats.claim(connection, most)],
    ),
]


@pytest.mark.parametrize("work", KINDS, ids=lambda work: work.table)
class TestClaims:
    def test_what_was_claimed_is_not_due_again_until_its_time(self, ledger: Ledger, work: Work) -> None:
        for n in range(3):
            work.add(ledger, n)
        assert sorted(ledger.call(work.claim, 100)) == [0, 1, 2]
        assert ledger.call(work.claim, 100) == []
        ledger.make_due()
        assert sorted(ledger.call(work.claim, 100)) == [0, 1, 2]

    def test_each_claim_lasts_twice_as_long_as_the_one_before_up_to_eight_seconds(
        self, ledger: Ledger, work: Work
    ) -> None:
        work.add(ledger, 1)
        lasted = []
        for _ in range(5):
            ledger.make_due()
            with transaction(ledger.engine, ALL_TENANTS) as connection:
                assert work.claim(connection, 1) == [1]
                wait = text(f"SELECT extract(epoch FROM next_try_at - now()) FROM {work.table}")
                lasted.append(int(connection.execute(wait).scalar_one()))
        assert lasted == [2, 4, 8, 8, 8]

    def test_two_who_claim_at_once_get_different_rows_and_neither_waits(self, ledger: Ledger, work: Work) -> None:
        for n in range(5):
            work.add(ledger, n)
        with (
            transaction(ledger.engine, ALL_TENANTS) as one,
            transaction(ledger.engine, ALL_TENANTS) as other,
        ):
            for each in (one, other):
                each.execute(text("SET LOCAL lock_timeout = '2s'"))
            first, second = work.claim(one, 3), work.claim(other, 3)
        assert (len(first), len(second), sorted(first + second)) == (3, 2, [0, 1, 2, 3, 4])

    def test_a_claim_that_is_broken_off_leaves_its_rows_due(self, ledger: Ledger, work: Work) -> None:
        work.add(ledger, 1)
        with pytest.raises(ZeroDivisionError), transaction(ledger.engine, ALL_TENANTS) as connection:
            work.claim(connection, 1)
            raise ZeroDivisionError
        assert ledger.call(work.claim, 1) == [1]

    def test_those_that_are_due_longest_are_claimed_first(self, ledger: Ledger, work: Work) -> None:
        for n in (3, 1, 2):
            work.add(ledger, n)
        assert [ledger.call(work.claim, 1) for _ in range(4)] == [[3], [1], [2], []]


class TestLetThrough:
    def test_what_is_settled_is_never_claimed(self, ledger: Ledger) -> None:
        ledger.keep(*(let_through(n) for n in range(4)))
        refusals = {ident(0): None, ident(2): "the catalog has no metric a", ident(3): "x" * 600}
        ledger.call(outages.settled, refusals)
        assert [each.id for each in ledger.claimed()] == [ident(1)]
        assert ledger.rows("SELECT refusal, settled_at IS NULL FROM outage_charges ORDER BY id") == [
            (None, False),
            (None, True),
            ("the catalog has no metric a", False),
            ("x" * 500, False),
        ]

    def test_what_was_settled_first_holds(self, ledger: Ledger) -> None:
        ledger.keep(let_through(1), let_through(2))
        ledger.call(outages.settled, {ident(1): None, ident(2): "crowded"})
        ledger.call(outages.settled, {ident(1): "crowded", ident(2): None})
        assert ledger.rows("SELECT refusal FROM outage_charges ORDER BY id") == [(None,), ("crowded",)]

    def test_one_that_nobody_can_read_keeps_no_other_waiting(self, ledger: Ledger) -> None:
        ledger.keep(let_through(1), let_through(2), let_through(3))
        ledger.rows(f"UPDATE outage_charges SET document = document - 'charges' WHERE id = '{ident(2)}'")
        with structlog.testing.capture_logs() as told:
            assert [each.id for each in ledger.claimed()] == [ident(1), ident(3)]
        assert [(each["log_level"], str(each["id"])) for each in told] == [("error", ident(2))]
        assert ledger.rows("SELECT tries FROM outage_charges") == [(1,)] * 3

    def test_what_was_settled_long_ago_is_forgotten_in_bounded_runs(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(outages, "MAX_FORGOTTEN", 2)
        ledger.keep(*(let_through(n) for n in range(5)))
        ledger.call(outages.settled, {ident(0): None, ident(1): "crowded", ident(2): None, ident(3): None})
        age = "now() - interval '30 days 1 minute'"
        ledger.rows(f"UPDATE outage_charges SET kept_at = {age}")
        ledger.rows(f"UPDATE outage_charges SET settled_at = {age} WHERE id < '{ident(3)}'")
        assert [ledger.call(outages.forget) for _ in range(3)] == [2, 1, 0]
        assert ledger.rows("SELECT id FROM outage_charges ORDER BY id") == [(UUID(int=3),), (UUID(int=4),)]


class TestLostReplies:
    def test_those_that_can_still_be_charged_are_left_alone(self, ledger: Ledger) -> None:
        ledger.keep(*(lost_reply(n, until_ms=n) for n in (1_000, 1_001, 1_002)))
        assert [each.until_ms for each in ledger.call(outages.claim_lost, 1_001, 100)] == [1_000]
        assert [each.until_ms for each in ledger.call(outages.claim_lost, 1_002, 100)] == [1_001]

    def test_those_that_were_looked_for_are_forgotten(self, ledger: Ledger) -> None:
        ledger.keep(*(lost_reply(n) for n in range(3)))
        ledger.call(outages.looked_for, [lost_reply(0), lost_reply(2), lost_reply(7)])
        assert ledger.rows("SELECT id FROM lost_replies") == [(UUID(int=1),)]


class TestWhatIsLeft:
    def test_nothing_is_left_of_nothing(self, ledger: Ledger) -> None:
        names = ("let_through", "lost_replies", "take_backs", "refused")
        assert ledger.call(outages.left) == dict.fromkeys(names, (0, 0.0))

    def test_each_is_counted_with_the_age_of_its_oldest(self, ledger: Ledger) -> None:
        ledger.keep(*(let_through(n) for n in range(6)), lost_reply(7))
        ledger.call(outages.settled, {ident(0): None, ident(1): "crowded"})
        for n in range(3):
            ledger.call(note_take_back, take_back(n))
        ledger.call(repeats.done, [take_back(0)])
        ledger.rows(f"UPDATE outage_charges SET kept_at = now() - interval '1 hour' WHERE id <= '{ident(2)}'")
        ledger.rows("UPDATE lost_replies SET noted_at = now() - interval '1 minute'")
        found = ledger.call(outages.left)
        assert {what: rows for what, (rows, _) in found.items()} == {
            "let_through": 4,
            "lost_replies": 1,
            "take_backs": 2,
            "refused": 1,
        }
        ages = {what: round(age_s / 60) for what, (_, age_s) in found.items()}
        assert ages == {"let_through": 60, "lost_replies": 1, "take_backs": 0, "refused": 60}


class TestMigration:
    """A gateway of revision 0003 was stopped in an outage; the next one finds what it left."""

    @pytest.fixture
    def older(self, database: Database) -> Iterator[Ledger]:
        owner = create_engine(database.owner_url, poolclass=NullPool)
        with owner.begin() as connection:
            connection.execute(text("DROP SCHEMA public CASCADE"))
            connection.execute(text("CREATE SCHEMA public"))
            config = schema._config()
            config.attributes["connection"] = connection
            command.upgrade(config, "0003")
        ledger = Ledger(database.owner_url)
        yield ledger
        ledger.engine.dispose()

    def test_what_waited_is_still_done_and_what_was_settled_is_not_done_again(self, older: Ledger) -> None:
        document = {"id": ident(1), "tenant": "t", "subject": "u", "at_ms": 1, "charges": {"m": 5}, "request_id": "r"}
        for n, settled_at in ((1, "NULL"), (2, "now()")):
            whole = json.dumps(document | {"id": ident(n)})
            older.call(
                lambda connection, n=n, whole=whole, settled_at=settled_at: connection.execute(
                    text(
                        "INSERT INTO outage_charges (id, tenant, subject, document, settled_at) "
                        f"VALUES (:id, 't', 'u', CAST(:document AS jsonb), {settled_at})"
                    ),
                    {"id": ident(n), "document": whole},
                )
            )
        older.rows(
            "INSERT INTO take_backs (tenant, shard, epoch, first_n, receipt_count, kind, reason, done_at) VALUES "
            "('t', 3, 1, 7, 1, 'consume', 'why', NULL), ('t', 3, 1, 8, 1, 'consume', 'why', now())"
        )
        schema.migrate(older.engine, SHARDS)
        assert older.claimed() == [let_through(1)]
        assert [each.first_n for each in older.call(repeats.claim, 10)] == [7]
        older.keep(lost_reply(3))
        assert older.call(outages.claim_lost, LATER_MS, 10) == [lost_reply(3)]

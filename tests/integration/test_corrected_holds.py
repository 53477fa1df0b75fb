"""Holds and grants that differ from the ledger are told once, and then they are what it says."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from ledger import grants
from ledger.acts import By
from quota.bulk import Bulk
from quota.periods import DAY_MS
from quota.protocol import Charge, Mode
from tests.conftest import Database
from tests.integration.held_account import ACCOUNT, CATALOG, PLANTED, HeldAccount
from tests.integration.pipeline import Crashed, crash
from tests.integration.resetting import Resetting
from tests.integration.test_corrections import found
from tests.system import eventually
from workers import reset as resetting
from workers.guard import Guard
from workers.reconcile import Reconcile

DEADLINE_S = 60.0


@pytest.fixture
def held(connection: "redis.Redis", database: Database) -> Iterator[HeldAccount]:
    with Resetting.on(connection, database, CATALOG) as scene:
        yield HeldAccount(scene)


def reconciled(held: HeldAccount) -> tuple[list[str], int]:
    """What was told, and how many accounts were corrected."""
    run = held.scene.pipeline.reconcile().run_once()
    return [what for _, what in found(run)], run.corrected


class TestPlanted:
    @pytest.mark.parametrize("kind", PLANTED)
    def test_what_the_ledger_says_is_in_the_hash_again_and_all_else_is_as_it_was(
        self, held: HeldAccount, kind: str
    ) -> None:
        held.assert_all_is_well()
        before, (plant, what) = held.but_its_entry(), PLANTED[kind]
        plant(held)
        assert held.but_its_entry() != before
        assert reconciled(held) == (what.format(held.grant).split(", "), 1)
        assert held.but_its_entry() == before
        held.assert_all_is_well()
        assert (held.settled_by(), held.ask(Mode.COMMIT, None, held.places[0]).outcome) == ([None, None], "allowed")
        held.assert_all_is_well()

    def test_it_is_journalled_with_the_reason_and_moves_nothing(self, held: HeldAccount) -> None:
        at = held.hash()["state"].split(" ")[1]
        held.lose(held.places[1])
        reconciled(held)
        said = f"the counter said 25 at entry {held.shard.number}.{at}, and the ledger 25"
        assert held.corrections() == [(0, 0, 25, "was:25", f"{said}; of holds 1, and the ledger 3")]

    def test_one_whose_counter_differs_too_is_corrected_by_the_difference_first(self, held: HeldAccount) -> None:
        before = held.but_its_entry()
        held.lose(held.places[0])
        held.change("state", 0, 3)
        assert reconciled(held) == (["holds", "used"], 1)
        assert held.but_its_entry() == before
        assert [(amount, detail) for amount, _, _, detail, _ in held.corrections()] == [(3, "was:28"), (0, "was:25")]
        held.assert_all_is_well()

    def test_one_whose_cap_and_grant_differ_is_corrected_in_both(self, held: HeldAccount) -> None:
        before = held.but_its_entry()
        held.change("caps", 4, 7)
        held.change("grants", 3, 7)
        assert reconciled(held)[1] == 1
        assert held.but_its_entry() == before
        held.assert_all_is_well()


def test_one_that_would_let_no_hold_go_in_time_is_damaged(held: HeldAccount) -> None:
    before = held.but_its_entry()
    held.change("held", 2, 1 << 20)
    assert reconciled(held) == (["damaged"], 1)
    del before["denials"]  # as of an account that was missing
    # Nobody knows whether a person has corrected it.
    assert held.but_its_entry() == before | {"corrected": "1 0"}
    held.assert_all_is_well()


@pytest.mark.parametrize("rest", ["used", "held"])
def test_a_grant_of_which_nothing_is_left_is_missed_all_the_same(held: HeldAccount, rest: str) -> None:
    """What it gave counts above the limit for as long as its period runs."""
    if rest == "used":
        assert [held.ask(Mode.RELEASE, None, place).outcome for place in held.places] == ["allowed"] * 2
    assert held.ask(*((Mode.CONSUME, 5) if rest == "used" else (Mode.HOLD, 2, "60000"))).outcome == "allowed"
    held.assert_all_is_well()
    before = held.but_its_entry()
    held.put("grants", None)
    what = ["taken"] if rest == "used" else ["held", "taken"]
    assert reconciled(held) == ([f"grant {held.grant} {each}" for each in what], 1)
    assert held.but_its_entry() == before
    held.assert_all_is_well()


def test_a_grant_that_gave_all_it_had_in_a_period_that_was_closed_is_not_missed(
    connection: "redis.Redis", database: Database
) -> None:
    """Though a hold of the units that it gave last is open still."""
    with Resetting.on(connection, database) as scene:
        words: dict[str, Any] = {"amount": 2, "priority": 0, "expires_ms": None, "by": By("k", reason="r")}
        scene.pipeline.call(grants.add, "t", "u", "m", **words)
        scene.used(ACCOUNT, 3)
        shard, key = scene.shard(ACCOUNT), ACCOUNT.key(scene.shard(ACCOUNT).number)
        limit = int(scene.hash(ACCOUNT)["rule"].split(" ")[5])
        for mode, charge in ((Mode.CONSUME, (limit - 3, "")), (Mode.HOLD, (2, str(3 * DAY_MS)))):
            (reply,) = shard.consume(shard.step(0, mode=mode, charges=(Charge(key, *charge),)))
            assert reply.outcome == "allowed"
        scene.pipeline.drained()
        assert (scene.settled().sealed, "grants" in scene.hash(ACCOUNT)) == (1, False)
        run = scene.pipeline.reconcile().run_once()
        assert (found(run), run.corrected) == ([], 0)


@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.CONSUME])
def test_one_of_whose_grant_more_is_taken_than_it_had_is_served(held: HeldAccount, mode: Mode) -> None:
    """Its last two units were charged or held, Redis went back, and they were held again: both count."""
    before: Any = held.scene.connection.dump(held.key)
    first = held.ask(mode, 2, "60000" if mode is Mode.HOLD else "")
    held.scene.pipeline.drained()
    held.scene.connection.restore(held.key, 0, before, replace=True)
    place = held.hold(2)
    held.scene.pipeline.drained()
    held.scene.connection.delete(held.key)
    assert held.provisioned() == "provisioned"
    assert [held.ask(asked, 1).outcome for asked in (Mode.CHECK, Mode.CONSUME)] == ["denied", "denied"]
    assert reconciled(held) == ([], 0)
    open_holds = [place, *([f"{first.epoch}-{first.first_n}"] if mode is Mode.HOLD else [])]
    assert [held.ask(Mode.COMMIT, None, each).outcome for each in open_holds] == ["allowed"] * len(open_holds)
    held.scene.pipeline.drained()
    assert (held.hash()["state"].split(" ")[0], reconciled(held)) == ("29", ([], 0))


@pytest.mark.parametrize("ttl_ms", [1, 60_000])
def test_an_account_that_was_put_back_to_before_a_hold_has_it_again_or_has_it_settled(
    held: HeldAccount, ttl_ms: int
) -> None:
    """The same was used then and now, so that only its entry and its holds say that something is wrong."""
    before: Any = held.scene.connection.dump(held.key)
    place = held.hold(2, ttl_ms)
    held.scene.pipeline.drained()
    after = held.but_its_entry()
    held.scene.connection.restore(held.key, 0, before, replace=True)
    assert reconciled(held) == (["holds"], 1)
    assert held.settled_by()[2] == ("expire" if ttl_ms == 1 else None)
    assert ttl_ms == 1 or held.but_its_entry() == after
    assert (f"h:{place}" in held.hash()) == (ttl_ms != 1)
    held.assert_all_is_well()


def test_an_account_that_was_put_back_to_before_a_hold_and_a_charge_is_right_after_one_run(held: HeldAccount) -> None:
    before: Any = held.scene.connection.dump(held.key)
    held.hold(1)
    held.ask(Mode.CONSUME, 1)
    held.scene.pipeline.drained()
    after = held.but_its_entry()
    held.scene.connection.restore(held.key, 0, before, replace=True)
    assert held.scene.pipeline.reconcile().run_once().corrected == 1
    assert held.but_its_entry() == after
    held.assert_all_is_well()


def test_a_hold_of_a_period_that_is_over_comes_back_with_the_words_of_its_seal(
    connection: "redis.Redis", database: Database
) -> None:
    with Resetting.on(connection, database) as scene:
        scene.used(ACCOUNT, 3)
        shard, key = scene.shard(ACCOUNT), ACCOUNT.key(scene.shard(ACCOUNT).number)
        shard.consume(shard.step(0, mode=Mode.HOLD, charges=(Charge(key, 2, str(3 * DAY_MS)),)))
        scene.pipeline.drained()
        assert scene.settled().sealed == 1
        before = scene.hash(ACCOUNT)
        connection.hdel(key, "held", *[name for name in before if name.startswith("h:")])
        run = scene.pipeline.reconcile().run_once()
        assert (found(run), run.corrected) == ([("u", "holds")], 1)
        after = scene.hash(ACCOUNT)
        assert after.pop("state") != before.pop("state")
        assert (after, len(after["held"].split(" "))) == (before, 3)
        assert scene.pipeline.reconcile().run_once().drifts == []


class TestExpired:
    def test_one_that_redis_has_lost_is_settled_in_the_ledger(
        self, held: HeldAccount, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(resetting, "HEARD_WITHIN_MS", 0)
        place = held.hold(2, ttl_ms=1)
        held.scene.pipeline.drained()
        held.lose(place)
        reset = held.scene.reset()
        assert [reset.run_once().released for _ in range(2)] == [0, 0]
        assert reconciled(held) == (["holds"], 1)
        assert held.settled_by() == [None, None, "expire"]
        assert reset.run_once().released == 0
        held.assert_all_is_well()

    def test_those_that_redis_has_lost_do_not_keep_the_others_from_being_let_go(
        self, held: HeldAccount, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """One hold a page, and the first of them is lost."""
        monkeypatch.setattr(resetting, "HEARD_WITHIN_MS", 0)
        monkeypatch.setattr(resetting, "PAGE", 1)
        lost = held.hold(1, ttl_ms=1_000)
        kept = held.hold(1, ttl_ms=1_001)
        held.scene.pipeline.drained()
        held.lose(lost)
        expires_ms = int(held.hash()[f"h:{kept}"].split(" ")[1])
        eventually(lambda: held.shard.now_ms() > expires_ms, "both have expired")
        reset = held.scene.reset()
        assert [reset.run_once().released for _ in range(2)] == [0, 1]
        held.scene.pipeline.drained()
        assert held.settled_by() == [None, None, None, "expire"]
        assert [reset.run_once().released for _ in range(3)] == [0, 0, 0]


class TestAtOnce:
    def test_one_that_is_charged_before_the_script_comes_is_compared_again(
        self, held: HeldAccount, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before, charges = held.but_its_entry(), iter((1, 1))
        names = ("held", f"h:{held.places[0]}")
        held.lose(held.places[0])
        heads = Bulk.heads

        def heads_and_a_charge(self: Bulk, shards: Any) -> Any:
            if amount := next(charges, 0):
                held.ask(Mode.CONSUME, amount)
            return heads(self, shards)

        monkeypatch.setattr(Bulk, "heads", heads_and_a_charge)
        assert reconciled(held) == (["holds"], 1)
        assert held.hash()["state"].startswith("27 ")
        assert [held.hash()[name] for name in names] == [before[name] for name in names]
        assert len(held.corrections()) == 1
        held.assert_all_is_well()

    def test_of_two_runs_one_writes_it_anew(self, held: HeldAccount) -> None:
        before, corrected = held.but_its_entry(), [0, 0]
        held.lose(held.places[0])
        both = [held.scene.pipeline.reconcile() for _ in range(2)]
        together, failures = threading.Barrier(2), []

        def run(number: int) -> None:
            try:
                together.wait(DEADLINE_S)
                corrected[number] = both[number].run_once().corrected
            except Exception as error:
                failures.append(error)

        running = [threading.Thread(target=run, args=(number,)) for number in range(2)]
        for each in running:
            each.start()
        for each in running:
            each.join(DEADLINE_S)
        assert (failures, sum(corrected), len(held.corrections())) == ([], 1, 1)
        assert held.but_its_entry() == before
        held.assert_all_is_well()

    @pytest.mark.parametrize("is_done", [False, True])
    def test_one_that_dies_beside_the_script_has_corrected_or_not_and_the_next_sees_which(
        self, held: HeldAccount, monkeypatch: pytest.MonkeyPatch, is_done: bool
    ) -> None:
        before = held.but_its_entry()
        held.lose(held.places[0])
        run_all = Bulk.run_all

        def run_and_die(self: Bulk, calls: Any) -> Any:
            if calls and is_done:
                run_all(self, calls)
            return crash() if calls else []

        with monkeypatch.context() as patched:
            patched.setattr(Bulk, "run_all", run_and_die)
            with pytest.raises(Crashed):
                reconciled(held)
        assert (held.but_its_entry() == before) == is_done
        assert reconciled(held)[1] == (0 if is_done else 1)
        assert (held.but_its_entry(), len(held.corrections())) == (before, 1)
        held.assert_all_is_well()

    def test_the_guard_counts_them(self, held: HeldAccount) -> None:
        held.lose(held.places[0])
        pipeline = held.scene.pipeline
        run = Reconcile(pipeline.journal, pipeline.engine, pipeline.drain(), Guard(0)).run_once()
        assert (run.drifted, run.corrected, held.corrections()) == (1, 0, [])
        assert run.refusal == "1 accounts drifted, and at most 0 are corrected"

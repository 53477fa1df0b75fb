"""What consume promises, on the real server and on fakeredis alike; and what every script promises on the real one."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis
from redis.exceptions import NoScriptError, OutOfMemoryError

from quota import keys, protocol, scripts
from quota.entitlement import Entitlement
from quota.formats import Terms
from quota.identifiers import MAX_AMOUNT
from quota.journal import About, encode_about
from quota.keys import AccountName
from quota.periods import Period, PeriodKind
from quota.protocol import Bringing, Charge, Mode
from quota.replies import Outcome, Verdict
from tests.integration.shard import (
    ABOUT,
    RECORD_TTL_MS,
    SERVERS,
    SHARD,
    TERMS,
    WARN_AT_PCT,
    Shard,
    moves,
    outcomes,
    shard_on,
)


@pytest.fixture(params=SERVERS)
def shard(request: pytest.FixtureRequest) -> Iterator[Shard]:
    with shard_on(request.param, request) as shard:
        yield shard


class TestConsume:
    def test_what_fits_is_charged_and_journalled(self, shard: Shard) -> None:
        (reply,) = shard.open().consume(shard.step(3))
        assert (reply.outcome, reply.epoch, reply.first_n, reply.replayed) == (Outcome.ALLOWED, 1, 0, False)
        (state,) = reply.accounts
        assert (state.verdict, state.metric, state.amount, state.used, state.held) == (Verdict.FITS, "m", 3, 3, 0)
        assert (state.limit, state.enforcement, state.period) == (10, "hard", shard.window())
        assert state.window.terms == Terms("free", PeriodKind.MONTH, None, WARN_AT_PCT)
        assert (shard.used(), shard.entry()) == (3, "1-0")

    def test_an_entry_says_all_that_the_ledger_needs(self, shard: Shard) -> None:
        (reply,) = shard.open().consume(shard.step(3))
        ((entry_id, fields),) = shard.connection.xrange(keys.journal(SHARD))
        window = shard.window()
        words = f"{window.start_ms} {window.end_ms} {TERMS}"
        line = f"consume {reply.now_ms} 3 3 3 1 1 - - - {shard.key()} {words}"
        assert (entry_id, fields) == (b"1-0", {b"line": line.encode(), b"about": ABOUT})

    def test_the_whole_limit_may_be_used_and_not_one_more(self, shard: Shard) -> None:
        shard.open(limit=10)
        assert outcomes(shard.consume(shard.step(10))) == ["allowed"]
        (reply,) = shard.consume(shard.step(1))
        assert (reply.outcome, reply.first_n, reply.accounts[0].used) == (Outcome.DENIED, None, 10)
        assert reply.accounts[0].verdict is Verdict.EXCEEDS
        assert (shard.used(), shard.kinds()) == (10, ["consume", "warned", "denied"])

    def test_a_soft_limit_lets_more_through(self, shard: Shard) -> None:
        (reply,) = shard.open(limit=10, enforcement="soft").consume(shard.step(25))
        assert (reply.outcome, reply.accounts[0].used, reply.accounts[0].limit) == (Outcome.ALLOWED, 25, 10)

    def test_without_a_limit_only_what_can_be_counted_is_the_limit(self, shard: Shard) -> None:
        shard.open(limit=None)
        replies = shard.consume(shard.step(MAX_AMOUNT - 1), shard.step(1), shard.step(1))
        assert outcomes(replies) == ["allowed", "allowed", "denied"]
        assert [reply.accounts[0].used for reply in replies] == [MAX_AMOUNT - 1, MAX_AMOUNT, MAX_AMOUNT]
        assert shard.used() == 9007199254740991
        assert moves(shard.entries())[1] == ("consume", 1, 1, MAX_AMOUNT)
        assert replies[0].accounts[0].limit is None

    def test_a_hard_limit_near_the_largest_number_is_exact(self, shard: Shard) -> None:
        shard.open(limit=MAX_AMOUNT - 1)
        replies = shard.consume(shard.step(MAX_AMOUNT - 2), shard.step(2), shard.step(MAX_AMOUNT), shard.step(1))
        assert outcomes(replies) == ["allowed", "denied", "denied", "allowed"]
        assert shard.used() == MAX_AMOUNT - 1

    def test_units_that_are_held_are_not_there_for_others(self, shard: Shard) -> None:
        shard.open(limit=10)
        shard.hold(4)
        replies = shard.consume(shard.step(7), shard.step(6))
        assert outcomes(replies) == ["denied", "allowed"]
        assert replies[1].accounts[0].held == 4

    def test_several_charges_are_neighbours_under_one_receipt(self, shard: Shard) -> None:
        shard.open("m").open("m2")
        (reply,) = shard.consume(shard.step(1), shard.step(3, 4))[1:]
        assert (reply.first_n, [state.used for state in reply.accounts]) == (1, [4, 4])
        entries = shard.entries()[1:]
        assert [(each.place.n, each.receipt_first_n, each.receipt_count) for each in entries] == [(1, 1, 2), (2, 1, 2)]
        assert (shard.entry("m"), shard.entry("m2")) == ("1-1", "1-2")

    @pytest.mark.parametrize("amounts", [(11, 1), (1, 11)])
    def test_of_several_charges_all_are_made_or_none(self, shard: Shard, amounts: tuple[int, int]) -> None:
        shard.open("m").open("m2")
        (reply,) = shard.consume(shard.step(*amounts))
        assert reply.outcome is Outcome.DENIED
        assert {state.verdict for state in reply.accounts} == {Verdict.FITS, Verdict.EXCEEDS}
        assert [state.used for state in reply.accounts] == [shard.used("m"), shard.used("m2")] == [0, 0]
        (denied,) = shard.entries()
        assert moves([denied]) == [("denied", 11, 0, 0)]
        assert (denied.account.metric, denied.detail) == ("m" if amounts[0] == 11 else "m2", "limit")

    @pytest.mark.parametrize(("amount", "outcome"), [(10, "allowed"), (11, "denied"), (0, "allowed")])
    def test_a_check_answers_the_same_and_writes_nothing(self, shard: Shard, amount: int, outcome: str) -> None:
        before = shard.open(limit=10).everything()
        (reply,) = shard.consume(shard.step(amount, mode=Mode.CHECK))
        assert (reply.outcome, reply.first_n, reply.accounts[0].used) == (outcome, None, 0)
        assert shard.everything() == before

    def test_each_request_of_a_call_succeeds_or_fails_alone(self, shard: Shard) -> None:
        shard.open("m").open("n", limit=None)
        other = Shard(shard.connection, 5)
        replies = shard.consume(
            shard.step(4),
            shard.step(11),
            shard.step(1, metric="unheard_of"),
            shard.step(7, metric="n"),
            other.step(1),
            shard.step(-1),
            shard.step(6),
        )
        wanted = ["allowed", "denied", "unready", "allowed", "uninitialised", "failed", "allowed"]
        assert outcomes(replies) == wanted
        assert (shard.used("m"), shard.used("n")) == (10, 7)
        assert [reply.first_n for reply in replies if reply.outcome == "allowed"] == [0, 2, 3]

    def test_one_account_many_times_in_a_call_is_counted_in_order(self, shard: Shard) -> None:
        shard.open(limit=10)
        replies = shard.consume(shard.step(6), shard.step(6), shard.step(4), shard.step(1))
        assert outcomes(replies) == ["allowed", "denied", "allowed", "denied"]
        assert [reply.accounts[0].used for reply in replies] == [6, 6, 10, 10]

    @pytest.mark.parametrize("damaged", ["account", "head", "record"])
    def test_a_damaged_key_fails_its_own_request_alone(self, shard: Shard, damaged: str) -> None:
        shard.open()
        other = Shard(shard.connection, 5).open("n")
        bad = other.step(1, metric="n", key="k")
        name = {"account": other.key("n"), "head": keys.head(5), "record": str(bad.record_key)}[damaged]
        shard.connection.delete(name)
        shard.connection.lpush(name, "not what it should be")
        assert outcomes(shard.consume(shard.step(1), bad, shard.step(2))) == ["allowed", "failed", "allowed"]
        assert shard.used() == 3

    def test_ids_count_up_without_a_gap_whatever_is_denied_between(self, shard: Shard) -> None:
        shard.open("m", limit=300).open("m2", limit=None)
        for _ in range(5):
            shard.consume(*(shard.step(*((1,) if n % 3 else (1, 1, 1)[:2])) for n in range(60)), shard.step(301))
        entries = shard.entries()
        kinds = Counter(each.kind for each in entries)
        assert kinds == {"consume": 5 * (60 + 20), "denied": 5, "warned": 3}
        assert [(each.place.epoch, each.place.n) for each in entries] == [(1, n) for n in range(len(entries))]
        assert shard.used("m") == 300

    def test_an_account_that_nobody_provisioned_is_unknown_and_not_guessed(self, shard: Shard) -> None:
        before = shard.open("m").everything()
        (reply,) = shard.consume(shard.step(1, 2))
        assert (reply.outcome, reply.epoch, reply.fence) == (Outcome.UNREADY, 1, "0")
        assert [(s.verdict, s.metric, s.amount) for s in reply.accounts] == [("fits", "m", 1), ("unknown", "m2", 2)]
        assert shard.everything() == before

    def test_a_shard_without_a_head_is_uninitialised_though_its_accounts_are_there(self, shard: Shard) -> None:
        shard.open().connection.delete(keys.head(SHARD))
        assert outcomes(shard.consume(shard.step(1))) == ["uninitialised"]
        assert shard.used() == 0

    def test_an_account_of_an_older_epoch_is_stale(self, shard: Shard) -> None:
        shard.open().run(protocol.begin_epoch(SHARD, 2, ""))
        (reply,) = shard.consume(shard.step(1))
        assert (reply.outcome, reply.epoch, reply.accounts[0].verdict) == (Outcome.UNREADY, 2, Verdict.STALE)

    def test_an_account_of_an_older_catalog_is_stale(self, shard: Shard) -> None:
        (reply,) = shard.open().consume(shard.step(1, catalog_version=2))
        assert (reply.outcome, reply.accounts[0].verdict) == (Outcome.UNREADY, Verdict.STALE)
        assert shard.used() == 0

    def test_a_request_made_with_an_older_catalog_is_told_so(self, shard: Shard) -> None:
        shard.open().run(protocol.publish(SHARD, "t", 2))
        assert outcomes(shard.consume(shard.step(1))) == ["catalog_changed"]
        other_tenants = shard.step(1, catalog_field=keys.catalog_field("someone else"))
        assert outcomes(shard.consume(other_tenants)) == ["allowed"]

    def test_a_period_that_has_ended_charges_nothing(self, shard: Shard) -> None:
        shard.open(period=shard.window(-40, -10), used=7)
        before = shard.everything()
        (reply,) = shard.consume(shard.step(1))
        (state,) = reply.accounts
        assert (reply.outcome, state.verdict, state.used) == (Outcome.UNREADY, Verdict.PERIOD_OVER, 7)
        assert state.period == shard.window(-40, -10)
        assert shard.everything() == before

    def test_the_instant_at_which_a_period_ends_belongs_to_the_next_one(self, shard: Shard) -> None:
        now_ms = shard.now_ms()
        shard.open(period=Period(PeriodKind.MONTH, 0, now_ms))
        assert shard.consume(shard.step(1))[0].accounts[0].verdict is Verdict.PERIOD_OVER

    @pytest.mark.parametrize(
        "amount", ["1.5", "nan", "1e3", "-1", str(2**53), "1" * 400, "0x10", "inf", "", " 1", "1\n"]
    )
    def test_what_is_no_amount_is_refused_in_the_script_too(self, shard: Shard, amount: str) -> None:
        before = shard.open(limit=None).everything()
        call = protocol.consume([shard.step(1, key="k")], RECORD_TTL_MS)
        arguments = list(call.arguments)
        assert arguments[9] == 1
        arguments[9] = amount
        (text,) = shard.run(replace(call, arguments=arguments))
        assert text == b"failed an amount is not an integer from 0 to 2^53 - 1"
        assert shard.everything() == before


class TestIdempotency:
    def test_the_same_key_gives_the_first_answer_again(self, shard: Shard) -> None:
        shard.open().open("m2")
        (first,) = shard.consume(shard.step(3, 4, key="k"))
        shard.consume(shard.step(1))
        before = shard.everything()
        assert shard.consume(shard.step(3, 4, key="k")) == [replace(first, replayed=True)]
        assert shard.everything() == before
        assert 0 < shard.connection.pttl(keys.record(SHARD, "t", "u", "consume", "k")) <= RECORD_TTL_MS

    def test_copies_in_one_call_are_charged_once(self, shard: Shard) -> None:
        replies = shard.open().consume(*[shard.step(3, key="k")] * 50)
        assert [reply.replayed for reply in replies] == [False] + [True] * 49
        assert {reply.first_n for reply in replies} == {0}
        assert (shard.used(), len(shard.entries())) == (3, 1)

    def test_a_key_with_another_body_is_refused_in_the_same_call_and_later(self, shard: Shard) -> None:
        shard.open()
        replies = shard.consume(shard.step(3, key="k"), shard.step(4, key="k", body="other"))
        replies += shard.consume(shard.step(4, key="k", body="other"))
        assert outcomes(replies) == ["allowed", "key_reused", "key_reused"]
        assert shard.used() == 3

    def test_a_denial_is_not_remembered(self, shard: Shard) -> None:
        shard.open(limit=2)
        assert outcomes(shard.consume(shard.step(3, key="k"))) == ["denied"]
        shard.open(limit=3)
        assert outcomes(shard.consume(shard.step(3, key="k"))) == ["allowed"]

    def test_a_replay_needs_neither_a_ready_account_nor_the_newest_catalog(self, shard: Shard) -> None:
        (first,) = shard.open().consume(shard.step(3, key="k"))
        shard.connection.delete(shard.key())
        shard.run(protocol.publish(SHARD, "t", 2))
        assert shard.consume(shard.step(3, key="k")) == [replace(first, replayed=True)]


@pytest.mark.parametrize("name", ["consume", "provision", "roll", "publish", "begin_epoch"])
def test_a_full_memory_refuses_a_script_up_front(connection: "redis.Redis", name: str) -> None:
    shard = Shard(connection).open("m").open("old", period=Shard(connection).window(-40, -10), used=5)
    before = shard.everything()
    old = shard.window(-40, -10)
    call = {
        "consume": protocol.consume([shard.step(1)], RECORD_TTL_MS),
        "provision": protocol.provision([Bringing(SHARD, 1, "0", shard.opening("new"))]),
        "roll": protocol.roll(SHARD, shard.key("old"), old, shard.words()),
        "publish": protocol.publish(SHARD, "t", 2, [shard.key()]),
        "begin_epoch": protocol.begin_epoch(SHARD, 2, ""),
    }[name]
    connection.config_set("maxmemory", 1)
    try:
        with pytest.raises(OutOfMemoryError):
            shard.run(call)
    finally:
        connection.config_set("maxmemory", 0)
    assert shard.everything() == before
    shard.run(call)
    assert shard.everything() != before


def test_a_journal_of_a_wrong_type_leaves_every_counter_as_it_was(connection: "redis.Redis") -> None:
    shard = Shard(connection).open("m").open("old", period=Shard(connection).window(-40, -10), used=5)
    connection.set(keys.journal(SHARD), "not a stream")
    before = shard.everything()
    (reply,) = shard.consume(shard.step(1, key="k"))
    assert reply.outcome is Outcome.FAILED
    assert "WRONGTYPE" in reply.reason
    old = shard.window(-40, -10)
    assert str(shard.run(protocol.roll(SHARD, shard.key("old"), old, shard.words()))).startswith("failed WRONGTYPE")
    assert shard.provision(shard.opening("old")).startswith("failed WRONGTYPE")
    assert shard.everything() == before


def test_a_server_that_forgot_the_scripts_is_sent_them_again(connection: "redis.Redis") -> None:
    shard = Shard(connection).open()
    connection.script_flush()
    with pytest.raises(NoScriptError):
        connection.evalsha(scripts.SCRIPTS["consume"].sha, 0)
    assert outcomes(shard.consume(shard.step(1)) + shard.consume(shard.step(1))) == ["allowed", "allowed"]
    assert shard.used() == 2


def test_the_time_is_the_servers(connection: "redis.Redis", monkeypatch: pytest.MonkeyPatch) -> None:
    shard = Shard(connection).open()
    monkeypatch.setattr("time.time", lambda: 0.0)
    before_ms = shard.now_ms()
    (reply,) = shard.consume(shard.step(1))
    assert before_ms <= reply.now_ms <= shard.now_ms()
    assert shard.entries()[0].occurred_at_ms == reply.now_ms


MAX_ACCOUNT_BYTES = 350
MAX_LONG_ACCOUNT_BYTES = 500
"""A text of more than 64 bytes turns the hash into a table: that of a plan of more than ten letters, with an anchor."""
MAX_ENTRY_BYTES = 320


@pytest.mark.parametrize(
    ("plan", "encoding", "most"),
    [("pro", b"listpack", MAX_ACCOUNT_BYTES), ("enterprise_annual", b"hashtable", MAX_LONG_ACCOUNT_BYTES)],
)
def test_an_account_takes_few_bytes(connection: "redis.Redis", plan: str, encoding: bytes, most: int) -> None:
    shard = Shard(connection)
    granted = Entitlement(plan, 10**9, "hard", PeriodKind.MONTH, 1_763_780_000_000, WARN_AT_PCT)
    account = AccountName("tenant-1a2b3c4d", "organisation-17/member-42", "ai_generations")
    shard.open(entitlement=granted, account=account)
    key = account.key(SHARD)
    shard.consume(replace(shard.step(1), charges=(Charge(key, 10**8),)))
    assert connection.object("ENCODING", key) == encoding
    assert connection.memory_usage(key) <= most


def test_an_entry_takes_few_bytes_of_the_stream(connection: "redis.Redis") -> None:
    shard = Shard(connection).open(limit=None)
    about = encode_about(About(request_id="f" * 32))
    for _ in range(20):
        shard.consume(*[replace(shard.step(1), about=about)] * 100)
    assert connection.xlen(keys.journal(SHARD)) == 2000
    assert connection.memory_usage(keys.journal(SHARD), samples=0) / 2000 <= MAX_ENTRY_BYTES

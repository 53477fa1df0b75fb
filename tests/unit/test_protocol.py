"""What is said to the scripts and read back, without a server: arguments, replies, the journal's lines."""

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quota import keys, protocol
from quota.entitlement import Entitlement
from quota.identifiers import MAX_AMOUNT
from quota.journal import About, Place, encode_about, parsed_entry
from quota.keys import AccountName
from quota.periods import Period, PeriodKind
from quota.protocol import AccountState, Charge, Opening, Outcome, Reply, Step, Terms, Verdict

calm = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
identifiers = st.from_regex(r"[A-Za-z0-9._\-:@/+]{1,200}", fullmatch=True)
amounts = st.integers(0, MAX_AMOUNT)
instants = st.integers(0, 253_402_300_799_999)
terms = st.builds(
    Terms,
    st.none() | identifiers,
    st.sampled_from(PeriodKind),
    st.none() | st.integers(-62_000_000_000_000, 253_000_000_000_000),
    st.lists(st.integers(1, 99), max_size=16, unique=True).map(lambda levels: tuple(sorted(levels))),
)


@calm
@given(terms)
def test_terms_come_back_as_they_were_said(said: Terms) -> None:
    words = str(said).split(" ")
    assert Terms.parsed(" ".join(words)) == said
    assert len(words) == 4


@st.composite
def states(draw: st.DrawFn) -> AccountState:
    verdict, metric, amount = draw(st.sampled_from(Verdict)), draw(identifiers), draw(amounts)
    if verdict is Verdict.UNKNOWN:
        return AccountState(verdict, metric, amount)
    said = draw(terms)
    period = Period(said.kind, draw(instants), draw(st.none() | instants))
    limit, enforcement = draw(st.none() | amounts), draw(st.sampled_from(["hard", "soft"]))
    return AccountState(verdict, metric, amount, draw(amounts), draw(amounts), limit, period, enforcement, said)


def as_consume_writes_it(state: AccountState) -> str:
    """The line of an account, as lua/consume.lua's header has it."""
    words = [state.verdict.value, state.metric, str(state.amount)]
    if state.verdict is Verdict.UNKNOWN:
        return " ".join(words)
    limit = "-" if state.limit is None else str(state.limit)
    end = "-" if state.period.end_ms is None else str(state.period.end_ms)
    words += [str(state.used), str(state.held), limit, str(state.period.start_ms), end, state.enforcement]
    return " ".join([*words, str(state.terms)])


@calm
@given(st.lists(states(), min_size=1, max_size=4), instants, st.integers(1, 2**62), st.none() | amounts)
def test_every_reply_that_lists_accounts_comes_back_whole(
    accounts: list[AccountState], now_ms: int, epoch: int, n: int | None
) -> None:
    lines = "".join(f"\n{as_consume_writes_it(state)}" for state in accounts)
    allowed = f"allowed {now_ms} {epoch} {'-' if n is None else n}{lines}"
    whole = tuple(accounts)
    assert protocol.parsed_reply(allowed) == Reply(Outcome.ALLOWED, now_ms, epoch, "0", n, whole)
    replayed = Reply(Outcome.ALLOWED, now_ms, epoch, "0", n, whole, replayed=True)
    assert protocol.parsed_reply(f"replayed\n{allowed}") == replayed
    assert protocol.parsed_reply(f"denied {now_ms}{lines}") == Reply(Outcome.DENIED, now_ms, accounts=whole)
    unready = Reply(Outcome.UNREADY, now_ms, epoch, "17", None, whole)
    assert protocol.parsed_reply(f"unready {now_ms} {epoch} 17{lines}") == unready


@pytest.mark.parametrize("word", ["uninitialised", "catalog_changed", "key_reused"])
def test_a_reply_without_accounts_has_the_instant(word: str) -> None:
    assert protocol.parsed_reply(f"{word} 42") == Reply(Outcome(word), 42)


def test_a_failed_reply_has_the_reason_in_full() -> None:
    reply = protocol.parsed_reply("failed WRONGTYPE Operation against a key")
    assert (reply.outcome, reply.reason) == (Outcome.FAILED, "WRONGTYPE Operation against a key")


@pytest.mark.parametrize("text", ["", "granted 1", "allowed", "allowed 1 2", "denied 1\nfits m", "denied x"])
def test_what_no_script_says_is_an_error_and_never_a_decision(text: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        protocol.parsed_reply(text)


def step(shard: int, *metrics: str, record_key: str | None = None, consumes: bool = True) -> Step:
    charges = tuple(Charge(f"account-{metric}", metric, 7, b"{}") for metric in metrics)
    fingerprint = "f" if record_key else ""
    return Step(shard, keys.catalog_field("t"), 3, charges, consumes, record_key, fingerprint)


def test_a_consume_call_lists_keys_and_arguments_in_the_order_that_the_script_reads_them() -> None:
    steps = [step(1, "m", "n", record_key="record"), step(2, "m", consumes=False), step(3)]
    call = protocol.consume(steps, 60_000)
    assert call.script == "consume"
    heads = [(keys.head(shard), keys.journal(shard)) for shard in (1, 2, 3)]
    assert list(call.keys) == [*heads[0], "record", "account-m", "account-n", *heads[1], "account-m", *heads[2]]
    assert list(call.arguments) == [
        *(3, 60_000),
        *("consume", 2, "catalog:t", 3, "f", "m", 7, b"{}", "n", 7, b"{}"),
        *("check", 1, "catalog:t", 3, "", "m", 7, b"{}"),
        *("consume", 0, "catalog:t", 3, ""),
    ]


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_provision_call_has_a_word_for_everything(is_cut: bool) -> None:
    account = AccountName("t", "u", "m")
    granted = Entitlement(None, None, "soft", PeriodKind.LIFETIME, None, ())
    cut = (Period(PeriodKind.MONTH, 5, 9), Terms("old", PeriodKind.MONTH, None, ())) if is_cut else None
    lifetime = Period(PeriodKind.LIFETIME, 0, None)
    call = protocol.provision(2, 4, "1", Opening(account, 6, granted, lifetime, 8, "4-1", cut, 0, b"about"))
    assert list(call.keys) == [keys.head(2), keys.journal(2), account.key(2)]
    window = [5, 9, "old month - -"] if is_cut else ["", "", ""]
    said = [4, "1", "catalog:t", 6, 8, "4-1", *window, "-", "soft", "open", 0, "-", "~ lifetime - -", 0, b"about"]
    assert list(call.arguments) == said


def test_a_roll_into_a_period_without_end_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError):
        protocol.roll(0, "account", 5, Period(PeriodKind.LIFETIME, 0, None), b"")


about = st.builds(
    About,
    tenant=identifiers,
    subject=identifiers,
    metric=identifiers,
    request_id=st.none() | identifiers,
    idempotency_key=st.none() | st.text(max_size=255),
    operation=st.none() | identifiers,
    metadata=st.none() | st.dictionaries(st.text(max_size=9), st.text(max_size=9) | st.integers(-(2**53), 2**53)),
)


@calm
@given(about, terms, st.integers(1, 2**62), st.integers(2, MAX_AMOUNT), amounts, instants, st.none() | instants)
def test_an_entry_comes_back_from_its_line(
    said: About, agreed: Terms, epoch: int, n: int, change: int, at_ms: int, end_ms: int | None
) -> None:
    end = "-" if end_ms is None else str(end_ms)
    line = f"consume {at_ms} {change} -{change} {change} 3 4 17 {end} {agreed}"
    entry = parsed_entry(9, f"{epoch}-{n}".encode(), {b"line": line.encode(), b"about": encode_about(said)})
    assert (entry.shard, entry.place, entry.kind, entry.about, entry.terms) == (
        9,
        Place(epoch, n),
        "consume",
        said,
        agreed,
    )
    assert (entry.amount, entry.change, entry.used_after) == (change, -change, change)
    assert (entry.receipt_first_n, entry.receipt_count) == (n - 2, 4)
    assert (entry.occurred_at_ms, entry.period_start_ms, entry.period_end_ms) == (at_ms, 17, end_ms)


def test_what_only_people_ask_for_is_left_out_where_there_is_none() -> None:
    written = encode_about(About(tenant="t", subject="u", metric="m"))
    assert msgspec.json.decode(written) == {"tenant": "t", "subject": "u", "metric": "m"}


@pytest.mark.parametrize(
    ("place", "other", "follows"),
    [
        ((1, 5), (1, 4), True),
        ((1, 6), (1, 4), False),
        ((1, 4), (1, 4), False),
        ((2, 0), (1, 9), True),
        ((2, 1), (1, 9), False),
        ((1, 0), (0, 0), True),
        ((1, 1), (0, 0), False),
    ],
)
def test_a_place_follows_another_when_nothing_can_be_missing_between(
    place: tuple[int, int], other: tuple[int, int], follows: bool
) -> None:
    assert Place(*place).follows(Place(*other)) is follows


@calm
@given(st.integers(0, 2**62), st.integers(0, 2**62))
def test_a_place_comes_back_from_its_text(epoch: int, n: int) -> None:
    assert Place.parsed(str(Place(epoch, n))) == Place(epoch, n)

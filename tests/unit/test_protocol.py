"""What is said to the scripts and read back, without a server: arguments, replies, the journal's lines."""

import re
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quota import keys, protocol
from quota.entitlement import Entitlement
from quota.formats import CapState, GrantState, Part, Terms, Window, joined, parsed_cap_windows, parsed_parts
from quota.identifiers import MAX_AMOUNT
from quota.journal import About, Place, encode_about, parsed_entry
from quota.keys import AccountName
from quota.periods import Period, PeriodKind
from quota.protocol import MAX_PROVISIONED, Bringing, Charge, Mode, Opening, Step
from quota.replies import AccountState, LiveGrant, Outcome, Reply, Verdict, parsed_reply

ROOT = Path(__file__).parent.parent.parent
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
windows = st.builds(
    lambda said, start, end: Window(Period(said.kind, start, end), said), terms, instants, st.none() | instants
)
kinds = st.sampled_from(PeriodKind)
caps = st.builds(CapState, st.builds(Period, kinds, instants, instants), amounts, amounts)
grants = st.builds(LiveGrant, st.integers(1, 2**31), st.none() | instants, amounts)
parts = st.builds(Part, amounts) | st.builds(
    Part, amounts, st.integers(1, 2**31), st.integers(-100, 100), st.none() | instants
)


@calm
@given(windows)
def test_a_window_comes_back_as_it_was_said(said: Window) -> None:
    words = str(said).split(" ")
    assert Window.parsed(" ".join(words)) == said
    assert len(words) == 6


@calm
@given(caps, st.lists(parts, min_size=1, max_size=4), st.lists(st.tuples(kinds.map(str), instants), max_size=3))
def test_caps_parts_and_capped_windows_come_back_as_they_were_said(
    cap: CapState, bucket_parts: list[Part], capped: list[tuple[str, int]]
) -> None:
    assert CapState.parsed(str(cap)) == cap
    assert parsed_parts(joined(bucket_parts)) == tuple(bucket_parts)
    assert parsed_cap_windows(joined(f"{kind}:{start}" for kind, start in capped) or "-") == tuple(capped)
    assert parsed_parts("-") == ()


@st.composite
def states(draw: st.DrawFn) -> AccountState:
    verdict, amount = draw(st.sampled_from(Verdict)), draw(st.none() | amounts)
    key = AccountName(draw(identifiers), draw(identifiers), draw(identifiers)).key(3)
    if verdict is Verdict.UNKNOWN:
        return AccountState(verdict, key, amount)
    plan_limit = draw(st.none() | amounts)
    return AccountState(
        verdict,
        key,
        amount,
        draw(amounts),
        draw(amounts),
        draw(st.none() | amounts) if plan_limit is not None else None,
        plan_limit,
        draw(st.sampled_from(["hard", "soft"])),
        draw(st.sampled_from(["counter", "level"])),
        draw(windows),
        tuple(draw(st.lists(caps, max_size=2))),
        tuple(draw(st.lists(grants, max_size=2))),
        draw(st.none() | amounts),
    )


def as_consume_writes_it(state: AccountState) -> str:
    """The lines of an account, as lua/consume.lua's header has them."""

    def word(number: int | None) -> str:
        return "-" if number is None else str(number)

    line = f"{state.verdict} {state.account_key} {word(state.amount)}"
    if state.verdict is Verdict.UNKNOWN:
        return line
    limit = "=" if state.limit == state.plan_limit else word(state.limit)
    line += f" {state.used} {state.held} {limit} {word(state.plan_limit)} {state.enforcement} {state.nature}"
    lines = [f"{line} {state.window}", *(f"cap {cap}" for cap in state.caps)]
    lines += [f"grant {each.id} {word(each.expires_ms)} {each.left}" for each in state.grants]
    if state.refunded is not None:
        lines.append(f"refunded {state.refunded}")
    return "\n".join(lines)


@calm
@given(st.lists(states(), min_size=1, max_size=4), instants, st.integers(1, 2**62), st.none() | amounts)
def test_every_reply_that_lists_accounts_comes_back_whole(
    accounts: list[AccountState], now_ms: int, epoch: int, n: int | None
) -> None:
    lines = "".join(f"\n{as_consume_writes_it(state)}" for state in accounts)
    allowed = f"allowed {now_ms} {epoch} {'-' if n is None else n}{lines}"
    whole = tuple(accounts)
    assert parsed_reply(allowed) == Reply(Outcome.ALLOWED, now_ms, epoch, "0", n, whole)
    replayed = Reply(Outcome.ALLOWED, now_ms, epoch, "0", n, whole, replayed=True)
    assert parsed_reply(f"replayed\n{allowed}") == replayed
    assert parsed_reply(f"denied {now_ms}{lines}") == Reply(Outcome.DENIED, now_ms, accounts=whole)
    unready = Reply(Outcome.UNREADY, now_ms, epoch, "17", None, whole)
    assert parsed_reply(f"unready {now_ms} {epoch} 17{lines}") == unready


@pytest.mark.parametrize(
    "word",
    [
        *("uninitialised", "catalog_changed", "key_reused", "late"),
        *("not_held", "already_refunded", "below_zero", "crowded", "undrained"),
    ],
)
def test_a_reply_without_accounts_has_the_instant(word: str) -> None:
    assert parsed_reply(f"{word} 42") == Reply(Outcome(word), 42)


def test_a_failed_reply_has_the_reason_in_full() -> None:
    reply = parsed_reply("failed WRONGTYPE Operation against a key")
    assert (reply.outcome, reply.reason) == (Outcome.FAILED, "WRONGTYPE Operation against a key")


@pytest.mark.parametrize("text", ["", "granted 1", "allowed", "allowed 1 2", "denied 1\nfits m", "denied x"])
def test_what_no_script_says_is_an_error_and_never_a_decision(text: str) -> None:
    with pytest.raises((ValueError, IndexError)):
        parsed_reply(text)


def test_every_outcome_is_a_word_of_the_scripts_header_and_every_mode_too() -> None:
    header = (ROOT / "lua/consume.lua").read_text(encoding="utf-8").split("local KEYS")[0]
    assert [word for word in (*Outcome, *Verdict, *Mode) if not re.search(rf"\b{word}\b", header)] == []


def step(shard: int, *metrics: str, mode: Mode = Mode.CONSUME, detail: str = "", **changes: str) -> Step:
    charges = tuple(Charge(f"account-{metric}", 7, detail) for metric in metrics)
    record_key = changes.get("record_key")
    fingerprint = "f" if record_key else ""
    field = keys.catalog_field("t")
    return Step(shard, mode, field, 3, charges, b"{}", record_key, fingerprint, changes.get("refunds_key"))


def test_a_consume_call_lists_keys_and_arguments_in_the_order_that_the_script_reads_them() -> None:
    steps = [
        step(1, "m", "n", record_key="record"),
        step(2, "m", mode=Mode.CHECK),
        step(3),
        step(1, "m", mode=Mode.REFUND, detail="1-5 7", record_key="other", refunds_key="refunds"),
    ]
    steps.append(replace(step(2, mode=Mode.COMMIT), charges=(Charge("account-m", None, "1-5"),)))
    call = protocol.consume(steps, 60_000, 42)
    assert call.script == "consume"
    heads = [(keys.head(shard), keys.journal(shard)) for shard in (1, 2, 3)]
    first = [*heads[0], "record", "account-m", "account-n", *heads[1], "account-m", *heads[2]]
    assert list(call.keys) == [*first, *heads[0], "other", "refunds", "account-m", *heads[1], "account-m"]
    assert list(call.arguments) == [
        *(5, 60_000, 42),
        *("consume", 2, "catalog:t", 3, "f", b"{}", 7, 7),
        *("check", 1, "catalog:t", 3, "", b"{}", 7),
        *("consume", 0, "catalog:t", 3, "", b"{}"),
        *("refund", 1, "catalog:t", 3, "f", b"{}", 7, "1-5 7"),
        *("commit", 1, "catalog:t", 3, "", b"{}", "-", "1-5"),
    ]


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_provision_call_has_a_word_for_everything(is_cut: bool) -> None:
    account = AccountName("t", "u", "m")
    granted = Entitlement(None, None, "soft", PeriodKind.LIFETIME, None, (), rollover=7 if is_cut else None)
    cut = Window(Period(PeriodKind.MONTH, 5, 9), Terms("old", PeriodKind.MONTH, None, ())) if is_cut else None
    opening = Opening(
        account,
        6,
        granted,
        Period(PeriodKind.LIFETIME, 0, None),
        caps=(CapState(Period(PeriodKind.DAY, 1, 2), 3, 4),),
        grants=(GrantState(5, -1, None, 8, 2), GrantState(7, 0, 99, 1)),
        journalled_grant=5,
        used=8,
        entry="4-1",
        seal="3-9",
        cut=cut,
        holds={"4-0": "3 99 3 -", "4-1": "1 98 0,5:-1:-:1 day:1"},
    )
    seen = {"seen": "4-1 8", "about": b"{}"} if is_cut else {}
    bringing = Bringing(2, 4, "1", opening, **seen)  # type: ignore[arg-type]
    call = protocol.provision(
        [bringing, replace(bringing, opening=replace(opening, account=AccountName("t", "v", "m")))]
    )
    assert list(call.keys) == [keys.head(2), keys.journal(2), account.key(2), AccountName("t", "v", "m").key(2)]
    epoch, fence, said, same = call.arguments
    assert (epoch, fence, same) == (4, "1", said)
    assert isinstance(said, bytes)
    assert msgspec.json.decode(said) == {
        **{"catalog_field": "catalog:t", "catalog_version": "6", "window": "0 - ~ lifetime - -", "till": "-"},
        **{"limit": "-", "enforcement": "soft", "nature": "counter", "caps": "day 1 2 3 4"},
        **{"grants": "5 -1 - 8 2 0;7 0 99 1 0 0", "journalled_grant": "5"},
        **{"used": "8", "entry": "4-1", "seal": "3-9 3-9", "holds": "4-0 3 99 3 -\n4-1 1 98 0,5:-1:-:1 day:1"},
        **({"rollover": "7", "cut": "5 9 old month - -", "seen": "4-1 8", "about": "{}"} if is_cut else {}),
    }


def test_what_has_nothing_to_say_is_left_out_of_a_provision_call() -> None:
    granted = Entitlement("p", 5, "hard", PeriodKind.LIFETIME, None, ())
    opening = Opening(AccountName("t", "u", "m"), 6, granted, Period(PeriodKind.LIFETIME, 0, None))
    note = replace(opening, ttl_ms=9, keeps_window=True)
    said, of_note = (
        msgspec.json.decode(protocol.provision([Bringing(2, 4, "1", each)]).arguments[2]) for each in (opening, note)
    )
    assert not set(said) & {
        "caps",
        "grants",
        "rollover",
        "seal",
        "cut",
        "holds",
        "ttl_ms",
        "on_window",
        "seen",
        "about",
    }
    assert of_note == said | {"ttl_ms": "9", "on_window": "keep"}


def test_accounts_go_together_that_are_of_one_shard_epoch_and_fence() -> None:
    granted = Entitlement("p", 5, "hard", PeriodKind.LIFETIME, None, ())
    opening = Opening(AccountName("t", "u", "m"), 6, granted, Period(PeriodKind.LIFETIME, 0, None))
    wanted = [
        Bringing(*of, opening) for of in [(1, 1, "0")] * (MAX_PROVISIONED + 1) + [(1, 1, "1"), (1, 2, "1"), (2, 2, "1")]
    ]
    assert [len(some) for some in protocol.together(wanted)] == [MAX_PROVISIONED, 1, 1, 1, 1]


def test_a_roll_names_the_end_that_was_seen_and_the_windows_that_hold_now() -> None:
    seen = Period(PeriodKind.MONTH, 5, 9)
    window = Window(Period(PeriodKind.MONTH, 9, 12), Terms("p", PeriodKind.MONTH, None, (80,)))
    call = protocol.roll(2, "account", seen, window, [CapState(Period(PeriodKind.DAY, 9, 10), 3)])
    assert list(call.keys) == [keys.head(2), keys.journal(2), "account"]
    assert list(call.arguments) == ["9", "9 12 p month - 80", "day 9 10 3 0"]


about = st.builds(
    About,
    request_id=st.none() | identifiers,
    idempotency_key=st.none() | st.text(max_size=255),
    operation=st.none() | identifiers,
    metadata=st.none() | st.dictionaries(st.text(max_size=9), st.text(max_size=9) | st.integers(-(2**53), 2**53)),
)


@calm
@given(about, windows, st.integers(1, 2**62), st.integers(2, MAX_AMOUNT), amounts, st.none() | amounts, instants)
def test_an_entry_comes_back_from_its_line(
    said: About, agreed: Window, epoch: int, n: int, change: int, used: int | None, at_ms: int
) -> None:
    account = AccountName("t:1", "u", "m")
    after = "-" if used is None else used
    buckets = "2,7:-1:-:1"
    line = f"refund {at_ms} {change} -{change} {after} 3 4 1-9 {buckets} day:17 {account.key(9)} {agreed}"
    entry = parsed_entry(9, f"{epoch}-{n}".encode(), {b"line": line.encode(), b"about": encode_about(said)})
    assert (entry.shard, entry.place, entry.kind, entry.about) == (9, Place(epoch, n), "refund", said)
    assert (entry.amount, entry.change, entry.used_after) == (change, -change, used)
    assert (entry.receipt_first_n, entry.receipt_count, entry.occurred_at_ms) == (n - 2, 4, at_ms)
    assert (entry.detail, entry.parts) == ("1-9", (Part(2), Part(1, 7, -1)))
    assert (entry.cap_windows, entry.account, entry.window) == ((("day", 17),), account, agreed)


def test_what_only_people_ask_for_is_left_out_where_there_is_none() -> None:
    written = encode_about(About(request_id="r", at_ms=5))
    assert msgspec.json.decode(written) == {"request_id": "r", "at_ms": 5}


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

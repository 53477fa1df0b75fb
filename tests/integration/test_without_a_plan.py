"""The note that a subject has no plan: it goes away by itself, and stays as soon as there is something to count."""

from collections.abc import Iterator
from typing import Any

import pytest

from quota.entitlement import Entitlement
from quota.formats import LIFETIME, GrantState, detail_of_charge
from quota.periods import PeriodKind
from quota.protocol import Mode, Opening
from tests.integration.shard import SERVERS, ClockedShard, clocked_shard_on

TTL_MS = 60_000


@pytest.fixture(params=SERVERS)
def shard(request: pytest.FixtureRequest) -> Iterator[ClockedShard]:
    with clocked_shard_on(request.param, request) as shard:
        yield shard


def note(shard: ClockedShard, limit: int | None = 0, **changes: Any) -> Opening:
    """What the ledger says of an account whose subject has no plan, `entry` being the last that it has got."""
    nobody = Entitlement(None, limit, "hard", PeriodKind.LIFETIME, None, (80, 95))
    usual: dict[str, Any] = {"entitlement": nobody, "period": LIFETIME.period, "ttl_ms": TTL_MS, "keeps_window": True}
    return shard.opening(**usual | changes)


def goes(shard: ClockedShard) -> bool:
    return 0 < shard.connection.pttl(shard.key()) <= TTL_MS


def stays(shard: ClockedShard) -> bool:
    return shard.connection.pttl(shard.key()) == -1


def open_note(shard: ClockedShard, limit: int | None = 0, **changes: Any) -> None:
    shard.open("other")
    assert shard.provision(note(shard, limit, **changes)) == "provisioned"


def test_it_goes_away_by_itself_and_a_plan_makes_it_stay(shard: ClockedShard) -> None:
    open_note(shard)
    assert goes(shard)
    (reply,) = shard.consume(shard.step(1))
    assert (reply.outcome, reply.accounts[0].window.terms.plan) == ("denied", None)
    assert goes(shard), "made-up subjects would fill Redis with denials"
    shard.provision(shard.opening())
    assert stays(shard)
    shard.provision(note(shard, entry=shard.entry()))
    assert goes(shard)


@pytest.mark.parametrize("mode", [Mode.CONSUME, Mode.HOLD, Mode.SET, Mode.CHARGE])
@pytest.mark.parametrize("limit", [10, None])
def test_it_stays_when_units_are_written_on_it(shard: ClockedShard, mode: Mode, limit: int | None) -> None:
    """Also where it may use something: no entitlement says so today, and the plain case must not rely on that."""
    open_note(shard, limit)
    shard.do(Mode.CONSUME, (0, ""))
    assert goes(shard)
    detail = {Mode.HOLD: "60000", Mode.CHARGE: detail_of_charge(shard.now_ms(), LIFETIME)}.get(mode, "")
    assert shard.do(mode, (1, detail)).outcome.value == "allowed"
    assert stays(shard)


def test_what_was_let_through_is_charged_to_it_above_its_limit_and_makes_it_stay(shard: ClockedShard) -> None:
    open_note(shard)
    assert shard.do(Mode.CHARGE, (2, detail_of_charge(shard.now_ms(), LIFETIME))).outcome.value == "allowed"
    assert (shard.used(), stays(shard)) == (2, True)


def test_it_stays_when_it_has_a_grant(shard: ClockedShard) -> None:
    open_note(shard, grants=(GrantState(1, 0, None, 5),))
    assert stays(shard)


def test_it_stays_when_a_refund_brings_a_grant_back(shard: ClockedShard) -> None:
    shard.open(limit=0, grants=(GrantState(1, 0, None, 5),)).consume(shard.step(5))
    consume = next(each for each in shard.entries() if each.kind == "consume")
    shard.roll(shard.words().period)
    shard.provision(note(shard, journalled_grant=1, entry=shard.entry()))
    assert (shard.account().get("grants"), goes(shard)) == (None, True)
    shard.refund(consume, 2)
    assert (shard.account()["grants"], stays(shard)) == ("1 0 - 2 0 0", True)


def test_it_stays_while_the_ledger_has_not_got_its_last_entry(shard: ClockedShard) -> None:
    """It would be made again from the ledger, which does not know yet that the units were given back."""
    shard.open().consume(shard.step(4))
    charged = shard.entry()
    shard.refund(shard.entries()[0], 4)
    for entry in ("-", charged):
        shard.provision(note(shard, entry=entry))
        assert (shard.used(), stays(shard)) == (0, True)
    shard.provision(note(shard, entry=shard.entry()))
    assert goes(shard)

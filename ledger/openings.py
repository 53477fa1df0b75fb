"""What Postgres says of accounts that are to be brought into Redis, in one read for all of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sqlalchemy import Connection

from ledger import accounts, catalogs, grants, holds, notices, overrides, subscriptions
from ledger.accounts import Balance
from ledger.grants import Granted
from ledger.plans import led_by_index
from quota.catalog import Catalog
from quota.entitlement import Override, Subscription, entitlement
from quota.formats import NONE, CapState, GrantState, Terms, Window
from quota.journal import Place
from quota.keys import AccountName
from quota.periods import Period, PeriodKind, period_at
from quota.protocol import Notice, Opening

NO_PLAN_TTL_MS = 60_000
"""An account of a subject without a plan is a note that there is none. It goes away by itself, so that made-up subjects
do not fill Redis; a subscription that is made meanwhile is told to it like to any other."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What Postgres says of some accounts."""

    catalogs: dict[str, tuple[int, Catalog]]
    subscriptions: dict[tuple[str, str], Subscription]
    balances: dict[AccountName, list[Balance]]
    cap_spent: dict[AccountName, dict[tuple[str, int], int]] = field(default_factory=dict)
    grants: dict[AccountName, list[Granted]] = field(default_factory=dict)
    holds: dict[AccountName, dict[str, str]] = field(default_factory=dict)
    seals: dict[AccountName, Place] = field(default_factory=dict)
    unsealed: dict[AccountName, Balance] = field(default_factory=dict)
    notices: dict[AccountName, list[Notice]] = field(default_factory=dict)
    overrides: dict[AccountName, Override] = field(default_factory=dict)


def read(connection: Connection, wanted: list[AccountName], now_ms: int) -> Reading:
    """Everything that the openings of some accounts need."""
    led_by_index(connection)
    tenants = sorted({account.tenant for account in wanted})
    subjects = sorted({(account.tenant, account.subject) for account in wanted})
    # Before all that they tell of: of a change that is committed meanwhile the terms may be read without the notice,
    # which is written a little later. The other way round its entry would say the terms of before.
    waiting = notices.of_accounts(connection, wanted)
    return Reading(
        {tenant: catalogs.newest(connection, tenant) for tenant in tenants},
        subscriptions.of_subjects(connection, subjects),
        accounts.running_balances(connection, wanted, now_ms),
        accounts.cap_spent(connection, wanted, now_ms),
        grants.of_accounts(connection, wanted, now_ms),
        holds.open_of(connection, wanted),
        accounts.seals(connection, wanted),
        accounts.unsealed_balances(connection, wanted, now_ms),
        waiting,
        overrides.of_accounts(connection, wanted),
    )


def opening(account: AccountName, now_ms: int, reading: Reading) -> Opening:
    """The account as it should stand in Redis. Pure."""
    version, catalog = reading.catalogs[account.tenant]
    subscription = reading.subscriptions.get((account.tenant, account.subject))
    override = reading.overrides.get(account)
    if override is not None and override.expires_ms is not None and override.expires_ms <= now_ms:
        override = None
    running_terms = None if subscription is None else subscription.at(now_ms)
    granted = entitlement(catalog, running_terms, account.metric, override)
    running = reading.balances.get(account, [])
    period = period_at(granted.kind, now_ms, granted.anchor_ms)
    if granted.plan is None and running:
        # Without a plan nothing is counted, so no window is opened either: the one that runs goes on to its own end.
        period = running[0].period
        granted = replace(granted, kind=period.kind)
    same = next((balance for balance in running if balance.period == period), None)
    # Units that were counted in another window, which still runs and which a plan change cut short, are kept.
    other = None
    if same is None or same.used == 0:
        other = next((balance for balance in running if balance.used and balance is not same), None)
    # A period that ended while Redis was lost is closed by the script that writes the account.
    if same is None and other is None:
        other = reading.unsealed.get(account)
    found = other or same
    cut = None
    if other is not None:
        cut = Window(other.period, Terms(other.plan, other.period.kind, None, ()))
    counted_in = found.period if found else period
    spent = reading.cap_spent.get(account, {})
    known_grants = reading.grants.get(account, [])
    seal = reading.seals.get(account)
    return Opening(
        account,
        version,
        granted,
        period,
        caps=tuple([_cap(period_at(PeriodKind(kind), now_ms), limit, spent) for kind, limit in granted.caps.items()]),
        grants=tuple([_grant(each, counted_in) for each in known_grants]),
        journalled_grant=max([each.id for each in known_grants if each.journalled], default=0),
        used=found.used if found else 0,
        entry=str(found.place) if found else NONE,
        seal=None if seal is None else str(seal),
        cut=cut,
        holds=reading.holds.get(account, {}),
        until_ms=_until_ms(subscription, override, now_ms),
        ttl_ms=NO_PLAN_TTL_MS if granted.plan is None else 0,
        keeps_window=granted.plan is None,
        notices=tuple(reading.notices.get(account, ())),
        grant_entries={each.id: (each.kind, each.about) for each in known_grants if not each.journalled},
    )


def _until_ms(subscription: Subscription | None, override: Override | None, now_ms: int) -> int | None:
    """When these terms end by themselves; the override has not ended at `now_ms`."""
    changes_ms = None if subscription is None else subscription.next_change_ms(now_ms)
    ends_ms = None if override is None else override.expires_ms
    return min((at_ms for at_ms in (changes_ms, ends_ms) if at_ms is not None), default=None)


def _cap(period: Period, limit: int, spent: Mapping[tuple[str, int], int]) -> CapState:
    return CapState(period, limit, spent.get((period.kind.value, period.start_ms), 0))


def _grant(granted: Granted, counted_in: Period) -> GrantState:
    taken = granted.taken.get((counted_in.kind.value, counted_in.start_ms), 0)
    # Where Redis went back, more may be taken of it than it had.
    return GrantState(granted.id, granted.priority, granted.expires_ms, max(0, granted.left), taken)

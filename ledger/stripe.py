"""What Stripe tells of its subscriptions, taken once, in one transaction: what is remembered of it, and what it makes
of the subject's subscription.

Deliveries of one subscription wait for each other, and so do those of one subject: each of these locks is taken in one
order, a subscription's before its subjects', so that nobody waits in a circle.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import structlog
from sqlalchemy import Connection, Row, case, func, insert, select, text
from sqlalchemy.dialects.postgresql import insert as upsert

from ledger import catalogs, subscriptions
from ledger.acts import By
from ledger.stripe_tables import stripe_events, stripe_subscriptions
from quota.catalog import Catalog
from quota.entitlement import STATUSES_IN_FORCE, Subscription
from quota.errors import UnknownPrice
from quota.stripe_events import Heard, Snapshot, StripeEvent
from quota.stripe_order import MAX_HEARD, newest
from quota.stripe_terms import ENDED, NEVER_BEGUN, Candidate, held, subject_of, subscription_of

KEPT_DAYS = 40
"""Stripe tries for three days, and sends an event again by hand for thirty."""
MAX_FORGOTTEN = 10_000
MAX_OF_A_SUBJECT = 50
"""Subscriptions that are looked at: those in force before any that has ended, however long ago they were heard of."""

log = structlog.get_logger()

_lock_subscription = text("SELECT pg_advisory_xact_lock(hashtext('stripe subscription'), hashtext(:name))")
# By the hash, which is what is locked: two names with one hash are one lock.
_lock_subjects = text(
    """
    SELECT pg_advisory_xact_lock(hashtext('stripe subject'), found.hash)
    FROM (SELECT DISTINCT hashtext(name) AS hash FROM unnest(CAST(:names AS text[])) AS name ORDER BY 1) AS found
    """
)


@dataclass(frozen=True, slots=True)
class Taken:
    """`outcome`: applied, duplicate or stale. `written`: subjects whose subscription was, each with the id of its
    announcement, and with the subscription."""

    outcome: str
    written: Sequence[tuple[str, int, Subscription]] = ()


@dataclass(frozen=True, slots=True)
class _Known:
    """What is remembered of one of Stripe's subscriptions."""

    id: str
    subject: str
    event: str
    created_s: int
    state: Snapshot
    heard: tuple[Heard, ...]


def take(connection: Connection, tenant: str, event: StripeEvent, *, now_ms: int, request_id: str) -> Taken:
    """Takes one delivery. UnknownPrice, InvalidRequest: nothing is remembered of it then, and the next try may pass."""
    by = By("stripe", event.heard.id, request_id, event.type)
    connection.execute(_lock_subscription, {"name": f"{tenant} {event.subscription}"})
    known = _known(connection, tenant, event.subscription)
    if _was_taken(connection, tenant, event, known):
        return Taken("duplicate")
    if known is not None and event.created_s < known.created_s:
        return _noted(connection, tenant, event, Taken("stale"))
    of_this_second = known.heard if known is not None and event.created_s == known.created_s else ()
    # A second so full is not Stripe's: what it ended with so far stands for all of it.
    if known is not None and len(of_this_second) >= MAX_HEARD:
        of_this_second = tuple(each for each in of_this_second if each.id == known.event)
    heard = (*of_this_second, event.heard)
    last = newest(heard)
    _remember(connection, tenant, event, last, heard)
    if of_this_second and known is not None and last.after == known.state:
        return _noted(connection, tenant, event, Taken("stale"))
    # Whose subscription it is, and whose it was.
    subjects = {subject_of(last.after)} | (set() if known is None else {known.subject})
    connection.execute(_lock_subjects, {"names": [f"{tenant} {subject}" for subject in subjects]})
    _, catalog = catalogs.newest(connection, tenant)
    written = []
    for subject in sorted(subjects):
        # Held on to, so that what a caller writes meanwhile is not judged by what was there before it.
        running = subscriptions.of_subject_locked(connection, tenant, subject)
        change = _Change(event.subscription, known, _of_subject(connection, tenant, subject), running)
        wanted = change.wanted(subject, catalog, now_ms)
        if wanted is not None and wanted != running:
            written.append((subject, subscriptions.put(connection, tenant, subject, wanted, by, now_ms=now_ms), wanted))
    return _noted(connection, tenant, event, Taken("applied", written))


def _was_taken(connection: Connection, tenant: str, event: StripeEvent, known: _Known | None) -> bool:
    if known is not None and any(each.id == event.heard.id for each in known.heard):
        return True
    query = select(stripe_events.c.id).where(stripe_events.c.tenant == tenant, stripe_events.c.id == event.heard.id)
    return connection.execute(query).one_or_none() is not None


def _noted(connection: Connection, tenant: str, event: StripeEvent, taken: Taken) -> Taken:
    connection.execute(
        insert(stripe_events).values(
            tenant=tenant,
            id=event.heard.id,
            type=event.type,
            subscription=event.subscription,
            outcome=taken.outcome,
            created_s=event.created_s,
        )
    )
    return taken


def _known(connection: Connection, tenant: str, ident: str) -> _Known | None:
    table = stripe_subscriptions
    row = connection.execute(select(table).where(table.c.tenant == tenant, table.c.id == ident)).one_or_none()
    return None if row is None else _read(row)


def _read(row: Row[Any]) -> _Known:
    state, heard = msgspec.convert(row.state, Snapshot), msgspec.convert(row.heard, tuple[Heard, ...])
    return _Known(row.id, row.subject, row.event, row.created_s, state, heard)


def _remember(connection: Connection, tenant: str, event: StripeEvent, last: Heard, heard: Sequence[Heard]) -> None:
    values = {
        "subject": subject_of(last.after),
        "event": last.id,
        "created_s": event.created_s,
        "state": msgspec.to_builtins(last.after),
        "heard": msgspec.to_builtins(heard),
        "changed_at": func.now(),
    }
    connection.execute(
        upsert(stripe_subscriptions)
        .values(tenant=tenant, id=event.subscription, **values)
        .on_conflict_do_update(constraint="a_subscription_of_stripes_is_known_once", set_=values)
    )


def _of_subject(connection: Connection, tenant: str, subject: str) -> list[_Known]:
    """Stripe's subscriptions of a subject, the newest last."""
    table, status = stripe_subscriptions, stripe_subscriptions.c.state["status"].astext
    # One that is paid for by the year has no event for a year, and others may begin and end meanwhile.
    tier = case((status.in_(STATUSES_IN_FORCE), 0), (status.in_(ENDED), 2), else_=1)
    query = (
        select(table)
        .where(table.c.tenant == tenant, table.c.subject == subject)
        .order_by(tier, table.c.created_s.desc(), table.c.id.desc())
        .limit(MAX_OF_A_SUBJECT)
    )
    return sorted(map(_read, connection.execute(query)), key=lambda each: (each.created_s, each.id))


@dataclass(frozen=True, slots=True)
class _Change:
    """What one of Stripe's subscriptions, by its id, was, and all of a subject as they are now. `running` is what the
    subject holds, whoever wrote it."""

    id: str
    known: _Known | None
    now: Sequence[_Known]
    running: Subscription | None

    def wanted(self, subject: str, catalog: Catalog, now_ms: int) -> Subscription | None:
        """What the subject is to hold, None where nothing of it changes."""
        running = self.running
        is_in_force = running is not None and running.at(now_ms).status in STATUSES_IN_FORCE
        candidates = self._candidates(self.now, catalog, now_ms)
        if not candidates:
            # Its last subscription belongs to another subject now.
            return replace(running, status="canceled", scheduled=None) if running is not None and is_in_force else None
        found = held(candidates, catalog, now_ms)
        before = [each for each in self.now if each.id != self.id]
        before += [self.known] if self.known is not None and self.known.subject == subject else []
        has_begun = any(each.id == self.id and each.state.status not in NEVER_BEGUN for each in (*before, *self.now))
        if is_in_force and not has_begun and found.subscription.status not in STATUSES_IN_FORCE:
            return None
        if found.id != self.id:
            earlier = self._candidates(before, catalog, now_ms, is_told=False)
            if earlier and held(earlier, catalog, now_ms) == found:
                return None
        return found.subscription

    def _candidates(
        self, known: Sequence[_Known], catalog: Catalog, now_ms: int, *, is_told: bool = True
    ) -> list[Candidate]:
        """One of which nobody knows any more what it buys is left out. It is told of if it is what changed, or if the
        subject would have less for it: whoever pays would lose what it buys."""
        plan = None if self.running is None else self.running.plan
        found: list[Candidate] = []
        missing: UnknownPrice | None = None
        for each in known:
            try:
                found.append(Candidate(each.id, subscription_of(each.state, catalog, plan)))
            except UnknownPrice as error:
                if is_told and each.id == self.id:
                    raise
                missing = error if each.state.status in STATUSES_IN_FORCE else missing
        if is_told and missing is not None:
            if not self._is_as_much(found, catalog, now_ms):
                raise missing
            log.warning("a subscription at Stripe is left out", reason=str(missing))
        return found

    def _is_as_much(self, found: Sequence[Candidate], catalog: Catalog, now_ms: int) -> bool:
        """Whether what is found is in force, and on a plan no lower than the one that runs."""
        if not found:
            return False
        best = held(found, catalog, now_ms).subscription
        running = None if self.running is None else catalog.plans.get(self.running.plan)
        return best.status in STATUSES_IN_FORCE and (running is None or catalog.plans[best.plan].rank >= running.rank)


_forget = text(
    """
    DELETE FROM stripe_events WHERE (tenant, id) IN (
        SELECT tenant, id FROM stripe_events WHERE received_at < now() - make_interval(days => :days)
        ORDER BY received_at LIMIT :most
    )
    """
)


def forget(connection: Connection) -> int:
    """Forgets a bounded number of events of long ago; how many."""
    return connection.execute(_forget, {"days": KEPT_DAYS, "most": MAX_FORGOTTEN}).rowcount

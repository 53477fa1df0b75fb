"""Charges what was let through in an outage, as soon as the counters are back: even above the limit, and once, because
it is charged under an idempotency key.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import groupby

import structlog

from gateway import metrics
from gateway.for_ever import for_ever
from gateway.in_order import Result
from ledger import outages
from ledger.outages import LetThrough
from ledger.store import ALL_TENANTS, Store
from quota.counters import Counters
from quota.demands import Asked, Demand
from quota.errors import IdempotencyKeyReused, NotFound
from quota.formats import Window, detail_of_charge
from quota.periods import period_at
from quota.protocol import Mode
from quota.replies import AccountState, Outcome, Reply

SETTLE_EVERY_S = 0.5
MAX_AT_ONCE = 500

log = structlog.get_logger()

AskInOrder = Callable[[Sequence[Demand]], Awaitable[list[Result]]]


class Settling:
    """One a process. `ask_in_order` decides demands of one tenant (gateway/in_order.py)."""

    def __init__(self, ask_in_order: AskInOrder, counters: Counters, store: Store) -> None:
        self._ask = ask_in_order
        self._counters = counters
        self._store = store

    async def keep_going(self) -> None:
        """Charges what waits, for ever."""
        await for_ever(SETTLE_EVERY_S, "what was let through", self.run)

    async def run(self) -> None:
        """Charges what waits, until nothing is due or the counters are away."""
        metrics.counters_away.set(self._counters.are_away)
        while not self._counters.are_away and await self.run_once() == MAX_AT_ONCE:
            pass

    async def run_once(self) -> int:
        """Charges some of what waits; how many it tried. What cannot be charged now waits for its next turn. A tenant
        for whom nothing can be charged keeps no other waiting; why is raised at the end."""
        waiting = await self._store.run(ALL_TENANTS, outages.claim_let_through, MAX_AT_ONCE)
        refusals: dict[str, str | None] = {}
        obstacle = None
        waiting.sort(key=lambda each: each.tenant)
        for _, entries in groupby(waiting, key=lambda each: each.tenant):
            try:
                refusals |= await self._charge(list(entries))
            except Exception as error:  # whatever it was
                obstacle = obstacle or error
        if refusals:
            await self._store.run(ALL_TENANTS, outages.settled, refusals)
            _tell(refusals)
        if len(refusals) < len(waiting):
            log.warning("some of what was let through cannot be charged now", requests=len(waiting) - len(refusals))
        if obstacle is not None:
            raise obstacle
        return len(waiting)

    async def _charge(self, entries: list[LetThrough]) -> dict[str, str | None]:
        """Of one tenant: by the ids of those that were charged None, of those that never can be why."""
        looks = await self._ask([_look(entry) for entry in entries])
        found = list(zip(entries, looks, strict=True))
        ready = [(entry, look) for entry, look in found if isinstance(look, Reply)]
        replies = await self._ask([_demand(entry, look, entry.idempotency_key) for entry, look in ready])
        outcomes: dict[str, Result] = {entry.id: look for entry, look in found if isinstance(look, NotFound)}
        outcomes |= {entry.id: reply for (entry, _), reply in zip(ready, replies, strict=True)}
        # A key that was let through with two bodies: both were used.
        twice = [(entry, look) for entry, look in ready if isinstance(outcomes[entry.id], IdempotencyKeyReused)]
        replies = await self._ask([_demand(entry, look, None) for entry, look in twice])
        outcomes |= {entry.id: reply for (entry, _), reply in zip(twice, replies, strict=True)}
        return {ident: _refusal(each) for ident, each in outcomes.items() if isinstance(each, Reply | NotFound)}


def _tell(refusals: dict[str, str | None]) -> None:
    charged = sum(refusal is None for refusal in refusals.values())
    if charged:
        log.warning("what was let through in an outage was charged", requests=charged)
    for reason, requests in Counter(filter(None, refusals.values())).items():
        log.error("what was let through can never be charged", requests=requests, reason=reason)


def _refusal(result: Reply | NotFound) -> str | None:
    if isinstance(result, NotFound):
        return str(result)
    return None if result.outcome is Outcome.ALLOWED else "more than can be counted"


def _look(entry: LetThrough) -> Demand:
    asked = tuple(Asked(metric, 0) for metric in entry.charges)
    return Demand(entry.tenant, entry.subject, Mode.CHECK, entry.request_id, asked)


def _demand(entry: LetThrough, look: Reply, key: str | None) -> Demand:
    return Demand(
        entry.tenant,
        entry.subject,
        Mode.CHARGE,
        entry.request_id,
        tuple(_asked(entry, state) for state in look.accounts),
        operation=entry.operation,
        metadata=entry.metadata,
        attempt=f"let-through-{entry.id}",  # not the try whose reply was lost, which is taken back
        idempotency_key=key or entry.id,
        route=(entry.route or "consume") if key else "outage",
        fingerprint=entry.fingerprint if key else entry.id,
        at_ms=entry.at_ms,
    )


def _asked(entry: LetThrough, state: AccountState) -> Asked:
    terms = state.window.terms
    window = Window(period_at(terms.kind, entry.at_ms, terms.anchor_ms), terms)
    return Asked(state.metric, entry.charges[state.metric], detail_of_charge(entry.at_ms, window))

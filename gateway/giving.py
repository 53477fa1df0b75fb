"""Carries out gifts: asks the counters for the giver's units, until the ledger has them.

It is safe to ask again, also for two gateways at once: each gift has an idempotency key of its own. Where Redis lost
that together with what it had taken, it takes it anew; where the ledger had heard of the first already, the second goes
back (ledger/gifts_booked.py).
"""

import asyncio

import structlog

from gateway.admission import Admission
from gateway.for_ever import for_ever
from ledger import gifts
from ledger.gifts import Gift
from ledger.store import ALL_TENANTS, Store
from quota.counters import Counters
from quota.decisions import Charged, decision
from quota.demands import Asked, Demand
from quota.errors import NotEnoughUnits, UnknownMetric
from quota.protocol import Mode
from quota.replies import Outcome

LOOK_EVERY_S = 1.0
MAX_AT_ONCE = 100
MAX_TOGETHER = 20
"""Each asks both stores some times; requests need them too."""
WAITS_S = (0.02, 0.03, 0.05, 0.1, 0.1, 0.2, 0.2, 0.3)
"""Between looks for what the drain has booked: a second in all, and most gifts are given within the first few."""

log = structlog.get_logger()


class Giving:
    """One a process."""

    def __init__(self, admission: Admission, counters: Counters, store: Store) -> None:
        self._admission = admission
        self._counters = counters
        self._store = store

    async def keep_going(self) -> None:
        """Carries out what was asked for a while ago, by whomever, for ever."""
        await for_ever(LOOK_EVERY_S, "giving", self.run)

    async def run(self) -> None:
        """Carries out what waits, until nothing is due or the counters are away."""
        while not self._counters.are_away and await self.run_once() == MAX_AT_ONCE:
            pass

    async def run_once(self) -> int:
        """Asks for some of the gifts that wait; how many. One that must wait keeps no other waiting; why is raised at
        the end."""
        waiting = await self._store.run(ALL_TENANTS, gifts.claim, MAX_AT_ONCE)
        obstacle: BaseException | None = None
        for first in range(0, len(waiting), MAX_TOGETHER):
            some = waiting[first : first + MAX_TOGETHER]
            found = await asyncio.gather(*map(self.take, some), return_exceptions=True)
            for gift, error in zip(some, found, strict=True):
                if isinstance(error, NotEnoughUnits | UnknownMetric):
                    log.warning("a gift was refused", tenant=gift.tenant, gift=str(gift.id), reason=str(error))
                else:
                    obstacle = obstacle or error
        if obstacle is not None:
            raise obstacle
        return len(waiting)

    async def give(self, gift: Gift) -> Gift:
        """Takes the units, and waits a while for the ledger to have them; the gift as it stands then. Raises as `take`
        does."""
        await self.take(gift)
        for wait_s in WAITS_S:
            await asyncio.sleep(wait_s)
            found = await self._store.run(gift.tenant, gifts.read, gift.tenant, gift.id)
            if found.is_settled:
                return found
        await self._store.run(gift.tenant, gifts.taken, gift.id)
        return await self._store.run(gift.tenant, gifts.read, gift.tenant, gift.id)

    async def take(self, gift: Gift) -> None:
        """Takes the giver's units, however often it is called once. NotEnoughUnits, UnknownMetric: the gift is refused.
        CountersUnavailable, LedgerUnavailable: it may have been taken, and is asked for again."""
        demand = Demand(
            gift.tenant,
            gift.giver,
            Mode.GIFT,
            gift.request_id or f"gift-{gift.id}",
            (Asked(gift.metric, gift.amount, f"gift:{gift.id}"),),
            attempt=f"gift-{gift.id}",
            idempotency_key=str(gift.id),
            route="gift",
            fingerprint=str(gift.id),
            reason=gift.reason,
            actor=gift.actor,
        )
        try:
            reply, _ = await self._admission.ask(demand)
        except UnknownMetric as error:
            await self._refuse(gift, error)
            return
        if reply.outcome is Outcome.BELOW_ZERO:
            shard = self._admission.shard_of(gift.tenant, gift.giver)
            (charged,) = decision(demand, shard, reply).charges
            await self._refuse(gift, _not_enough(gift, charged))

    async def _refuse(self, gift: Gift, error: NotEnoughUnits | UnknownMetric) -> None:
        """Raises it, unless the gift was given meanwhile: then it is that which the units are missing for."""
        if await self._store.run(gift.tenant, gifts.refuse, gift.id, str(error)):
            raise error


def _not_enough(gift: Gift, charged: Charged) -> NotEnoughUnits:
    left = sum(grant.left for grant in charged.grants)
    spare = left if charged.remaining is None else min(left, charged.remaining)
    return NotEnoughUnits(
        f"{gift.giver} has {spare} unused units of grants of {gift.metric}, and {gift.amount} are to be given; "
        f"give {spare} at most, or grant more first"
        if spare
        else f"{gift.giver} has no unused units of grants of {gift.metric}; grant some first",
        metric=gift.metric,
        amount=gift.amount,
        available=spare,
    )

"""Many demands of one tenant, in their order: what a batch asks for."""

import asyncio
from collections.abc import Sequence

from gateway.admission import MAX_ATTEMPTS, UNSETTLED, Admission, settled
from quota.catalog import Catalog
from quota.counters import Counters
from quota.demands import Asked, Demand, step
from quota.errors import CountersUnavailable, NotFound, QuotagateError
from quota.gathering import MAX_BATCH_STEPS, is_of_unknown_outcome
from quota.protocol import Step
from quota.replies import Reply

Result = Reply | QuotagateError


async def ask_in_order(admission: Admission, counters: Counters, demands: Sequence[Demand]) -> list[Result]:
    """The last word on each demand. Those that share an account are decided in their order; each succeeds or fails
    alone. Once Redis has not answered, nothing more is sent: the caller waits for one deadline, however many calls a
    batch would have been.
    """
    results: list[Result] = []
    for first in range(0, len(demands), MAX_BATCH_STEPS):
        chunk = _Chunk(admission, counters, demands[first : first + MAX_BATCH_STEPS])
        results += await chunk.ask()
        if chunk.is_unanswered:
            break
    return results + [_unsent() for _ in demands[len(results) :]]


class _Chunk:
    """As many demands as go into one call."""

    def __init__(self, admission: Admission, counters: Counters, demands: Sequence[Demand]) -> None:
        self._admission, self._counters, self._demands = admission, counters, demands
        changed = CountersUnavailable(f"the account was changed {MAX_ATTEMPTS} times meanwhile; nothing was charged")
        self._results: list[Result] = [changed] * len(demands)
        self.is_unanswered = False

    async def ask(self) -> list[Result]:
        waiting = list(range(len(self._demands)))
        for _ in range(MAX_ATTEMPTS):
            steps = await self._steps_of(waiting)
            waiting = list(steps)
            if steps and not self.is_unanswered:
                waiting = await self._mended(await self._replies_to(steps))
            if self.is_unanswered:
                for place in waiting:
                    self._results[place] = _unsent()
            if self.is_unanswered or not waiting:
                break
        return self._results

    async def _replies_to(self, steps: dict[int, Step]) -> dict[int, Reply]:
        """The replies by their places; what has none has its result."""
        try:
            replies = await self._counters.decide_in_order(list(steps.values()))
        except CountersUnavailable as error:  # nothing was sent: Redis is away, or too many batches wait for it
            self.is_unanswered = True
            replies = [error] * len(steps)
        found = {}
        for place, reply in zip(steps, replies, strict=True):
            if isinstance(reply, Reply):
                found[place] = reply
            else:
                self._fail(place, reply)
        return found

    def _fail(self, place: int, error: QuotagateError) -> None:
        self._results[place] = error
        self.is_unanswered = self.is_unanswered or is_of_unknown_outcome(error)

    async def _steps_of(self, waiting: list[int]) -> dict[int, Step]:
        """The steps of those demands that wait, by their places; what cannot become a step has its result."""
        if not waiting:
            return {}
        tenant = self._demands[0].tenant
        version, catalog = await self._admission.catalogs.get(tenant)
        found = {place: _charges_or_error(self._demands[place], catalog) for place in waiting}
        if any(isinstance(each, NotFound) for each in found.values()):
            try:
                version, catalog = await self._admission.catalogs.refresh(tenant)
                found = {place: _charges_or_error(self._demands[place], catalog) for place in waiting}
            except QuotagateError as error:  # the ledger is away: who needs nothing of it goes on
                found = {place: error if isinstance(each, NotFound) else each for place, each in found.items()}
        steps, refused = {}, {}
        for place, charges in found.items():
            demand = self._demands[place]
            if isinstance(charges, tuple):
                steps[place] = step(demand, charges, self._admission.shard_of(tenant, demand.subject), version)
            else:
                refused[place] = charges
        # Together, so that they wait for Redis together.
        await asyncio.gather(*(self._replay_or_refuse(place, error, version) for place, error in refused.items()))
        return steps

    async def _replay_or_refuse(self, place: int, refusal: QuotagateError, version: int) -> None:
        demand = self._demands[place]
        shard = self._admission.shard_of(demand.tenant, demand.subject)
        try:
            self._results[place] = await self._admission.replayed(demand, shard, version) or refusal
        except QuotagateError as error:
            self._fail(place, error)

    async def _mended(self, replies: dict[int, Reply]) -> list[int]:
        """Keeps the settled replies, and brings what the others miss; the places of those to ask again."""
        unsettled = {place: reply for place, reply in replies.items() if reply.outcome in UNSETTLED}
        for place in replies.keys() - unsettled.keys():
            self._results[place] = _settled_or_error(replies[place])
        demands = [self._demands[place] for place in unsettled]
        shards = [self._admission.shard_of(demand.tenant, demand.subject) for demand in demands]
        mends = map(self._admission.mend, demands, shards, unsettled.values())
        again = []
        for place, error in zip(unsettled, await asyncio.gather(*mends, return_exceptions=True), strict=True):
            if error is None:
                again.append(place)
            elif isinstance(error, QuotagateError):
                self._fail(place, error)
            else:
                raise error
        return again


def _unsent() -> CountersUnavailable:
    return CountersUnavailable("the counters did not answer for other items of this batch; nothing was charged")


def _charges_or_error(demand: Demand, catalog: Catalog) -> tuple[Asked, ...] | QuotagateError:
    try:
        return demand.charges(catalog)
    except QuotagateError as error:
        return error


def _settled_or_error(reply: Reply) -> Result:
    try:
        return settled(reply)
    except QuotagateError as error:
        return error

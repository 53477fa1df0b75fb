"""What happens to a consume while the counters are away: by its metrics' `on_outage` it is refused, or let through and
charged later.

What is let through is kept in Postgres, or, when that is away too, on this machine's own disk, before the caller hears
of it. Once the counters are back it is charged, even above the limit, under an idempotency key: once.
"""

import asyncio
from dataclasses import replace
from uuid import uuid4

import structlog

from gateway import metrics
from gateway.admission import Admission
from gateway.spool import Spool
from ledger import outages
from ledger.outages import LetThrough
from ledger.store import ALL_TENANTS, Store
from quota.catalog import Catalog
from quota.counters import Counters
from quota.demands import Asked, Demand
from quota.errors import CountersUnavailable, IdempotencyKeyReused, LedgerUnavailable, NotFound, QuotagateError
from quota.formats import Window
from quota.periods import period_at
from quota.protocol import Mode
from quota.replies import AccountState, Outcome

SETTLE_EVERY_S = 0.5
MAX_AT_ONCE = 200
MAX_STORED_AT_ONCE = 1_000
"""Of a file: one statement of the ledger takes far less than its deadline."""
KEEP_WITHIN_S = 0.25
"""The caller has waited for the counters already: a ledger that takes longer than this counts as away."""

log = structlog.get_logger()


class Outage:
    """One a process."""

    def __init__(self, admission: Admission, counters: Counters, store: Store, spool: Spool) -> None:
        self._admission = admission
        self._counters = counters
        self._store = store
        self._spool = spool
        self._keeping: list[tuple[LetThrough, asyncio.Future[None]]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def let_through(self, demand: Demand, error: CountersUnavailable) -> tuple[Asked, ...]:
        """What a consume that the counters did not decide will be charged, once that is kept; raises the error where a
        metric is not to be used without being counted."""
        catalog = self._admission.catalogs.known(demand.tenant)
        charges = None if catalog is None else _charges(demand, catalog)
        if (
            charges is None
            or catalog is None
            or any(catalog.metrics[each.metric].on_outage != "allow" for each in charges)
        ):
            try:
                raise error
            finally:
                # Its traceback holds this frame: what they make of each other, ten thousand times over, the collector
                # would take apart in one pause of 80 ms, while everybody is to be refused at once.
                del error
        if any(each.amount for each in charges):
            await self._keep(_let_through(demand, charges, self._counters.clock.now_ms()))
        metrics.decisions_of("/v1/consume", "degraded").inc()
        return charges

    async def _keep(self, entry: LetThrough) -> None:
        """Returns once the entry is safe. Those of one turn of the loop are written together."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keeping.append((entry, future))
        if len(self._keeping) == 1:
            asyncio.get_running_loop().call_soon(self._flush)
        await future

    def _flush(self) -> None:
        keeping, self._keeping = self._keeping, []
        task = asyncio.create_task(self._write(keeping))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _write(self, keeping: list[tuple[LetThrough, asyncio.Future[None]]]) -> None:
        entries = [entry for entry, _ in keeping]
        try:
            await self._write_somewhere(entries)
        except Exception as error:  # whatever it was, the callers are waiting for it
            for _, future in keeping:
                if not future.done():
                    future.set_exception(error)
            return
        for _, future in keeping:
            if not future.done():
                future.set_result(None)

    async def _write_somewhere(self, entries: list[LetThrough]) -> None:
        try:
            async with asyncio.timeout(KEEP_WITHIN_S):
                await self._store.run(ALL_TENANTS, outages.keep, entries)
        except (LedgerUnavailable, TimeoutError):
            try:
                await asyncio.to_thread(self._spool.append, entries)
            except OSError as error:
                raise CountersUnavailable(
                    "neither the counters nor the ledger nor a disk can take this down; nothing was charged"
                ) from error

    async def keep_going(self) -> None:
        """Charges what was let through, as soon as the counters are back, for ever."""
        while True:
            await asyncio.sleep(SETTLE_EVERY_S)
            try:
                await self._store_spooled()
                while not self._counters.are_away and await self.run_once() == MAX_AT_ONCE:
                    pass
            except (QuotagateError, OSError) as error:
                log.info("what was let through waits", reason=str(error))
            except Exception as error:  # nobody else would begin it again
                log.error("what was let through cannot be charged now", exc_info=error)

    async def _store_spooled(self) -> None:
        if not await asyncio.to_thread(self._spool.has_any):
            return
        # While the ledger is away, no file is closed and none is read.
        await self._store.run(ALL_TENANTS, outages.waiting, 1)
        for path, entries in await asyncio.to_thread(self._spool.waiting):
            for first in range(0, len(entries), MAX_STORED_AT_ONCE):
                await self._store.run(ALL_TENANTS, outages.keep, entries[first : first + MAX_STORED_AT_ONCE])
            await asyncio.to_thread(self._spool.remove, path)

    async def run_once(self) -> int:
        """Charges at most MAX_AT_ONCE of what was let through; how many there were. What cannot be charged now keeps
        nobody else waiting; why is raised at the end."""
        waiting = await self._store.run(ALL_TENANTS, outages.waiting, MAX_AT_ONCE)
        obstacle = None
        for entry in waiting:
            try:
                refusal = await self._charge(entry)
            except CountersUnavailable as error:
                obstacle = error
                continue
            await self._store.run(ALL_TENANTS, outages.settled, entry.id, refusal)
        if obstacle is not None:
            raise obstacle
        if waiting:
            log.warning("what was let through in an outage was charged", requests=len(waiting))
        return len(waiting)

    async def _charge(self, entry: LetThrough) -> str | None:
        """Why it can never be charged, or None. CountersUnavailable, LedgerUnavailable when it must wait."""
        try:
            try:
                reply, _ = await self._admission.ask(await self._demand(entry, entry.idempotency_key))
            except IdempotencyKeyReused:
                # The same key was let through with two bodies: both were used.
                reply, _ = await self._admission.ask(await self._demand(entry, None))
            refusal = None if reply.outcome is Outcome.ALLOWED else "more than can be counted"
        except NotFound as error:
            refusal = str(error)
        if refusal is not None:
            log.error("what was let through cannot be charged", tenant=entry.tenant, id=entry.id, reason=refusal)
        return refusal

    async def _demand(self, entry: LetThrough, key: str | None) -> Demand:
        demand = Demand(
            entry.tenant,
            entry.subject,
            Mode.CHECK,
            entry.request_id,
            tuple(Asked(metric, 0) for metric in entry.charges),
        )
        reply, _ = await self._admission.ask(demand)
        return replace(
            demand,
            mode=Mode.CHARGE,
            asked=tuple(
                Asked(state.metric, entry.charges[state.metric], f"{entry.at_ms} {_window_at(state, entry.at_ms)}")
                for state in reply.accounts
            ),
            operation=entry.operation,
            metadata=entry.metadata,
            attempt=f"let-through-{entry.id}",  # not the try whose reply was lost, which is taken back
            idempotency_key=key or entry.id,
            route=(entry.route or "consume") if key else "outage",
            fingerprint=entry.fingerprint if key else entry.id,
            at_ms=entry.at_ms,
        )


def _window_at(state: AccountState, at_ms: int) -> Window:
    terms = state.window.terms
    return Window(period_at(terms.kind, at_ms, terms.anchor_ms), terms)


def _charges(demand: Demand, catalog: Catalog) -> tuple[Asked, ...] | None:
    try:
        return demand.charges(catalog)
    except QuotagateError:
        return None  # it cannot be known now what that is


def _let_through(demand: Demand, charges: tuple[Asked, ...], at_ms: int) -> LetThrough:
    return LetThrough(
        id=str(uuid4()),
        tenant=demand.tenant,
        subject=demand.subject,
        at_ms=at_ms,
        charges={each.metric: each.amount or 0 for each in charges},
        operation=demand.operation,
        metadata=None if demand.metadata is None else dict(demand.metadata),
        request_id=demand.request_id,
        idempotency_key=demand.idempotency_key,
        route=demand.route,
        fingerprint=demand.fingerprint,
    )

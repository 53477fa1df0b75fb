"""Reset: what is to be done at the end of a period, though no request has waited for it.

A request that comes first opens its account's period by itself. This sweeps the others, seals what has been closed,
gives what rolls over to the next period, lets grants expire that nobody looks at, and writes down plan changes that
have come to hold. All of it is a stream of small transactions that rests as long as it works; each may be done twice,
and whoever is killed has only left something for the next run.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import structlog
from redis import Redis
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DataError, IntegrityError

from ledger import announcements, catalogs, grants, reconciliations, sealing, shards, subscriptions
from ledger.plans import led_by_index
from ledger.sealing import Due, Sealed
from ledger.store import ALL_TENANTS, transaction
from quota.errors import first_line
from quota.journal import Place
from quota.rolling import roll_call
from workers.bringing_in import BringingIn
from workers.releasing import Releasing

PAGE = 500
"""Of periods or grants in one transaction: some ten milliseconds."""
CHANGES_PAGE = 100
"""Of subjects whose terms change, each of which is several statements."""
HOLD_S = 10.0
"""How long one run goes on, so that other jobs have their turn."""
LONGEST_REST_S = 0.5
HEARD_WITHIN_MS = 10_000
"""A hold that expired is let go by whoever asks next, and the ledger hears of it; only what nobody did is swept."""

UNSEALABLE = (ValueError, TypeError, ArithmeticError, LookupError, DataError, IntegrityError)
"""What comes of a period that something is wrong with, and of no store that is away."""

log = structlog.get_logger()


@dataclass(slots=True)
class Done:
    """Periods that were `due`; accounts that were `swept`: brought from a period that is over into the one that runs;
    periods that were `sealed`, of which `differing` do not say what their entries add up to; units that were `rolled`
    over; grants that `expired`; accounts whose holds were `released`, because their time was over; subscriptions that
    were `changed`. So many periods were left `waiting`, most of them until the ledger has heard that they were closed;
    of a run that had no time to look at all of them at least one."""

    due: int = 0
    swept: int = 0
    sealed: int = 0
    differing: int = 0
    rolled: int = 0
    expired: int = 0
    released: int = 0
    changed: int = 0
    waiting: int = 0

    def __add__(self, other: "Done") -> "Done":
        return Done(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def to_document(self) -> dict[str, int]:
        return {each.name: getattr(self, each.name) for each in fields(self)}


class Reset:
    """Bound to one Redis and one ledger; knows up to where it has looked, so that periods which cannot be sealed yet do
    not keep it from the others."""

    def __init__(self, connection: "Redis", engine: Engine) -> None:
        self._bringing_in = BringingIn(connection, engine)
        self._releasing = Releasing(connection, engine, self._bringing_in)
        self._bulk = self._bringing_in.bulk
        self._engine = engine
        self._after = sealing.FIRST

    def run_once(self, hold_s: float = HOLD_S, stopping: Callable[[], bool] = lambda: False) -> Done:
        """Does what is due, for some seconds at the most."""
        deadline, done = time.monotonic() + hold_s, Done()
        now_ms, is_whole = self._bulk.now_ms(), self._after == sealing.FIRST
        for step in (self._change, self._release, self._let_expire, self._seal):
            is_more = True
            while is_more and time.monotonic() < deadline and not stopping():
                began = time.monotonic()
                is_more = step(done, now_ms)
                if is_more:
                    time.sleep(min(time.monotonic() - began, LONGEST_REST_S))
            is_whole = is_whole and not is_more
        done.waiting = max(done.due - done.sealed, 0 if is_whole else 1)
        if done.swept or done.sealed or done.expired or done.released or done.changed:
            log.info("reset", **done.to_document())
        return done

    def _change(self, done: Done, now_ms: int) -> bool:
        with transaction(self._engine, ALL_TENANTS) as connection:
            led_by_index(connection)
            changed = subscriptions.change_due(connection, now_ms, CHANGES_PAGE)
        done.changed += changed.subjects
        # The terms hold since their instant; this makes entries of it. What fails is brought in by the announcer.
        self._bringing_in.bring_in(sorted(set(changed.accounts), key=str))
        return changed.is_more

    def _release(self, done: Done, now_ms: int) -> bool:
        done.released += self._releasing.release(now_ms - HEARD_WITHIN_MS, PAGE)
        return False  # the next page in the next run: nobody waits for it

    def _let_expire(self, done: Done, now_ms: int) -> bool:
        with transaction(self._engine, ALL_TENANTS) as connection:
            led_by_index(connection)
            due = grants.expired(connection, now_ms, PAGE)
        accounts = {account for account in due.values() if account is not None}
        outcomes = self._bringing_in.bring_in(sorted(accounts, key=str))
        gone = [each for each, account in due.items() if account is None or outcomes.get(account) == "provisioned"]
        with transaction(self._engine, ALL_TENANTS) as connection:
            grants.note_swept(connection, gone)
        done.expired += len(gone)
        return len(due) == PAGE and bool(gone)

    def _seal(self, done: Done, now_ms: int) -> bool:
        with transaction(self._engine, ALL_TENANTS) as connection:
            led_by_index(connection)
            page = sealing.due_after(connection, self._after, now_ms, PAGE)
        sealed = self._sealed(page, now_ms, is_last_word=False)
        done.due += len(page)
        self._book(done, sealed)
        known = {each.due for each in sealed}
        self._sweep(done, [due for due in page if due not in known], now_ms)
        self._after = page[-1] if len(page) == PAGE else sealing.FIRST
        return len(page) == PAGE

    def _book(self, done: Done, sealed: Sequence[Sealed]) -> None:
        done.sealed += len(sealed)
        done.differing += sum(each.differs for each in sealed)
        done.rolled += sum(each.rolled_over for each in sealed)
        # Redis hears of the grants at once; what cannot be told now is told by the job that tells announcements.
        given = {each.announcement: each.due.account for each in sealed if each.announcement is not None}
        outcomes = self._bringing_in.bring_in(sorted(set(given.values()), key=str))
        told = [each for each, account in given.items() if outcomes.get(account) == "provisioned"]
        if told:
            with transaction(self._engine, ALL_TENANTS) as connection:
                announcements.told(connection, told)

    def _told(self, connection: Connection, sealed: list[Sealed]) -> list[Sealed]:
        for each in sealed:
            if each.differs:
                due = each.due
                detail = {
                    "tenant": due.tenant,
                    "subject": due.subject,
                    "metric": due.metric,
                    "period_kind": due.kind,
                    "period_start_ms": due.start_ms,
                    "used": each.used,
                    "stated": each.stated,
                } | ({} if each.unreadable is None else {"close": each.unreadable})
                log.error("a period was not closed with what its entries add up to", **detail)
                shard = self._bringing_in.shard_of(due.account)
                reconciliations.add_incidents(connection, shard, "seal", [detail])
        return sealed

    def _sweep(self, done: Done, waiting: Sequence[Due], now_ms: int) -> None:
        """Brings accounts over the end of a period that nothing in the ledger has closed. Those that have left it
        already have journalled all that they ever will of it: they are sealed as soon as that is in the ledger."""
        if not waiting:
            return
        accounts = list(dict.fromkeys(due.account for due in waiting))
        shard_of = {account: self._bringing_in.shard_of(account) for account in accounts}
        heads, behind = self._bringing_in.heads(set(shard_of.values()))
        found = self._bulk.running([account.key(shard_of[account]) for account in accounts])
        with transaction(self._engine, ALL_TENANTS) as connection:
            versions = catalogs.versions(connection, sorted({account.tenant for account in accounts}))
            standings = shards.standings(connection, list(heads))
        to_bring, to_roll, gone = [], [], set()
        for account, running in zip(accounts, found, strict=True):
            shard = shard_of[account]
            epoch, offset = standings[shard]
            if heads[shard].epoch != epoch or shard in behind:
                continue  # the gateways are about to begin an epoch
            if running is None or running.epoch != epoch:
                to_bring.append(account)
            elif not running.is_over(now_ms):
                if offset >= (running.entry or Place(0, 0)):
                    gone.add(account)
            elif running.version < versions.get(account.tenant, 0) or (running.until_ms or now_ms + 1) <= now_ms:
                to_bring.append(account)
            else:
                key = account.key(shard)
                to_roll.append(roll_call(shard, key, running.window, running.caps, now_ms))
        outcomes = self._bringing_in.bring_in(to_bring)
        done.swept += sum(word == "provisioned" for word in outcomes.values())
        done.swept += sum(word == "rolled" for word in self._bulk.run_all(to_roll))
        self._seal_what_was_left(done, [due for due in waiting if due.account in gone], now_ms)

    def _seal_what_was_left(self, done: Done, left: Sequence[Due], now_ms: int) -> None:
        if not left:
            return
        self._book(done, self._sealed(left, now_ms, is_last_word=True))

    def _sealed(self, wanted: Sequence[Due], now_ms: int, *, is_last_word: bool) -> list[Sealed]:
        """Together, or one by one where one of them cannot be: that one waits, and `doctor` tells of it."""
        try:
            with transaction(self._engine, ALL_TENANTS) as connection:
                led_by_index(connection)
                return self._told(connection, sealing.seal(connection, wanted, now_ms, is_last_word=is_last_word))
        except UNSEALABLE as error:
            if len(wanted) == 1:
                log.error("a period cannot be sealed", period=wanted[0], reason=first_line(error))
                return []
        return [each for due in wanted for each in self._sealed([due], now_ms, is_last_word=is_last_word)]

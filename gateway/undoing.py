"""Undoes what one receipt names, whatever it did: each kind of charge by its own means.

All of it is safe to do twice, also by two gateways at once: what is asked has the receipt's name as its idempotency
key, so that of two which choose differently the first alone changes something.
"""

from collections.abc import Sequence

from gateway.admission import Admission
from gateway.lookups import Lookups
from gateway.refunds import asked_of
from ledger import earlier_uses, receipts
from ledger.repeats import NO_CALLER_WAS_TOLD, TakeBack
from ledger.store import Store
from quota.demands import Asked, Demand
from quota.errors import Conflict, CountersUnavailable, ReceiptNotFound, ReservationNotFound
from quota.formats import DOWN, LIFETIME, UP, detail_of_charge
from quota.handles import Receipt, Reservation
from quota.journal import Place
from quota.keys import AccountName
from quota.protocol import Mode
from quota.replies import Outcome, Reply

Charges = Sequence[tuple[AccountName, int]]


class Undoing:
    """One a process."""

    def __init__(self, admission: Admission, lookups: Lookups, store: Store) -> None:
        self._admission = admission
        self._lookups = lookups
        self._store = store

    async def undo(self, wanted: TakeBack, charges: Charges) -> bool:
        """Whether there was something left to undo. `charges` are the accounts and amounts of the receipt.

        CountersUnavailable or LedgerUnavailable when it must wait; Conflict or NotFound when it cannot be done.
        """
        if not charges:
            raise ReceiptNotFound("the ledger has no entries of this receipt")
        match wanted.kind:
            case "hold":
                return await self._undo_hold(wanted, charges[0][0])
            case "refund":
                return await self._charge_again(wanted, charges[0][0].subject)
            case "release":
                return await self._use_again(wanted, charges)
            case "correct":
                return await self._correct_back(wanted, charges[0][0])
        return await self._give_back(wanted, charges[0][0].subject)

    async def _give_back(self, wanted: TakeBack, subject: str) -> bool:
        """Of a consume or a commit."""
        receipt = Receipt(wanted.shard, wanted.epoch, wanted.first_n, wanted.count)
        epoch, taken = await self._lookups.taken(wanted.tenant, receipt)
        asked = asked_of(taken, epoch, None)
        reply = await self._ask(wanted, subject, Mode.REFUND, asked, (receipt.epoch, receipt.first_n))
        return reply.outcome is not Outcome.ALREADY_REFUNDED and _is_done(reply)

    async def _undo_hold(self, wanted: TakeBack, account: AccountName) -> bool:
        """Of two holds under one key the caller was told of the later one last: it is the one to keep, if it can be."""
        later = Place(wanted.epoch, wanted.first_n)
        if wanted.reason == NO_CALLER_WAS_TOLD:
            return await self._release(wanted, account, later)
        earlier = await self._store.run(wanted.tenant, earlier_uses.hold_before, wanted)
        if earlier is not None:
            if earlier.waits:
                raise CountersUnavailable("the hold that was made under the same key before is still to be looked at")
            other = AccountName(account.tenant, account.subject, earlier.metric)
            reply = await self._ask_to_release(wanted, other, earlier.place)
            if reply.outcome is not Outcome.NOT_HELD:
                return _is_done(reply)
            if await self._end_of_hold(wanted, other, earlier.place) == "expire":
                return False  # the later one is the only one that counts
        return await self._release(wanted, account, later)

    async def _release(self, wanted: TakeBack, account: AccountName, place: Place) -> bool:
        reply = await self._ask_to_release(wanted, account, place)
        if reply.outcome is not Outcome.NOT_HELD:
            return _is_done(reply)
        if await self._end_of_hold(wanted, account, place) == "commit":
            raise Conflict("the reservation was committed meanwhile")
        return False

    async def _ask_to_release(self, wanted: TakeBack, account: AccountName, place: Place) -> Reply:
        return await self._ask(wanted, account.subject, Mode.RELEASE, (Asked(account.metric, None, str(place)),))

    async def _end_of_hold(self, wanted: TakeBack, account: AccountName, place: Place) -> str:
        name = Reservation(place.epoch, place.n, account.subject, account.metric)
        end = await self._lookups.end_of_hold(wanted.tenant, wanted.shard, name)
        if end is None:
            raise ReservationNotFound("there is no such reservation")
        return end

    async def _charge_again(self, wanted: TakeBack, subject: str) -> bool:
        """Of a refund: its units count again where they had been counted, whatever the limit is.

        That is exact for the period and its caps. Which bucket they come from is decided anew, and the receipt that was
        refunded twice stays refunded twice: nobody can give these units back once more. For that, the script would need
        a mode that undoes a refund, and the ledger a kind of entry for it.
        """
        given = await self._store.run(wanted.tenant, receipts.given_by, wanted)
        asked = tuple(
            Asked(each.account.metric, each.amount, detail_of_charge(each.at_ms, each.window)) for each in given
        )
        return _is_done(await self._ask(wanted, subject, Mode.CHARGE, asked))

    async def _use_again(self, wanted: TakeBack, charges: Charges) -> bool:
        """Of units of a level that were given back. A level has no period, so it may be any instant."""
        detail = detail_of_charge(self._admission.now_ms(), LIFETIME)
        asked = tuple(Asked(account.metric, amount, detail) for account, amount in charges)
        return _is_done(await self._ask(wanted, charges[0][0].subject, Mode.CHARGE, asked))

    async def _correct_back(self, wanted: TakeBack, account: AccountName) -> bool:
        """Of a person's correction, which way it went only its entry says. The script takes it back while its period
        runs; of one that is over a person is told."""
        change = await self._store.run(wanted.tenant, receipts.corrected_by, wanted)
        if change is None:
            raise CountersUnavailable("the ledger has not got the correction yet that is to be taken back")
        place = Place(wanted.epoch, wanted.first_n)
        asked = Asked(account.metric, abs(change), f"{DOWN if change > 0 else UP} {place}")
        reply = await self._ask(wanted, account.subject, Mode.ADJUST, (asked,))
        if reply.outcome is Outcome.BELOW_ZERO:
            raise Conflict("the correction's period is over, or less than it added is in use now")
        return _is_done(reply)

    async def _ask(
        self,
        wanted: TakeBack,
        subject: str,
        mode: Mode,
        asked: tuple[Asked, ...],
        receipt: tuple[int, int] | None = None,
    ) -> Reply:
        name = f"{wanted.shard}.{wanted.epoch}-{wanted.first_n}"
        demand = Demand(
            wanted.tenant,
            subject,
            mode,
            f"take-back-{name}",
            asked,
            idempotency_key=name,
            route="take_back",
            fingerprint=mode.value,
            reason=wanted.reason,
            receipt=receipt,
        )
        reply, _ = await self._admission.ask(demand)
        return reply


def _is_done(reply: Reply) -> bool:
    """False when it was done before."""
    if reply.outcome is not Outcome.ALLOWED:
        raise Conflict(f"the counters refuse: {reply.outcome.value}")
    return not reply.replayed

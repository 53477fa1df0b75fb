"""Puts right what a comparison found: counters by the difference; holds, grants and accounts that cannot be used from
the ledger.

Each correction is one script, fenced by what was seen, so it may die anywhere, run twice or beside another one: whoever
comes second finds that the account has moved, and compares again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import structlog
from sqlalchemy import Engine

from ledger.openings import opening, read
from ledger.store import ALL_TENANTS, transaction
from quota import protocol
from quota.account_reading import Accounts, Counter
from quota.bulk import Bulk
from quota.formats import NONE
from quota.identifiers import MAX_AMOUNT
from quota.journal import About, encode_about
from quota.keys import AccountName
from quota.protocol import Bringing, Call, together
from workers.comparing import Comparing, Drifted, Sight, drift

ACTOR = "reconcile"
MAX_TRIES = 5
"""An account that is charged more often than it can be compared is left to a later run; each run tells of it."""

log = structlog.get_logger()


def about(drifted: Drifted) -> bytes:
    """What the ledger keeps of a correction: what differed. Pure."""
    counter = drifted.sight.counter
    at = f"{counter.shard}.{_at(counter)}"
    reason = f"the counter said {counter.used} at entry {at}, and the ledger {drifted.balance}"
    for each in drifted.buckets:
        reason += f"; of {each.what} {each.counter}, and the ledger {each.ledger}"
    return encode_about(About(reason=reason, actor=ACTOR))


def correction(drifted: Drifted) -> Call:
    """The script's call. Pure."""
    counter = drifted.sight.counter
    return protocol.correct(
        counter.shard,
        counter.account,
        counter.epoch,
        _at(counter),
        seen_used=counter.used,
        delta=drifted.lacks,
        caps=drifted.caps_lack,
        about=about(drifted),
    )


def _at(counter: Counter) -> str:
    return NONE if counter.entry is None else str(counter.entry)


class Correcting:
    """Bound to one Redis and one ledger."""

    def __init__(self, accounts: Accounts, bulk: Bulk, engine: Engine, comparing: Comparing) -> None:
        self._accounts = accounts
        self._bulk = bulk
        self._engine = engine
        self._comparing = comparing

    def correct(self, found: Sequence[Drifted]) -> int:
        """How many of these this run has put right: they were compared again afterwards. What was used, in the period
        and in capped windows, goes by the difference. Holds and grants are more than a number: an account in which
        those differ, and nothing else any more, is written anew from the ledger."""
        pending = {each.sight.counter.key: each.sight for each in found}
        done: set[str] = set()
        for _ in range(MAX_TRIES):
            told = self._put_right(self._wrong(pending))
            pending = {each.sight.counter.key: each.sight for each, reply in told if reply == "moved"}
            done |= {each.sight.counter.key for each, reply in told if reply in {"corrected", "provisioned"}}
            half = [
                each.sight.counter.key for each, reply in told if reply == "corrected" and each.is_more_than_numbers
            ]
            # Looked at anew: a counter that was put back did not know of what it knows by now.
            pending |= {sight.counter.key: sight for sight in self._comparing.look(half)[0]} if half else {}
            for each, reply in told:
                if reply not in {"corrected", "provisioned", "moved"}:
                    log.error("a counter could not be corrected", account=each.sight.counter.key, reason=reply)
            if not pending:
                break
        return self._still_right(sorted(done))

    def _wrong(self, pending: Mapping[str, Sight]) -> list[Drifted]:
        """Those that differ still, in the same way."""
        sights, _ = self._comparing.look(list(pending))
        found = [drift(sight, pending[sight.counter.key]) for sight in sights]
        return [each for each in found if each is not None and 0 <= each.balance <= MAX_AMOUNT]

    def _put_right(self, wrong: Sequence[Drifted]) -> list[tuple[Drifted, str]]:
        """What the scripts say of each. The ledger has the last entry of every one of these accounts."""
        numbers = [each for each in wrong if each.lacks or each.caps_lack]
        whole = [each for each in wrong if not (each.lacks or each.caps_lack)]
        told = list(zip(numbers, self._bulk.run_all([correction(each) for each in numbers]), strict=True))
        if not whole:
            return told
        openings = self._openings([(each.sight.counter.shard, each.sight.counter.account) for each in whole])
        found = [
            replace(bringing, seen=f"{_at(each.sight.counter)} {each.sight.counter.used}", about=about(each))
            for bringing, each in zip(openings, whole, strict=True)
        ]
        return [*told, *zip(whole, self._provisioned(found), strict=True)]

    def _still_right(self, names: Sequence[str]) -> int:
        right = 0
        for sight in self._comparing.look(names)[0] if names else ():
            # Of one that is charged meanwhile, the buckets in the ledger are further than those that were read.
            is_right = not sight.differs and (not sight.buckets or sight.is_older_than(sight.known.place))
            right += is_right
            if not is_right:
                log.error("an account still differs after its correction", account=sight.counter.key)
        return right

    def bring_in(self, wanted: Sequence[tuple[int, AccountName]]) -> int:
        """Writes accounts that are missing or damaged anew from the ledger, once it has every entry of their shards;
        how many. A shard whose entries do not get there in time is left to the next run."""
        shards = sorted({shard for shard, _ in wanted})
        standings = self._accounts.standings(shards)
        drained = self._comparing.drained_through({shard: standing.last for shard, standing in standings.items()})
        wanted = [(shard, account) for shard, account in wanted if shard in drained]
        if not wanted:
            return 0
        if others := set(self._provisioned(self._openings(wanted))) - {"provisioned"}:
            log.warning("accounts were not brought in", replies=sorted(others))
        return self._still_right([account.key(shard) for shard, account in wanted])

    def _openings(self, wanted: Sequence[tuple[int, AccountName]]) -> list[Bringing]:
        # The heads before the ledger: whatever is announced meanwhile is seen by the script.
        heads, now_ms = self._bulk.heads(sorted({shard for shard, _ in wanted})), self._bulk.now_ms()
        with transaction(self._engine, ALL_TENANTS) as connection:
            reading = read(connection, [account for _, account in wanted], now_ms)
        return [
            Bringing(shard, heads[shard].epoch, heads[shard].fence, opening(account, now_ms, reading))
            for shard, account in wanted
        ]

    def _provisioned(self, found: Sequence[Bringing]) -> list[str]:
        replies = self._bulk.run_all([protocol.provision(some) for some in together(found)])
        return [word for reply in replies for word in reply]

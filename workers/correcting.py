"""Puts right what a comparison found: counters by the difference, and accounts that cannot be used from the ledger.

Each correction is one script, fenced by what was seen, so it may die anywhere, run twice or beside another one: whoever
comes second finds that the account has moved, and compares again.
"""

from collections.abc import Sequence

import structlog
from sqlalchemy import Engine

from ledger.openings import opening, read
from ledger.store import ALL_TENANTS, transaction
from quota import protocol
from quota.account_reading import Accounts
from quota.bulk import Bulk
from quota.formats import NONE
from quota.identifiers import MAX_AMOUNT
from quota.journal import About, encode_about
from quota.keys import AccountName
from quota.protocol import MAX_PROVISIONED, Bringing, Call, batched
from workers.comparing import Comparing, Drifted, drift

ACTOR = "reconcile"
MAX_TRIES = 5
"""An account that is charged more often than it can be compared is left to a later run; each run tells of it."""

log = structlog.get_logger()


def correction(drifted: Drifted) -> Call:
    """The script's call. Pure."""
    counter = drifted.sight.counter
    at = NONE if counter.entry is None else str(counter.entry)
    reason = f"the counter said {counter.used} at entry {counter.shard}.{at}, and the ledger {drifted.balance}"
    for each in drifted.buckets:
        reason += f"; of {each.what} {each.counter}, and the ledger {each.ledger}"
    return protocol.correct(
        counter.shard,
        counter.account,
        counter.epoch,
        at,
        seen_used=counter.used,
        delta=drifted.lacks,
        caps=drifted.caps_lack,
        about=encode_about(About(reason=reason, actor=ACTOR)),
    )


class Correcting:
    """Bound to one Redis and one ledger."""

    def __init__(self, accounts: Accounts, bulk: Bulk, engine: Engine, comparing: Comparing) -> None:
        self._accounts = accounts
        self._bulk = bulk
        self._engine = engine
        self._comparing = comparing

    def correct(self, found: Sequence[Drifted]) -> int:
        """How many of these this run has put right: they were compared again afterwards. Holds and grants that differ
        are told and left as they are: they are more than a number."""
        pending = {each.sight.counter.key: each.sight for each in found}
        done: list[str] = []
        for _ in range(MAX_TRIES):
            sights, _ = self._comparing.look(list(pending))
            wrong = []
            for sight in sights:
                each = drift(sight, pending[sight.counter.key])
                if each is not None and 0 <= each.balance <= MAX_AMOUNT and (each.lacks or each.caps_lack):
                    wrong.append(each)
            pending = {}
            for each, reply in zip(wrong, self._bulk.run_all([correction(each) for each in wrong]), strict=True):
                if reply == "corrected":
                    done.append(each.sight.counter.key)
                elif reply == "moved":
                    pending[each.sight.counter.key] = each.sight
                else:
                    log.error("a counter could not be corrected", account=each.sight.counter.key, reason=reply)
            if not pending:
                break
        return self._still_right(done)

    def _still_right(self, names: Sequence[str]) -> int:
        right = 0
        for sight in self._comparing.look(names)[0] if names else ():
            is_right = not (sight.differs or sight.buckets)
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
        # The heads before the ledger: whatever is announced meanwhile is seen by the script.
        heads, now_ms = self._bulk.heads(shards), self._bulk.now_ms()
        with transaction(self._engine, ALL_TENANTS) as connection:
            reading = read(connection, [account for _, account in wanted], now_ms)
        found = [
            Bringing(shard, heads[shard].epoch, heads[shard].fence, opening(account, now_ms, reading))
            for shard, account in wanted
        ]
        replies = self._bulk.run_all([protocol.provision(some) for some in batched(found, MAX_PROVISIONED)])
        if others := {word for reply in replies for word in reply if word != "provisioned"}:
            log.warning("accounts were not brought in", replies=sorted(others))
        return self._still_right([account.key(shard) for shard, account in wanted])

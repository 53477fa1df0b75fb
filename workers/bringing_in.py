"""Brings accounts into Redis as Postgres says they are: a page of them, in one reading of the ledger.

The script writes only behind the shard's fence, and an account that lives keeps what it has used; so this may run
beside requests, and twice.
"""

from collections.abc import Sequence

from redis import Redis
from sqlalchemy import Engine

from ledger import shards
from ledger.openings import opening, read
from ledger.store import ALL_TENANTS, transaction
from quota import keys, protocol
from quota.bulk import Bulk, Head
from quota.keys import AccountName
from quota.protocol import Bringing, together


class BringingIn:
    """Bound to one Redis and one ledger."""

    def __init__(self, connection: "Redis", engine: Engine) -> None:
        self.bulk = Bulk(connection)
        self._engine = engine
        with transaction(engine, ALL_TENANTS) as opened:
            self.shard_count = shards.count(opened)

    def shard_of(self, account: AccountName) -> int:
        return keys.shard_of(account.tenant, account.subject, self.shard_count)

    def heads(self, wanted: set[int]) -> tuple[dict[int, Head], set[int]]:
        """The heads of these shards, and those of them in which Redis has lost something, and nobody has looked yet."""
        with transaction(self._engine, ALL_TENANTS) as connection:
            known = shards.standings(connection, sorted(wanted))
        # The ledger first: it may have heard more meanwhile.
        heads = self.bulk.heads(sorted(wanted))
        return heads, {shard for shard in wanted if heads[shard].is_behind(*known[shard])}

    def bring_in(self, accounts: Sequence[AccountName], *, only_missing: bool = False) -> dict[AccountName, str]:
        """What came of each that had to be brought in: `provisioned`, or why not: `uninitialised`, `behind`,
        `undrained`, `moved` or `failed`. `only_missing` leaves out those that Redis has in the epoch that their shard
        is in."""
        shard_of = {account: self.shard_of(account) for account in accounts}
        heads, behind = self.heads(set(shard_of.values()))
        outcomes = {account: "uninitialised" for account, shard in shard_of.items() if not heads[shard].epoch}
        outcomes |= {account: "behind" for account, shard in shard_of.items() if heads[shard].epoch and shard in behind}
        wanted = [account for account in shard_of if account not in outcomes]
        if only_missing:
            epochs = self.bulk.epochs_of([account.key(shard_of[account]) for account in wanted])
            wanted = [
                account
                for account, epoch in zip(wanted, epochs, strict=True)
                if epoch != heads[shard_of[account]].epoch
            ]
        # Asked before all of the older epochs is in it, the ledger would not have the last word.
        outcomes |= {account: "undrained" for account in wanted if not heads[shard_of[account]].is_drained}
        wanted = sorted((account for account in wanted if account not in outcomes), key=shard_of.__getitem__)
        if not wanted:
            return outcomes
        now_ms = self.bulk.now_ms()
        # The heads before the accounts, and both before the ledger: whatever changes meanwhile is seen by the script.
        with transaction(self._engine, ALL_TENANTS) as connection:
            reading = read(connection, wanted, now_ms)
        found = []
        for account in wanted:
            head = heads[shard_of[account]]
            found.append(Bringing(shard_of[account], head.epoch, head.fence, opening(account, now_ms, reading)))
        replies = self.bulk.run_all([protocol.provision(some) for some in together(found)])
        words = [word.split(" ")[0] for reply in replies for word in reply]
        return outcomes | dict(zip(wanted, words, strict=True))

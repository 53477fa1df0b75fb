"""Rebuild: brings the accounts that Redis has not got, or has from an epoch that has ended, in again from the ledger.

A request does that for the account that it needs; this does it for all, so that the others need not wait for it. It
may die anywhere, run twice, and run beside requests: the script writes only what is still missing, behind the shard's
fence.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import structlog
from redis import Redis
from sqlalchemy import Engine

from ledger import accounts, shards
from ledger.openings import opening, read
from ledger.store import ALL_TENANTS, transaction
from quota import keys, protocol
from quota.bulk import Bulk
from quota.keys import AccountName
from quota.protocol import MAX_PROVISIONED, Bringing, batched

PAGE_ACCOUNTS = 1_000
PAGES_AT_ONCE = 2

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Scope:
    """Which accounts: None is all of them."""

    tenant: str | None = None
    subject: str | None = None
    shards: frozenset[int] | None = None


@dataclass(slots=True)
class Rebuilt:
    """How many accounts were looked at, and what came of those that had to be brought in: `provisioned`, or why not
    (`undrained`, `moved`, `failed`)."""

    accounts: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    @property
    def is_complete(self) -> bool:
        return set(self.outcomes) <= {"provisioned"}


class Rebuild:
    """Bound to one Redis and one ledger."""

    def __init__(self, connection: "Redis", engine: Engine) -> None:
        self._bulk = Bulk(connection)
        self._engine = engine
        with transaction(engine, ALL_TENANTS) as opened:
            self._shard_count = shards.count(opened)

    def run_once(self) -> Rebuilt:
        """Brings in what is missing in every shard that began an epoch and was not gone through since."""
        heads = self._bulk.heads(range(self._shard_count))
        begun = {shard: head for shard, head in heads.items() if head.epoch and head.rebuilt != head.epoch}
        if not begun:
            return Rebuilt()
        done = self.run(Scope(shards=frozenset(begun)))
        if done.is_complete:
            self._bulk.note_rebuilt({shard: head.epoch for shard, head in begun.items()})
            log.info("the shards that began an epoch were rebuilt", shards=len(begun), accounts=done.accounts)
        return done

    def run(self, scope: Scope, progress: Callable[[int], None] = lambda _: None) -> Rebuilt:
        """Goes through the accounts that the ledger has running balances of. `progress` hears how many so far."""
        done = Rebuilt()
        under_way: deque[tuple[int, Future[Counter[str]]]] = deque()

        def finish_one() -> None:
            accounts, outcomes = under_way.popleft()
            done.outcomes += outcomes.result()
            done.accounts += accounts
            progress(done.accounts)

        # While the stores work for one page, this process works for another.
        with ThreadPoolExecutor(PAGES_AT_ONCE) as threads:
            for page in self._pages(scope):
                under_way.append((len(page), threads.submit(self._bring_in, page)))
                if len(under_way) > PAGES_AT_ONCE:
                    finish_one()
            while under_way:
                finish_one()
        return done

    def _pages(self, scope: Scope) -> Iterator[list[AccountName]]:
        after = AccountName("", "", "")
        while True:
            with transaction(self._engine, scope.tenant or ALL_TENANTS) as connection:
                page = accounts.running(
                    connection,
                    after,
                    PAGE_ACCOUNTS,
                    self._bulk.now_ms(),
                    tenant=scope.tenant,
                    subject=scope.subject,
                    among=scope.shards,
                )
            if page:
                yield page
            if len(page) < PAGE_ACCOUNTS:
                return
            after = page[-1]

    def _bring_in(self, page: Sequence[AccountName]) -> Counter[str]:
        shard_of = {account: keys.shard_of(account.tenant, account.subject, self._shard_count) for account in page}
        # The heads before the accounts, and both before the ledger: whatever changes meanwhile is seen by the script.
        heads = self._bulk.heads(sorted(set(shard_of.values())))
        epochs = self._bulk.epochs_of([account.key(shard) for account, shard in shard_of.items()])
        missing = [
            account
            for (account, shard), epoch in zip(shard_of.items(), epochs, strict=True)
            if heads[shard].epoch and epoch != heads[shard].epoch
        ]
        if not missing:
            return Counter()
        now_ms = self._bulk.now_ms()
        with transaction(self._engine, ALL_TENANTS) as connection:
            reading = read(connection, missing, now_ms)
        found = []
        for account in missing:
            head = heads[shard_of[account]]
            found.append(Bringing(shard_of[account], head.epoch, head.fence, opening(account, now_ms, reading)))
        replies = self._bulk.run_all([protocol.provision(some) for some in batched(found, MAX_PROVISIONED)])
        return Counter(word.split(" ")[0] for reply in replies for word in reply)

"""Rebuild: brings the accounts that Redis has not got, or has from an epoch that has ended, in again from the ledger.

A request does that for the account that it needs; this does it for all, so that the others need not wait for it. It
may die anywhere, run twice, and run beside requests: the script writes only what is still missing, behind the shard's
fence.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

import structlog
from redis import Redis
from sqlalchemy import Engine

from ledger import accounts
from ledger.plans import led_by_index
from ledger.store import ALL_TENANTS, transaction
from quota.keys import AccountName
from workers.bringing_in import BringingIn

PAGE_ACCOUNTS = 2_000
PAGES_AT_ONCE = 5
BEFORE_ALL = AccountName("", "", "")

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
    (`uninitialised`, `behind`, `undrained`, `moved`, `failed`)."""

    accounts: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    after: AccountName | None = None
    """Where to go on; None at the end."""

    @property
    def is_complete(self) -> bool:
        return set(self.outcomes) <= {"provisioned"}


class Rebuild:
    """Bound to one Redis and one ledger."""

    def __init__(self, connection: "Redis", engine: Engine) -> None:
        self._bringing_in = BringingIn(connection, engine)
        self._bulk = self._bringing_in.bulk
        self._engine = engine

    @property
    def shard_count(self) -> int:
        return self._bringing_in.shard_count

    def run_once(self) -> Rebuilt:
        """Brings in what is missing in every shard that began an epoch and was not gone through since."""
        heads = self._bulk.heads(range(self.shard_count))
        begun = {shard: head for shard, head in heads.items() if head.epoch and head.rebuilt != head.epoch}
        if not begun:
            return Rebuilt()
        done = self.run(Scope(shards=frozenset(begun)))
        if done.is_complete:
            self._bulk.note_rebuilt({shard: head.epoch for shard, head in begun.items()})
            log.info("the shards that began an epoch were rebuilt", shards=len(begun), accounts=done.accounts)
        return done

    def run(
        self,
        scope: Scope,
        progress: Callable[[int], None] = lambda _: None,
        *,
        after: AccountName = BEFORE_ALL,
        most_pages: int | None = None,
    ) -> Rebuilt:
        """Goes through the accounts that the ledger has running balances of, or through some pages of them. `progress`
        hears how many so far."""
        done = Rebuilt()
        under_way: deque[tuple[int, Future[dict[AccountName, str]]]] = deque()

        def finish_one() -> None:
            accounts, outcomes = under_way.popleft()
            done.outcomes.update(outcomes.result().values())
            done.accounts += accounts
            progress(done.accounts)

        # While the stores work for one page, this process works for another.
        with ThreadPoolExecutor(PAGES_AT_ONCE) as threads:
            for page in islice(self._pages(scope, after), most_pages):
                done.after = page[-1] if len(page) == PAGE_ACCOUNTS else None
                under_way.append((len(page), threads.submit(self._bringing_in.bring_in, page, only_missing=True)))
                if len(under_way) > PAGES_AT_ONCE:
                    finish_one()
            while under_way:
                finish_one()
        return done

    def estimated_accounts(self) -> int:
        """About how many there are, to say how far it is."""
        with transaction(self._engine, ALL_TENANTS) as connection:
            return accounts.estimated(connection)

    def _pages(self, scope: Scope, after: AccountName) -> Iterator[list[AccountName]]:
        while True:
            with transaction(self._engine, scope.tenant or ALL_TENANTS) as connection:
                led_by_index(connection)
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

"""Lets go of holds whose time is over and that nobody has asked for since, so that the ledger hears of it."""

from collections.abc import Sequence

from redis import Redis
from sqlalchemy import Engine

from ledger import holds
from ledger.holds import Expired
from ledger.plans import led_by_index
from ledger.store import ALL_TENANTS, transaction
from quota.account_reading import Accounts
from quota.keys import AccountName
from workers.bringing_in import BringingIn


class Releasing:
    """Bound to one Redis and one ledger; knows up to where it has looked, so that holds which cannot be let go yet do
    not keep it from the others."""

    def __init__(self, connection: "Redis", engine: Engine, bringing_in: BringingIn) -> None:
        self._accounts = Accounts(connection)
        self._engine = engine
        self._bringing_in = bringing_in
        self._after_ms = 0

    def release(self, before_ms: int, most: int) -> int:
        """The next page of holds that had expired before an instant; of how many accounts some were let go. The ledger
        hears of these; the page after the last is the first again."""
        with transaction(self._engine, ALL_TENANTS) as connection:
            led_by_index(connection)
            page = holds.expired(connection, self._after_ms, before_ms, most)
        self._after_ms = page[-1].at_ms if len(page) >= most else 0
        outcomes = self._bringing_in.bring_in(self._held(page))
        return sum(word == "provisioned" for word in outcomes.values())

    def _held(self, page: Sequence[Expired]) -> list[AccountName]:
        """The accounts that hold some of these still, and those that must be brought in first. One that lives and has
        none of them has let them go, and the ledger is about to hear of it, or has lost them, and the reconciliation
        finds that."""
        places: dict[AccountName, set[str]] = {}
        for each in page:
            places.setdefault(each.account, set()).add(str(each.place))
        shard_of = {account: self._bringing_in.shard_of(account) for account in places}
        heads, _ = self._bringing_in.heads(set(shard_of.values()))
        counters, _ = self._accounts.read([account.key(shard) for account, shard in shard_of.items()])
        without = {
            each.account
            for each in counters
            if each.epoch == heads[each.shard].epoch and places[each.account].isdisjoint(each.holds)
        }
        return sorted(places.keys() - without, key=str)

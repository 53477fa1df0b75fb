"""Small stand-ins with state: a ledger, counters and an admission that remember what they were told."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ledger import outages
from ledger.outages import LetThrough, LostReply, Note
from quota.catalog import Catalog
from quota.demands import Demand
from quota.errors import (
    CountersUnavailable,
    IdempotencyKeyReused,
    LedgerUnavailable,
    NotFound,
    QuotagateError,
    UnknownMetric,
)
from quota.formats import Terms, Window
from quota.journal import Entry
from quota.keys import AccountName
from quota.periods import PeriodKind, period_at
from quota.protocol import Mode
from quota.replies import AccountState, Outcome, Reply, Verdict

SHARDS = 8
N = TypeVar("N", LetThrough, LostReply)


class FakeStore:
    """Runs what stands in for a statement; `is_away` is a Postgres that cannot be reached."""

    def __init__(self, statements: Mapping[Callable[..., Any], Callable[..., Any]]) -> None:
        self.statements = dict(statements)
        self.is_away = False
        self.failure: Exception | None = None
        self.asked: list[tuple[str, str]] = []

    async def run(self, tenant: str, function: Callable[..., Any], *arguments: Any) -> Any:
        self.asked.append((tenant, function.__name__))
        if self.failure is not None:
            raise self.failure
        if self.is_away:
            raise LedgerUnavailable("the ledger cannot be reached")
        return self.statements[function](*arguments)


@dataclass
class KeptOutages:
    """The tables of what an outage leaves to be done. What was claimed is not due again until `make_due` says so."""

    entries: dict[str, LetThrough] = field(default_factory=dict)
    lost: dict[str, LostReply] = field(default_factory=dict)
    claimed: set[str] = field(default_factory=set)
    settled: dict[str, str | None] = field(default_factory=dict)
    writes: list[int] = field(default_factory=list)
    settlings: list[int] = field(default_factory=list)

    def keep(self, notes: Sequence[Note]) -> None:
        if notes:
            self.writes.append(len(notes))
        for note in notes:
            if isinstance(note, LetThrough):
                self.entries.setdefault(note.id, note)
            else:
                self.lost.setdefault(note.id, note)

    def claim_let_through(self, most: int) -> list[LetThrough]:
        return self._claim([each for ident, each in self.entries.items() if ident not in self.settled], most)

    def claim_lost(self, now_ms: int, most: int) -> list[LostReply]:
        return self._claim([each for each in self.lost.values() if each.until_ms < now_ms], most)

    def _claim(self, waiting: list[N], most: int) -> list[N]:
        due = [each for each in waiting if each.id not in self.claimed][:most]
        self.claimed.update(each.id for each in due)
        return due

    def make_due(self) -> None:
        self.claimed.clear()

    def settle(self, refusals: Mapping[str, str | None]) -> None:
        assert not refusals.keys() & self.settled.keys(), "settled twice"
        self.settlings.append(len(refusals))
        self.settled.update(refusals)

    def looked_for(self, lost: Sequence[LostReply]) -> None:
        for each in lost:
            self.lost.pop(each.id, None)

    def statements(self) -> dict[Callable[..., Any], Callable[..., Any]]:
        return {
            outages.keep: self.keep,
            outages.claim_let_through: self.claim_let_through,
            outages.settled: self.settle,
            outages.claim_lost: self.claim_lost,
            outages.looked_for: self.looked_for,
        }


class FakeClock:
    def __init__(self, now_ms: int) -> None:
        self.at_ms = now_ms

    def now_ms(self) -> int:
        return self.at_ms


class FakeCounters:
    """A Redis with a journal: `says_ms` is what a ping will hear of its clock."""

    def __init__(self, now_ms: int = 1_000_000) -> None:
        self.clock = FakeClock(now_ms)
        self.says_ms = now_ms
        self.are_away = False
        self.journal: dict[int, list[Entry]] = {}
        self.epoch: int | None = 1
        self.pings = 0
        self.record_ttl_ms = 100_000
        self.records: set[str] = set()
        self.looks: list[tuple[int, str, str]] = []
        self.looks_back: list[tuple[int, int]] = []

    async def ping(self) -> None:
        self.pings += 1
        self.clock.at_ms = self.says_ms

    async def epochs(self, shards: list[int]) -> dict[int, int | None]:
        return dict.fromkeys(shards, self.epoch)

    async def has_record(self, record_key: str) -> bool:
        return record_key in self.records

    async def entries(self, shard: int, first: str, last: str, count: int) -> list[Entry]:
        self.looks.append((shard, first, last))
        found = [each for each in self.journal.get(shard, []) if _place(first) <= _place_of(each) <= _place(last)]
        return found[:count]

    async def entries_since(self, shard: int, from_ms: int) -> list[Entry]:
        self.looks_back.append((shard, from_ms))
        return [each for each in reversed(self.journal.get(shard, [])) if each.occurred_at_ms >= from_ms]


def _place(text: str) -> tuple[float, float]:
    if text in {"-", "+"}:
        return (0, 0) if text == "-" else (float("inf"), 0)
    epoch, n = text.split("-")
    return int(epoch), int(n)


def _place_of(entry: Entry) -> tuple[float, float]:
    return entry.place.epoch, entry.place.n


class FakeCatalogs:
    """One catalog for all tenants; `newest` is what a refresh would read."""

    def __init__(self, catalog: Catalog | None, newest: Catalog | None = None) -> None:
        self._known, self.newest = catalog, newest or catalog
        self.refreshed = 0
        self.is_away = False

    def known(self, _tenant: str) -> Catalog | None:
        return self._known

    async def get(self, _tenant: str) -> tuple[int, Catalog]:
        assert self._known is not None
        return 1, self._known

    async def refresh(self, _tenant: str) -> tuple[int, Catalog]:
        self.refreshed += 1
        if self.is_away:
            raise LedgerUnavailable("the ledger cannot be reached")
        assert self.newest is not None
        self._known = self.newest
        return 2, self.newest


class FakeAdmission:
    """Charges without limits and remembers records, as the counters do."""

    def __init__(self, catalogs: FakeCatalogs, terms: Terms | None = None) -> None:
        self.catalogs = catalogs
        self.terms = terms or Terms("pro", PeriodKind.MONTH, None, (80,))
        self.at_ms = 0
        self.is_away = False
        self.unreachable: set[str] = set()
        self.broken_tenants: set[str] = set()
        self.outcome = Outcome.ALLOWED
        self.records: dict[tuple[str, str, str | None, str], str] = {}
        self.charged: list[Demand] = []

    def shard_of(self, _tenant: str, _subject: str) -> int:
        return 3

    def now_ms(self) -> int:
        return self.at_ms

    async def ask_in_order(self, demands: Sequence[Demand]) -> list[Reply | QuotagateError]:
        """As gateway/in_order.py does; of some tenants it cannot so much as read the catalog."""
        assert len({each.tenant for each in demands}) <= 1
        found: list[Reply | QuotagateError] = []
        for each in demands:
            if each.tenant in self.broken_tenants:
                raise ZeroDivisionError
            try:
                found.append((await self.ask(each))[0])
            except QuotagateError as error:
                found.append(error)
        return found

    async def ask(self, demand: Demand) -> tuple[Reply, Catalog]:
        if self.is_away or demand.subject in self.unreachable:
            raise CountersUnavailable("the counters do not answer; nothing was charged")
        catalog = self.catalogs.newest
        assert catalog is not None
        try:
            asked = demand.charges(catalog)
        except NotFound as error:
            raise UnknownMetric(str(error)) from error
        window = Window(period_at(self.terms.kind, self.at_ms, self.terms.anchor_ms), self.terms)
        verdict = Verdict.EXCEEDS if self.outcome is Outcome.DENIED else Verdict.FITS
        accounts = tuple(
            AccountState(
                verdict, AccountName(demand.tenant, demand.subject, each.metric).key(3), each.amount, window=window
            )
            for each in asked
        )
        if demand.mode is Mode.CHECK:
            return Reply(Outcome.ALLOWED, self.at_ms, 1, accounts=accounts), catalog
        if demand.idempotency_key is not None:
            record = (demand.tenant, demand.subject, demand.route, demand.idempotency_key)
            known = self.records.get(record)
            if known is not None and known != demand.fingerprint:
                raise IdempotencyKeyReused("used with another body")
            if known is not None:
                return Reply(Outcome.ALLOWED, self.at_ms, 1, accounts=accounts, replayed=True), catalog
            if self.outcome is Outcome.ALLOWED:
                self.records[record] = demand.fingerprint
        if self.outcome is Outcome.ALLOWED:
            self.charged.append(demand)
        return Reply(self.outcome, self.at_ms, 1, accounts=accounts), catalog

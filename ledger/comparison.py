"""What the ledger says where counters are compared with it, and which accounts Redis must have."""

from collections import Counter as CounterOf
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, text

from ledger import accounts, grants, holds
from ledger.accounts import names_of
from ledger.grants import Granted
from ledger.instants import from_timestamp, to_timestamp
from quota.account_reading import Counter
from quota.formats import parsed_parts
from quota.journal import Place
from quota.keys import AccountName

BEFORE_ALL = Place(0, 0)
EXPIRES_SOON_MS = 5_000
"""Of a grant: whether it has expired already is the next script's to say, and not compared so near to it."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the ledger says was used in a counter's period: up to and with the counter's own entry (`at_entry`), and up
    to the last one that it has, which stands at `place` (None: it knows nothing of the period)."""

    at_entry: int
    used: int
    place: Place | None


# From the balance as it is now, the changes after the wanted entry are taken off again: few, while traffic goes on.
_known = text(
    """
    SELECT coalesce(b.used, 0) AS used, b.epoch, b.n, coalesce(CASE
        WHEN (b.epoch, b.n) > (wanted.epoch, wanted.n) THEN (
            SELECT sum(e.change) FROM entries e
            WHERE (e.tenant, e.subject, e.metric) = (wanted.tenant, wanted.subject, wanted.metric)
              AND (e.epoch, e.n) > (wanted.epoch, wanted.n)
              AND (e.period_kind, e.period_start) = (wanted.kind, wanted.start)
        ) END, 0) AS later
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]), CAST(:kinds AS text[]),
                CAST(:starts AS timestamptz[]), CAST(:epochs AS bigint[]), CAST(:ns AS bigint[]))
         WITH ORDINALITY AS wanted (tenant, subject, metric, kind, start, epoch, n, place)
    LEFT JOIN balances b ON (b.tenant, b.subject, b.metric, b.period_kind, b.period_start)
                          = (wanted.tenant, wanted.subject, wanted.metric, wanted.kind, wanted.start)
    ORDER BY wanted.place
    """
)


def known(connection: Connection, counters: Sequence[Counter]) -> list[Known]:
    """Of each counter's period. The ledger must hold the counter's entry already; a counter without one was brought in
    when the ledger knew nothing of its period, and was not moved since."""
    places = [counter.entry or BEFORE_ALL for counter in counters]
    rows = connection.execute(
        _known,
        names_of([counter.account for counter in counters])
        | {
            "kinds": [counter.period_kind for counter in counters],
            "starts": [to_timestamp(counter.period_start_ms) for counter in counters],
            "epochs": [place.epoch for place in places],
            "ns": [place.n for place in places],
        },
    )
    return [
        Known(int(row.used - row.later), int(row.used), None if row.n is None else Place(row.epoch, row.n))
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Difference:
    """A bucket of an account that says something else than the ledger: `what` is `holds`, `held`, `cap <kind>
    <start_ms>`, `grant <id> left` or `grant <id> taken`, and of one that Redis has not got `grant <id> held`; of holds,
    the units are told."""

    what: str
    counter: int
    ledger: int


# Entries of other periods move holds and grants, too.
_newest = text(
    """
    SELECT wanted.place, bool_and((b.epoch, b.n) <= (wanted.epoch, wanted.n)) AS is_last
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]),
                CAST(:epochs AS bigint[]), CAST(:ns AS bigint[]))
         WITH ORDINALITY AS wanted (tenant, subject, metric, epoch, n, place)
    JOIN balances b USING (tenant, subject, metric)
    GROUP BY wanted.place, wanted.epoch, wanted.n
    """
)


def buckets(
    connection: Connection, asked: Sequence[tuple[Counter, Place]], now_ms: int
) -> list[tuple[Counter, tuple[Difference, ...]]]:
    """Those whose buckets differ, and how. Nothing is said of a counter of which the ledger has later entries than the
    one named with it, in whichever period. The transaction must be one snapshot, in which these entries are."""
    differences = _buckets(connection, [counter for counter, _ in asked], now_ms)
    found = [(*pair, differ) for pair, differ in zip(asked, differences, strict=True) if differ]
    if not found:
        return []
    places = [place for _, place, _ in found]
    wanted = names_of([counter.account for counter, _, _ in found]) | {
        "epochs": [place.epoch for place in places],
        "ns": [place.n for place in places],
    }
    passed = {row.place - 1 for row in connection.execute(_newest, wanted) if not row.is_last}
    return [(counter, differ) for number, (counter, _, differ) in enumerate(found) if number not in passed]


def _buckets(connection: Connection, counters: Sequence[Counter], now_ms: int) -> list[tuple[Difference, ...]]:
    names = [counter.account for counter in counters]
    open_holds = holds.open_of(connection, names)
    spent = accounts.cap_spent(connection, [each.account for each in counters if each.caps], now_ms)
    granted = grants.of_accounts(connection, names, now_ms)
    return [
        _differences(
            counter,
            open_holds.get(counter.account, {}),
            spent.get(counter.account, {}),
            granted.get(counter.account, []),
            now_ms,
        )
        for counter in counters
    ]


def _differences(
    counter: Counter,
    open_holds: Mapping[str, str],
    spent: Mapping[tuple[str, int], int],
    granted: Sequence[Granted],
    now_ms: int,
) -> tuple[Difference, ...]:
    """Pure. `held` is compared where no grant is in it: whether one that expires counts still, Redis alone knows."""
    if not (counter.holds or open_holds or counter.caps or counter.grants or granted):
        return ()
    if counter.holds != open_holds:
        return (Difference("holds", _units(counter.holds), _units(open_holds)),)
    words = [text.split(" ", 4) for text in open_holds.values()]
    found = []
    if not any(":" in parts for _, _, parts, *_ in words):
        found.append(Difference("held", counter.held, sum(int(amount) for amount, *more in words if len(more) == 3)))
    for cap in counter.caps:
        window = f"{cap.period.kind}:{cap.period.start_ms}"
        held = sum(int(amount) for amount, _, _, caps, *_ in words if window in caps.split(","))
        booked = spent.get((cap.period.kind, cap.period.start_ms), 0)
        found.append(Difference(f"cap {cap.period.kind} {cap.period.start_ms}", cap.spent, booked + held))
    held_of, sealed_of = _held_of_grants(words)
    known, told = {grant.id: grant for grant in granted}, {state.id: state for state in counter.grants}
    for number in told | known:
        grant, state = known.get(number), told.get(number)
        expires_ms = state.expires_ms if state else known[number].expires_ms
        if expires_ms is not None and expires_ms <= now_ms + EXPIRES_SOON_MS:
            continue
        left = max(0, grant.left - held_of[number]) if grant else 0
        taken = grant.taken.get((counter.period_kind, counter.period_start_ms), 0) if grant else 0
        if state is None:
            # One that is over is let go, or used up when its period is closed, and one that Redis has not heard of it
            # cannot know.
            if grant is not None and grant.journalled and not grant.is_over:
                found.append(Difference(f"grant {number} left", 0, left))
                found.append(Difference(f"grant {number} taken", 0, taken))
                found.append(Difference(f"grant {number} held", 0, held_of[number] - sealed_of[number]))
            continue
        found.append(Difference(f"grant {number} left", state.left, left))
        found.append(Difference(f"grant {number} taken", state.taken, taken))
    return tuple(each for each in found if each.counter != each.ledger)


def _held_of_grants(words: Sequence[Sequence[str]]) -> tuple[CounterOf[int], CounterOf[int]]:
    """The units of each grant that open holds set aside, and those of them that do so in periods that were closed."""
    held, in_closed = CounterOf[int](), CounterOf[int]()
    for _, _, parts, _, *seal in words:
        for part in parsed_parts(parts):
            if part.grant is not None:
                held[part.grant] += part.units
                in_closed[part.grant] += part.units if seal else 0
    return held, in_closed


def _units(open_holds: Mapping[str, str]) -> int:
    return sum(int(text.partition(" ")[0]) for text in open_holds.values())


@dataclass(frozen=True, slots=True)
class Expected:
    """An account that Redis must have: it has units, and an entry of the epoch that its shard is in."""

    account: AccountName
    shard: int
    used: int
    place: Place
    after: tuple[str, str, str, str, int]
    """From where to go on."""


BEGINNING = ("", "", "", "", 0)

# In key order, so that a page costs the same wherever it begins. One of an older epoch need not be in Redis yet.
_expected = text(
    """
    SELECT b.tenant, b.subject, b.metric, b.period_kind, b.period_start, b.shard, b.used, b.epoch, b.n
    FROM balances b JOIN shards s ON (s.shard, s.epoch) = (b.shard, b.epoch)
    WHERE (b.tenant, b.subject, b.metric, b.period_kind, b.period_start) > (:tenant, :subject, :metric, :kind, :start)
      AND (b.period_end IS NULL OR b.period_end > :now)
      AND (b.used > 0 OR EXISTS (
          SELECT FROM holds h
          WHERE (h.tenant, h.subject, h.metric) = (b.tenant, b.subject, b.metric)
            AND h.settled_by IS NULL AND (h.shard, h.epoch) = (b.shard, b.epoch)
      ))
    ORDER BY b.tenant, b.subject, b.metric, b.period_kind, b.period_start LIMIT :most
    """
)


def expected(connection: Connection, after: tuple[str, str, str, str, int], most: int, now_ms: int) -> list[Expected]:
    """The next accounts, by name and window, that Redis must have, with the balances that say so."""
    tenant, subject, metric, kind, start_ms = after
    wanted = {"tenant": tenant, "subject": subject, "metric": metric, "kind": kind, "start": to_timestamp(start_ms)}
    return [
        Expected(
            AccountName(row.tenant, row.subject, row.metric),
            row.shard,
            int(row.used),
            Place(row.epoch, row.n),
            (row.tenant, row.subject, row.metric, row.period_kind, from_timestamp(row.period_start)),
        )
        for row in connection.execute(_expected, wanted | {"now": to_timestamp(now_ms), "most": most})
    ]

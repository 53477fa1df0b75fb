"""The catalog: what can be counted, what operations cost, and what each plan allows.

One document, in TOML or JSON. It is either free of contradictions or refused whole, with all of them listed.
"""

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Literal

import msgspec

from quota.errors import CatalogInvalid, InvalidRequest
from quota.identifiers import MAX_AMOUNT, checked_identifier

MAX_ENTRIES_A_SECTION = 1_000
"""Metrics, operations, plans, add-ons: a subject's status lists every metric in one answer of reasonable size."""
MAX_CHARGES_AN_OPERATION = 32
"""All of them are charged in one script, during which Redis serves nobody else."""
MAX_WARNINGS_A_METRIC = 16
"""They are stored with every account, beside its plan's name: in all 64 bytes are compact, and more still works."""
MAX_RANK = 2**31 - 1  # the largest integer of a Postgres column
MAX_UNIT_CHARACTERS = 40  # a word in a sentence
MAX_URL_CHARACTERS = 2_000  # what every browser and proxy still takes
MAX_CONTRADICTIONS = 1_000
"""More than anyone reads; a hostile document could hold a million."""

DEFAULT_WARN_AT_PCT = (80, 95)
PERIODS_BY_LENGTH = ("day", "week", "month", "year")

_bare_key = re.compile(r"[A-Za-z0-9_-]{1,200}\Z")
_url = re.compile(r"https?://[!-~]+\Z")  # printable ASCII only: it goes into a header and a page as it is


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    pass


class Metric(_Part, frozen=True):
    unit: str | None = None
    kind: Literal["counter", "level"] = "counter"
    warn_at_pct: tuple[int, ...] = DEFAULT_WARN_AT_PCT
    on_outage: Literal["deny", "allow"] = "deny"

    def __post_init__(self) -> None:
        """100 is always a warning, so listing it last says nothing new: both spellings become the same catalog."""
        levels = self.warn_at_pct[:-1] if self.warn_at_pct[-1:] == (100,) else self.warn_at_pct
        # msgspec leaves a default out only if it is the very object.
        levels = DEFAULT_WARN_AT_PCT if levels == DEFAULT_WARN_AT_PCT else levels
        msgspec.structs.force_setattr(self, "warn_at_pct", levels)


class Operation(_Part, frozen=True):
    """Amounts by metric; without charges the operation is free."""

    charges: dict[str, int] = msgspec.field(default_factory=dict)


class Rollover(_Part, frozen=True):
    """At most `max` unused units go on into the next period, as a grant that ends with it."""

    max: int


class Limit(_Part, frozen=True):
    """No `limit`: unlimited. No `period`: for the subject's lifetime. `caps`: limits of shorter windows inside it."""

    limit: int | None = None
    period: Literal["day", "week", "month", "year"] | None = None
    enforcement: Literal["hard", "soft"] = "hard"
    caps: dict[str, int] = msgspec.field(default_factory=dict)
    rollover: Rollover | None = None


class Plan(_Part, frozen=True):
    """`rank` is the order of upgrades; `limits` by metric."""

    rank: int = 0
    limits: dict[str, Limit] = msgspec.field(default_factory=dict)


class AddOn(_Part, frozen=True):
    """Amounts by metric that one of this add-on adds to the plan's limit."""

    adds: dict[str, int]


class Catalog(_Part, frozen=True):
    default_plan: str | None = None
    upgrade_url: str | None = None
    metrics: dict[str, Metric] = msgspec.field(default_factory=dict)
    operations: dict[str, Operation] = msgspec.field(default_factory=dict)
    plans: dict[str, Plan] = msgspec.field(default_factory=dict)
    add_ons: dict[str, AddOn] = msgspec.field(default_factory=dict)


_SECTIONS: dict[str, type[_Part]] = {"metrics": Metric, "operations": Operation, "plans": Plan, "add_ons": AddOn}


class Change(msgspec.Struct, frozen=True):
    """One difference. UNSET (left out of the JSON) stands for an entry that is not there; None is a value."""

    path: str
    before: object = msgspec.UNSET
    after: object = msgspec.UNSET

    def __str__(self) -> str:
        if self.before is msgspec.UNSET:
            return f"added {self.path}" + (f": {self.after}" if isinstance(self.after, int) else "")
        if self.after is msgspec.UNSET:
            return f"removed {self.path}" + (f" (was {self.before})" if isinstance(self.before, int) else "")
        return f"{self.path}: {self._shown(self.before)} -> {self._shown(self.after)}"

    def _shown(self, value: object) -> str:
        if value is None:
            return {"limit": "unlimited", "period": "lifetime"}.get(self.path.rpartition(".")[2], "none")
        return value if isinstance(value, str) else json.dumps(value)


def parse_toml(text: str) -> Catalog:
    """CatalogInvalid with tomllib's line and column, with the paths of wrong types, or with every contradiction."""
    return _checked(_decoded("TOML", lambda: tomllib.loads(text)))


def parse_json(body: bytes) -> Catalog:
    """CatalogInvalid with the byte that is wrong, with the paths of wrong types, or with every contradiction."""
    return _checked(_decoded("JSON", lambda: msgspec.json.decode(body)))


def to_document(catalog: Catalog) -> dict[str, Any]:
    """The same catalog as plain JSON values: names sorted, defaults left out. Equal catalogs give equal documents."""
    return dict(_plain(catalog))


def difference(old: Catalog | None, new: Catalog) -> list[Change]:
    """What would change, sorted by path; no old catalog counts as an empty one. Values are as in a document."""
    return sorted(_changes("", old or Catalog(), new), key=lambda change: change.path)


def _plain(value: object) -> Any:
    # By way of JSON, for tuples to come out as the lists that a reader of the JSON gets.
    return msgspec.json.decode(msgspec.json.encode(value, order="deterministic"))


def _changes(path: str, old: object, new: object) -> Iterator[Change]:
    if isinstance(old, _Part) and isinstance(new, _Part):
        for field in new.__struct_fields__:
            yield from _changes(_joined(path, field), getattr(old, field), getattr(new, field))
    elif isinstance(old, dict) and isinstance(new, dict):
        for name in old.keys() | new.keys():
            yield from _changes(_joined(path, name), old.get(name, msgspec.UNSET), new.get(name, msgspec.UNSET))
    elif old != new:
        yield Change(path, *(value if value is msgspec.UNSET else _plain(value) for value in (old, new)))


def _joined(path: str, name: str) -> str:
    """A path as TOML writes it, so that a dot or a line feed in a name cannot be mistaken for something else."""
    shown = name if _bare_key.match(name) else json.dumps(name[:201])
    return f"{path}.{shown}" if path else shown


def _decoded(language: str, decode: Callable[[], object]) -> object:
    try:
        return decode()
    except RecursionError as error:
        raise CatalogInvalid(["the document is nested too deeply"]) from error
    except (msgspec.DecodeError, ValueError) as error:  # also int()'s, of a number of thousands of digits
        raise CatalogInvalid([f"not valid {language}: {error}"]) from error


def _checked(document: object) -> Catalog:
    try:
        catalog = msgspec.convert(document, Catalog)
    except msgspec.ValidationError as error:
        # msgspec stops at the first wrong type and does not name the key: so it is asked about each part alone.
        wrong = list(islice(_wrong_types(document), MAX_CONTRADICTIONS))
        raise CatalogInvalid(wrong or [str(error)]) from error
    if contradictions := list(islice(_contradictions(catalog), MAX_CONTRADICTIONS)):
        raise CatalogInvalid(contradictions)
    return catalog


def _wrong_types(document: object) -> Iterator[str]:
    for path, value, part in _parts(document):
        try:
            msgspec.convert(value, part)
        except msgspec.ValidationError as error:
            yield f"{path}: {error}"


def _parts(document: object) -> Iterator[tuple[str, object, type[_Part]]]:
    if isinstance(document, dict):
        yield "document", {key: {} if _items(document, key) else value for key, value in document.items()}, Catalog
    for section, part in _SECTIONS.items():
        for name, value in _items(document, section):
            path, limits = _joined(section, name), _items(value, "limits") if part is Plan else []
            yield from ((_joined(f"{path}.limits", metric_name), limit, Limit) for metric_name, limit in limits)
            yield path, {**value, "limits": {}} if limits else value, part


def _items(container: object, key: str) -> list[tuple[str, Any]]:
    inner = container.get(key) if isinstance(container, dict) else None
    return list(inner.items()) if isinstance(inner, dict) else []


def _contradictions(catalog: Catalog) -> Iterator[str]:
    for section in _SECTIONS:
        entries = getattr(catalog, section)
        if len(entries) > MAX_ENTRIES_A_SECTION:
            yield f"{section}: {len(entries)} entries; write {MAX_ENTRIES_A_SECTION:,} at most"
        for name in entries:
            try:
                checked_identifier(name, "the name")
            except InvalidRequest as error:
                yield f"{_joined(section, name)}: {error}"
    yield from _head_contradictions(catalog)
    for name, metric in catalog.metrics.items():
        yield from _metric_contradictions(_joined("metrics", name), metric)
    for name, operation in catalog.operations.items():
        path = f"{_joined('operations', name)}.charges"
        if len(operation.charges) > MAX_CHARGES_AN_OPERATION:
            yield f"{path}: {len(operation.charges)} metrics; write {MAX_CHARGES_AN_OPERATION} at most"
        yield from _amount_contradictions(path, operation.charges, catalog)
    for name, add_on in catalog.add_ons.items():
        yield from _amount_contradictions(f"{_joined('add_ons', name)}.adds", add_on.adds, catalog)
    yield from _rank_contradictions(catalog.plans)
    for name, plan in catalog.plans.items():
        for metric_name, limit in plan.limits.items():
            path = _joined(f"{_joined('plans', name)}.limits", metric_name)
            yield from _limit_contradictions(path, limit, catalog.metrics.get(metric_name))


def _head_contradictions(catalog: Catalog) -> Iterator[str]:
    if catalog.default_plan is not None and catalog.default_plan not in catalog.plans:
        yield "default_plan: no such plan; write the name of one under plans, or leave it out to deny"
    url = catalog.upgrade_url
    if url is not None and not (_url.match(url) and len(url) <= MAX_URL_CHARACTERS):
        yield f"upgrade_url: write an http or https address of at most {MAX_URL_CHARACTERS:,} ASCII characters"
    if re.search(r"[{}]", (url or "").replace("{plan}", "")):
        yield "upgrade_url: {plan} is the only placeholder; write other braces as %7B and %7D"


def _metric_contradictions(path: str, metric: Metric) -> Iterator[str]:
    unit, levels = metric.unit, metric.warn_at_pct
    if unit is not None and not (unit.strip() and unit.isprintable() and len(unit) <= MAX_UNIT_CHARACTERS):
        yield f"{path}.unit: write 1 to {MAX_UNIT_CHARACTERS} printable characters, or leave it out"
    if list(levels) != sorted({level for level in levels if 1 <= level <= 99}):
        yield f"{path}.warn_at_pct: write whole percents from 1 to 99, ascending, each once (100 is always one)"
    if len(levels) > MAX_WARNINGS_A_METRIC:
        yield f"{path}.warn_at_pct: {len(levels)} levels; write {MAX_WARNINGS_A_METRIC} at most"


def _amount_contradictions(path: str, amounts: dict[str, int], catalog: Catalog) -> Iterator[str]:
    for metric_name, amount in amounts.items():
        if metric_name not in catalog.metrics:
            yield f"{_joined(path, metric_name)}: no such metric; declare it under metrics or take this out"
        if not 1 <= amount <= MAX_AMOUNT:
            yield f"{_joined(path, metric_name)}: write an amount from 1 to {MAX_AMOUNT}"


def _rank_contradictions(plans: dict[str, Plan]) -> Iterator[str]:
    """Two plans of one rank would leave it open which of them is the upgrade."""
    holders: dict[int, str] = {}
    for name, plan in plans.items():
        if not 0 <= plan.rank <= MAX_RANK:
            yield f"{_joined('plans', name)}.rank: write a rank from 0 to {MAX_RANK}"
        holder = holders.setdefault(plan.rank, name)
        if holder != name:
            yield f"{_joined('plans', name)}.rank: the rank of {_joined('plans', holder)} too; write one of its own"


def _limit_contradictions(path: str, limit: Limit, metric: Metric | None) -> Iterator[str]:
    if metric is None:
        yield f"{path}: no such metric; declare it under metrics or take this out"
    if limit.limit is not None and not 0 <= limit.limit <= MAX_AMOUNT:
        yield f"{path}.limit: write a limit from 0 to {MAX_AMOUNT}, or leave it out for unlimited"
    if metric is not None and metric.kind == "level" and limit.period is not None:
        yield f'{path}.period: a level is held, not reset; leave the period out or make the metric kind = "counter"'
    yield from _cap_contradictions(path, limit, metric)
    if limit.rollover is not None and (limit.period is None or limit.limit is None):
        yield f"{path}.rollover: needs a limit and a period to roll over from; write both or leave this out"
    if limit.rollover is not None and not 1 <= limit.rollover.max <= MAX_AMOUNT:
        yield f"{path}.rollover.max: write an amount from 1 to {MAX_AMOUNT}"


def _cap_contradictions(path: str, limit: Limit, metric: Metric | None) -> Iterator[str]:
    if limit.caps and metric is not None and metric.kind == "level":
        yield f"{path}.caps: a level has no periods to cap; leave them out"
        return
    shorter = PERIODS_BY_LENGTH[: PERIODS_BY_LENGTH.index(limit.period)] if limit.period else PERIODS_BY_LENGTH
    for period, amount in limit.caps.items():
        cap_path = _joined(f"{path}.caps", period)
        if period not in shorter:
            offered = f"write {' or '.join(shorter)}" if shorter else "leave it out"
            yield f"{cap_path}: not a period shorter than the limit's own; {offered}"
        if not 0 <= amount <= MAX_AMOUNT:
            yield f"{cap_path}: write an amount from 0 to {MAX_AMOUNT}"

"""The catalog: what can be counted, what operations cost, and what each plan allows.

One document, in TOML or JSON. It is either free of contradictions or refused whole, with all of them listed.
"""

import json
import tomllib
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Literal

import msgspec

from quota.catalog_paths import joined
from quota.catalog_rules import contradictions
from quota.catalog_shapes import misshapen, without_unknown
from quota.errors import CatalogInvalid

MAX_CONTRADICTIONS = 1_000
"""More than anyone reads; a hostile document could hold a million."""

DEFAULT_WARN_AT_PCT = (80, 95)


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    pass


class Gifts(_Part, frozen=True):
    """How many units a subject may give to others, and receive of them, in a day of UTC; None: as many as there are."""

    given_a_day: int | None = None
    received_a_day: int | None = None


class Metric(_Part, frozen=True):
    unit: str | None = None
    kind: Literal["counter", "level"] = "counter"
    warn_at_pct: tuple[int, ...] = DEFAULT_WARN_AT_PCT
    on_outage: Literal["deny", "allow"] = "deny"
    gifts: Gifts | None = None

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
    """`rank` is the order of upgrades; `limits` by metric; who buys one of `stripe_prices` at Stripe is on it."""

    rank: int = 0
    limits: dict[str, Limit] = msgspec.field(default_factory=dict)
    stripe_prices: tuple[str, ...] = ()


class AddOn(_Part, frozen=True):
    """Amounts by metric that one of this add-on adds to the plan's limit."""

    adds: dict[str, int]
    stripe_prices: tuple[str, ...] = ()


class Catalog(_Part, frozen=True):
    default_plan: str | None = None
    upgrade_url: str | None = None
    past_due_grace_days: int | None = None
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


def stored(document: object) -> Catalog:
    """A catalog that was checked when it was applied. A newer version may have checked it: keys that this one does not
    know are passed over, and what it would refuse to take is served."""
    try:
        return msgspec.convert(document, Catalog)
    except msgspec.ValidationError:
        pass
    try:
        return msgspec.convert(without_unknown(document, Catalog), Catalog)
    except msgspec.ValidationError as error:
        raise CatalogInvalid([f"the stored catalog is of a newer version: {error}"]) from error


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
            yield from _changes(joined(path, field), getattr(old, field), getattr(new, field))
    elif isinstance(old, dict) and isinstance(new, dict):
        for name in old.keys() | new.keys():
            yield from _changes(joined(path, name), old.get(name, msgspec.UNSET), new.get(name, msgspec.UNSET))
    elif old != new:
        yield Change(path, *(value if value is msgspec.UNSET else _plain(value) for value in (old, new)))


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
        wrong = list(islice(misshapen("", document, Catalog), MAX_CONTRADICTIONS))
        raise CatalogInvalid(wrong or [str(error)]) from error
    if found := list(islice(contradictions(catalog, tuple(_SECTIONS)), MAX_CONTRADICTIONS)):
        raise CatalogInvalid(found)
    return catalog

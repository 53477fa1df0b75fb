"""What a new catalog means for subjects: a line for each thing that changes, whom it concerns, and whether it gets
tighter. Counting them is the ledger's."""

from collections.abc import Iterator
from dataclasses import dataclass

from quota.catalog import AddOn, Catalog, Limit, Plan
from quota.catalog_paths import joined
from quota.catalog_rules import PERIODS_BY_LENGTH
from quota.catalog_words import amounts_words, limit_words, value_words, versus

_NONE = Limit(limit=0)
"""What a plan allows of a metric that it does not name."""


@dataclass(frozen=True, slots=True)
class Concerned:
    """Whose limits a line changes: subjects on any of `plans` by the old catalog, where None stands for having none, or
    those with the add-on."""

    plans: tuple[str | None, ...] = ()
    add_on: str | None = None


@dataclass(frozen=True, slots=True)
class Effect:
    """`group` and `name` are what it is shown under: a plan and its metric. `concerned` None is everybody who uses what
    is named, whom no table lists. `new_limit` is there if the limit of this metric is lowered: who has used more is
    over it."""

    path: str
    group: str
    name: str
    words: str
    is_tighter: bool = False
    concerned: Concerned | None = Concerned()
    metric: str | None = None
    new_limit: int | None = None


def effects(old: Catalog, new: Catalog) -> list[Effect]:
    """In the order in which people look: plans by rank and their metrics, add-ons, metrics, operations, the rest."""
    return [
        *_of_plans(old, new),
        *_of_add_ons(old, new),
        *_of_metrics(old, new),
        *_of_operations(old, new),
        *_of_head(old, new),
    ]


def _of_plans(old: Catalog, new: Catalog) -> Iterator[Effect]:
    every = {**old.plans, **new.plans}
    for name in sorted(every, key=lambda each: (every[each].rank, each)):
        before, after, path = old.plans.get(name), new.plans.get(name), joined("plans", name)
        if before is None and after is not None:
            limits = "; ".join(f"{metric} {limit_words(limit)}" for metric, limit in sorted(after.limits.items()))
            yield Effect(path, path, "", f"new plan of rank {after.rank}: {limits or 'no limits'}")
        elif before is not None and after is None:
            falls = (
                f"its subjects are on {new.default_plan} then" if new.default_plan else "its subjects are denied then"
            )
            yield Effect(path, path, "", f"removed; {falls}", True, Concerned((name,)))
            yield from _lowered_by_removal(path, name, before, new)
        elif before is not None and after is not None:
            yield from _of_plan(path, name, before, after)


def _lowered_by_removal(path: str, name: str, before: Plan, new: Catalog) -> Iterator[Effect]:
    """What is smaller on the plan that its subjects fall to."""
    falls_to = new.plans[new.default_plan] if new.default_plan else Plan()
    for metric, limit in sorted(before.limits.items()):
        following = falls_to.limits.get(metric, _NONE)
        if _is_tighter(limit, following):
            yield Effect(
                joined(f"{path}.limits", metric),
                path,
                metric,
                versus(limit_words(limit), limit_words(following)),
                True,
                Concerned((name,)),
                metric,
                _lowered(limit, following),
            )


def _of_plan(path: str, name: str, before: Plan, after: Plan) -> Iterator[Effect]:
    on_it = Concerned((name,))
    for metric in sorted(before.limits.keys() | after.limits.keys()):
        earlier, later = before.limits.get(metric), after.limits.get(metric)
        if earlier == later:
            continue
        words = versus(*("none" if each is None else limit_words(each) for each in (earlier, later)))
        earlier, later = earlier or _NONE, later or _NONE
        yield Effect(
            joined(f"{path}.limits", metric),
            path,
            metric,
            words,
            _is_tighter(earlier, later),
            on_it,
            metric,
            _lowered(earlier, later),
        )
    for field in after.__struct_fields__:
        values = getattr(before, field), getattr(after, field)
        if field != "limits" and values[0] != values[1]:
            yield Effect(f"{path}.{field}", path, field, versus(*map(value_words, values)))  # changes no limit


def _lowered(before: Limit, after: Limit) -> int | None:
    lower = after.limit is not None and (before.limit is None or after.limit < before.limit)
    return after.limit if lower else None


def _is_tighter(before: Limit, after: Limit) -> bool:
    """In any respect; a longer period with the same limit is, because it is filled up only once."""
    kinds = (*PERIODS_BY_LENGTH, None)
    rollovers = [0 if each.rollover is None else each.rollover.max for each in (before, after)]
    return (
        _lowered(before, after) is not None
        or any(amount < before.caps.get(kind, amount + 1) for kind, amount in after.caps.items())
        or (before.enforcement, after.enforcement) == ("soft", "hard")
        or (after.limit is not None and kinds.index(after.period) > kinds.index(before.period))
        or rollovers[1] < rollovers[0]
    )


def _of_add_ons(old: Catalog, new: Catalog) -> Iterator[Effect]:
    for name in sorted(old.add_ons.keys() | new.add_ons.keys()):
        before, after, path = old.add_ons.get(name), new.add_ons.get(name), joined("add_ons", name)
        if before is None and after is not None:
            yield Effect(path, "add_ons", name, f"new: {amounts_words(after.adds)}")
        elif before is not None and after is None:
            yield Effect(path, "add_ons", name, f"removed: {amounts_words(before.adds)}", True, Concerned(add_on=name))
        elif before is not None and after is not None:
            yield from _of_add_on(path, name, before, after)


def _of_add_on(path: str, name: str, before: AddOn, after: AddOn) -> Iterator[Effect]:
    for field in after.__struct_fields__:
        values = getattr(before, field), getattr(after, field)
        if values[0] == values[1]:
            continue
        if field == "adds":
            words = versus(amounts_words(before.adds), amounts_words(after.adds))
            fewer = any(after.adds.get(metric, 0) < amount for metric, amount in before.adds.items())
            yield Effect(path, "add_ons", name, words, fewer, Concerned(add_on=name))
        else:  # what it costs and how it is sold changes no limit
            yield Effect(f"{path}.{field}", "add_ons", name, f"{field}: {versus(*map(value_words, values))}")


def _of_metrics(old: Catalog, new: Catalog) -> Iterator[Effect]:
    for name in sorted(old.metrics.keys() | new.metrics.keys()):
        before, after, path = old.metrics.get(name), new.metrics.get(name), joined("metrics", name)
        # Whose plan has it: the others have none of it, before and after.
        concerned = Concerned(tuple(sorted(plan for plan, each in old.plans.items() if name in each.limits)))
        if before is None and after is not None:
            yield Effect(path, "metrics", name, f"new {after.kind}")
        elif before is not None and after is None:
            yield Effect(path, "metrics", name, "removed: no more of it, what was used stays", True, concerned)
        elif before is not None and after is not None:
            for field in after.__struct_fields__:
                values = getattr(before, field), getattr(after, field)
                if values[0] != values[1]:
                    words = f"{field}: {versus(*map(value_words, values))}"
                    denies = field == "on_outage" and after.on_outage == "deny"
                    yield Effect(f"{path}.{field}", "metrics", name, words, denies, concerned)


def _of_operations(old: Catalog, new: Catalog) -> Iterator[Effect]:
    for name in sorted(old.operations.keys() | new.operations.keys()):
        before, after, path = old.operations.get(name), new.operations.get(name), joined("operations", name)
        if before is None and after is not None:
            yield Effect(path, "operations", name, f"new: {amounts_words(after.charges)}")
        elif before is not None and after is None:
            yield Effect(path, "operations", name, "removed: whoever asks for it gets a 404", True, None)
        elif before is not None and after is not None and before != after:
            words = versus(amounts_words(before.charges), amounts_words(after.charges))
            dearer = any(amount > before.charges.get(metric, 0) for metric, amount in after.charges.items())
            yield Effect(path, "operations", name, words, dearer, None)


def _of_head(old: Catalog, new: Catalog) -> Iterator[Effect]:
    if old.default_plan != new.default_plan:
        before, after = _default_of(old), _default_of(new)
        metrics = before.limits.keys() | after.limits.keys()
        tighter = any(_is_tighter(before.limits.get(each, _NONE), after.limits.get(each, _NONE)) for each in metrics)
        words = versus(value_words(old.default_plan), value_words(new.default_plan))
        yield Effect("default_plan", "catalog", "default_plan", words, tighter, Concerned((old.default_plan,)))
    if old.upgrade_url != new.upgrade_url:
        words = versus(value_words(old.upgrade_url), value_words(new.upgrade_url))
        yield Effect("upgrade_url", "catalog", "upgrade_url", words, concerned=None)


def _default_of(catalog: Catalog) -> Plan:
    return Plan() if catalog.default_plan is None else catalog.plans[catalog.default_plan]

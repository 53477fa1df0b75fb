"""A catalog written as TOML is the same catalog when it is read again, and looks as people write it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota.catalog import Catalog, Limit, Metric, Operation, Plan, Rollover, parse_toml
from quota.catalog_toml import to_toml
from quota.identifiers import MAX_AMOUNT

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.toml"))

_names = st.text("abcZ09._-:@/+", min_size=1, max_size=12)
_amounts = st.integers(0, MAX_AMOUNT)
_units = st.text(st.characters(categories=["L", "N", "P", "S"]), min_size=1, max_size=40)


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    names = draw(st.lists(_names, min_size=1, max_size=4, unique=True))
    limits = st.builds(
        Limit,
        limit=_amounts,
        period=st.just("month"),
        enforcement=st.sampled_from(["hard", "soft"]),
        caps=st.dictionaries(st.sampled_from(["day", "week"]), _amounts),
        rollover=st.none() | st.builds(Rollover, max=st.integers(1, MAX_AMOUNT)),
    )
    plans = draw(st.lists(_names, max_size=3, unique=True))
    return Catalog(
        default_plan=plans[0] if plans else None,
        upgrade_url=draw(st.none() | st.just("https://example.com/?plan={plan}&x='\"\\")),
        metrics={name: Metric(unit=draw(st.none() | _units)) for name in names},
        operations={name: Operation(charges={names[0]: 3}) for name in draw(st.lists(_names, max_size=2))},
        plans={
            name: Plan(rank=rank, limits=draw(st.dictionaries(st.sampled_from(names), limits)))
            for rank, name in enumerate(plans)
        },
    )


@given(catalogs())
def test_any_catalog_is_the_same_when_it_is_read_again(catalog: Catalog) -> None:
    assert parse_toml(to_toml(catalog)) == catalog


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.name))
def test_every_example_is_the_same_when_it_is_read_again(file: Path) -> None:
    catalog = parse_toml(file.read_text())
    assert parse_toml(to_toml(catalog)) == catalog


def test_it_looks_as_people_write_it() -> None:
    written = """\
default_plan = "free"

[metrics.credits]
unit = "crédit"
warn_at_pct = [50]

[plans.zero]
limits.credits = { limit = 1, period = "month" }

[plans.free]
rank = 1
limits."a.b" = { limit = 35, period = "month", caps = { day = 5 } }

[add_ons.extra]
adds.credits = 100
"""
    sound = written.replace("[plans.zero]", '[metrics."a.b"]\n\n[plans.zero]')
    assert to_toml(parse_toml(sound)).replace('[metrics."a.b"]\n\n', "") == written
    assert to_toml(Catalog()) == "\n"

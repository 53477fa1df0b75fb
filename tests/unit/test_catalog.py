"""The catalog document: what is accepted, what is refused and in which words, and what differs between two."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quota.catalog import Catalog, Change, Metric, difference, parse_json, parse_toml, to_document
from quota.errors import CatalogInvalid
from quota.identifiers import MAX_AMOUNT

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.toml"))

SOUND = """
default_plan = "free"
upgrade_url = "https://example.com/upgrade?plan={plan}"
[metrics.credits]
unit = "credit"
[metrics.projects]
kind = "level"
[operations.create_reel]
charges = { credits = 5 }
[operations.create_post]
[plans.free]
limits.credits = { limit = 35, period = "month" }
limits.projects = { limit = 3 }
[plans.pro]
rank = 1
limits.credits = { period = "month", caps = { day = 200 } }
limits.projects = { limit = 50, enforcement = "soft" }
[add_ons.extra]
adds.credits = 100
"""

# what is put in place of what in the sound catalog, and the one contradiction that must come of it
CONTRADICTIONS = [
    ("[metrics.credits]", '[metrics."a b"]\n[metrics.credits]', 'metrics."a b": the name must be 1 to 200 characters'),
    ("[operations.create_post]", '[operations.""]', 'operations."": the name must be 1 to 200 characters'),
    ("[plans.pro]", '[plans."pro\\n"]', 'plans."pro\\n": the name must be 1 to 200 characters'),
    ("[add_ons.extra]", f"[add_ons.{'x' * 201}]", "the name must be 1 to 200 characters"),
    ('"free"', '"gold"', "default_plan: no such plan; write the name of one under plans"),
    ("https:", "javascript:", "upgrade_url: write an http or https address"),
    ("/upgrade?", "/upgrade now?", "upgrade_url: write an http or https address"),
    ("/upgrade?", f"/{'u' * 2000}?", "upgrade_url: write an http or https address of at most 2,000"),
    ("{plan}", "{tier}", "upgrade_url: {plan} is the only placeholder"),
    ('"credit"', '""', "metrics.credits.unit: write 1 to 40 printable characters"),
    ('"credit"', '"a\\u0000b"', "metrics.credits.unit: write 1 to 40 printable characters"),
    ('unit = "credit"', "warn_at_pct = [0, 80]", "metrics.credits.warn_at_pct: write whole percents from 1 to 99"),
    ('unit = "credit"', "warn_at_pct = [80, 101]", "metrics.credits.warn_at_pct: write whole percents from 1 to 99"),
    ('unit = "credit"', "warn_at_pct = [95, 80]", "metrics.credits.warn_at_pct: write whole percents from 1 to 99"),
    ('unit = "credit"', "warn_at_pct = [80, 80]", "metrics.credits.warn_at_pct: write whole percents from 1 to 99"),
    ('unit = "credit"', "warn_at_pct = [100, 100]", "metrics.credits.warn_at_pct: write whole percents from 1 to 99"),
    ('unit = "credit"', f"warn_at_pct = {list(range(1, 18))}", "metrics.credits.warn_at_pct: 17 levels; write 16"),
    ("credits = 5", "coins = 5", "operations.create_reel.charges.coins: no such metric; declare it under metrics"),
    ("credits = 5", "credits = 0", "operations.create_reel.charges.credits: write an amount from 1 to"),
    ("credits = 5", f"credits = {MAX_AMOUNT + 1}", "operations.create_reel.charges.credits: write an amount from 1 to"),
    ("adds.credits", "adds.coins", "add_ons.extra.adds.coins: no such metric"),
    ("= 100", "= -1", "add_ons.extra.adds.credits: write an amount from 1 to"),
    ("= 100", f"= {MAX_AMOUNT + 1}", "add_ons.extra.adds.credits: write an amount from 1 to"),
    ("rank = 1", "", "plans.pro.rank: the rank of plans.free too; write one of its own"),
    ("rank = 1", "rank = -1", "plans.pro.rank: write a rank from 0 to 2147483647"),
    ("rank = 1", "rank = 2147483648", "plans.pro.rank: write a rank from 0 to 2147483647"),
    ("[plans.pro]", "limits.coins = {}\n[plans.pro]", "plans.free.limits.coins: no such metric"),
    ("limit = 35", "limit = -1", "plans.free.limits.credits.limit: write a limit from 0 to 9007199254740991, or leave"),
    ("limit = 35", f"limit = {MAX_AMOUNT + 1}", "plans.free.limits.credits.limit: write a limit from 0 to"),
    ("limit = 3 }", 'limit = 3, period = "day" }', "plans.free.limits.projects.period: a level is held, not reset"),
    (
        "limit = 3 }",
        "limit = 3, caps = { day = 1 } }",
        "plans.free.limits.projects.caps: a level has no periods to cap",
    ),
    (
        "day = 200",
        "month = 200",
        "plans.pro.limits.credits.caps.month: not a period shorter than the limit's own; write",
    ),
    ("day = 200", "year = 200", "plans.pro.limits.credits.caps.year: not a period shorter than the limit's own; write"),
    ("day = 200", "hour = 200", "plans.pro.limits.credits.caps.hour: not a period shorter than the limit's own; write"),
    ("day = 200", "day = -1", "plans.pro.limits.credits.caps.day: write an amount from 0 to"),
    ("limit = 3 }", "limit = 3, rollover = { max = 1 } }", "plans.free.limits.projects.rollover: needs a limit and a"),
    ("caps = { day = 200 }", "rollover = { max = 1 }", "plans.pro.limits.credits.rollover: needs a limit and a"),
    ("limit = 35,", "limit = 35, rollover = { max = 0 },", "plans.free.limits.credits.rollover.max: write an amount"),
]

WRONG_TYPES = [
    ("limit = 35", "limit = 35.0", "plans.free.limits.credits.limit: write a whole number, not 35.0"),
    ("limit = 35", "limit = true", "plans.free.limits.credits.limit: write a whole number, not true"),
    ("limit = 35", "limti = 35", "plans.free.limits.credits.limti: no such key; did you mean limit?"),
    (
        '"month", caps',
        '"hour", caps',
        'plans.pro.limits.credits.period: write "day" or "week" or "month" or "year", not',
    ),
    ("day = 200", 'day = "200"', 'plans.pro.limits.credits.caps.day: write a whole number, not "200"'),
    ("rank = 1", 'rank = "1"', 'plans.pro.rank: write a whole number, not "1"'),
    ("charges =", "charge =", "operations.create_reel.charge: no such key; did you mean charges?"),
    ("adds.credits", "add.credits", "add_ons.extra.add: no such key; did you mean adds?"),
    ("default_plan", "default_plans", "default_plans: no such key; did you mean default_plan?"),
    ('"level"', '"levle"', 'metrics.projects.kind: write "counter" or "level", not "levle"; did you mean level?'),
    ('unit = "credit"', "warn_at_pct = 80", "metrics.credits.warn_at_pct: write a list, not 80"),
    ('unit = "credit"', "colour = 1", "metrics.credits.colour: no such key; write one of"),
]


def errors_of(document: str) -> list[str]:
    with pytest.raises(CatalogInvalid) as raised:
        parse_toml(document)
    return raised.value.errors


def replaced(old: str, new: str) -> str:
    assert old in SOUND
    return SOUND.replace(old, new, 1)


@pytest.mark.parametrize(("old", "new", "expected"), CONTRADICTIONS)
def test_a_contradiction_is_refused_with_its_path_and_what_to_write(old: str, new: str, expected: str) -> None:
    errors = errors_of(replaced(old, new))
    assert len(errors) == 1, errors
    assert expected in errors[0]


@pytest.mark.parametrize(("old", "new", "expected"), WRONG_TYPES)
def test_a_wrong_type_is_refused_with_its_path(old: str, new: str, expected: str) -> None:
    (error,) = errors_of(replaced(old, new))
    assert error.startswith(expected)


def test_all_contradictions_are_told_at_once() -> None:
    document = SOUND
    for old, new in (('"free"', '"gold"'), ("credits = 5", "coins = 0"), ("rank = 1", "rank = 0")):
        document = document.replace(old, new)
    assert [error.partition(":")[0] for error in errors_of(document)] == [
        "default_plan",
        "operations.create_reel.charges.coins",
        "operations.create_reel.charges.coins",
        "plans.pro.rank",
    ]


def test_all_wrong_types_are_told_at_once() -> None:
    document = SOUND.replace("limit = 35", "limit = 1.5").replace("rank = 1", "rank = true").replace('"free"', "7")
    assert [error.partition(":")[0] for error in errors_of(document)] == [
        "default_plan",
        "plans.free.limits.credits.limit",
        "plans.pro.rank",
    ]


def test_contradictions_without_end_are_cut_off_at_a_thousand() -> None:
    assert len(errors_of("".join(f"[plans.p{number}]\n" for number in range(3_000)))) == 1_000


@pytest.mark.parametrize("section", ["metrics", "operations", "plans", "add_ons"])
def test_a_section_holds_a_thousand_entries_and_no_more(section: str) -> None:
    entries: dict[str, Any] = {f"e{number}": {} for number in range(1_001)}
    if section == "plans":
        entries = {name: {"rank": rank} for rank, name in enumerate(entries)}
    if section == "add_ons":
        entries = {name: {"adds": {}} for name in entries}
    with pytest.raises(CatalogInvalid, match=f"^{section}: 1001 entries; write 1,000 at most$"):
        parse_json(json.dumps({section: entries}).encode())
    entries.popitem()
    assert len(getattr(parse_json(json.dumps({section: entries}).encode()), section)) == 1_000


def test_an_operation_charges_at_most_32_metrics() -> None:
    document: dict[str, Any] = {"metrics": {f"m{number}": {} for number in range(33)}}
    document["operations"] = {"all": {"charges": dict.fromkeys(document["metrics"], 1)}}
    with pytest.raises(CatalogInvalid, match=r"^operations\.all\.charges: 33 metrics; write 32 at most$"):
        parse_json(json.dumps(document).encode())
    document["operations"]["all"]["charges"].popitem()
    assert len(parse_json(json.dumps(document).encode()).operations["all"].charges) == 32


def test_broken_toml_is_refused_with_line_and_column() -> None:
    assert errors_of("default_plan = \n") == ["not valid TOML: Invalid value (at line 1, column 16)"]


@pytest.mark.parametrize("document", ["a = " + "[" * 100_000, f"a = {'9' * 5_000}", "a = 1\na = 2"])
def test_toml_that_would_break_the_parser_is_an_invalid_catalog(document: str) -> None:
    assert len(errors_of(document)) == 1


@pytest.mark.parametrize(
    "body", [b"", b"{", b"null", b"[]", b"[" * 100_000, b'{"\xff": 1}', b"9" * 5_000, b'"\\ud800"']
)
def test_a_body_that_is_no_json_object_is_an_invalid_catalog(body: bytes) -> None:
    with pytest.raises(CatalogInvalid):
        parse_json(body)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_parses_and_survives_the_round_trip(path: Path) -> None:
    catalog = parse_toml(path.read_text())
    document = to_document(catalog)
    again = parse_json(json.dumps(document).encode())
    assert again == catalog
    assert to_document(again) == document
    assert difference(catalog, again) == []


def test_the_examples_are_the_five_that_the_documentation_names() -> None:
    assert [path.stem for path in EXAMPLES] == ["builder", "credits", "features", "remix", "tenants"]


def test_the_smallest_catalog_is_an_empty_one() -> None:
    assert parse_toml("") == parse_json(b"{}") == Catalog()
    assert to_document(Catalog()) == {}


def test_a_document_leaves_defaults_out_and_sorts_names() -> None:
    spelled_out = """
    [plans.b]
    rank = 1
    limits.m = { enforcement = "hard", caps = {}, limit = 0 }
    [plans.a]
    rank = 0
    [metrics.m]
    kind = "counter"
    warn_at_pct = [80, 95]
    on_outage = "deny"
    """
    document = to_document(parse_toml(spelled_out))
    assert document == {"metrics": {"m": {}}, "plans": {"a": {}, "b": {"rank": 1, "limits": {"m": {"limit": 0}}}}}
    assert list(document["plans"]) == ["a", "b"]


def test_null_in_json_means_left_out() -> None:
    body = (
        b'{"default_plan": null, "metrics": {"m": {"unit": null}}, "plans": {"p": {"limits": {"m": {"limit": null}}}}}'
    )
    assert to_document(parse_json(body)) == {"metrics": {"m": {}}, "plans": {"p": {"limits": {"m": {}}}}}


@pytest.mark.parametrize(("written", "kept"), [([80, 95, 100], (80, 95)), ([100], ()), ([], ()), ([50], (50,))])
def test_a_warning_at_100_percent_may_be_listed_and_is_not_kept(written: list[int], kept: tuple[int, ...]) -> None:
    body = json.dumps({"metrics": {"m": {"warn_at_pct": written}}}).encode()
    assert parse_json(body).metrics["m"].warn_at_pct == kept == Metric(warn_at_pct=tuple(written)).warn_at_pct


def test_caps_and_rollover_of_the_contract_are_kept() -> None:
    document = """
    metrics.m = {}
    [plans.p]
    limits.m = { limit = 5, period = "year", caps = { day = 0, week = 2, month = 3 }, rollover = { max = 25 } }
    """
    limit = parse_toml(document).plans["p"].limits["m"]
    assert limit.caps == {"day": 0, "week": 2, "month": 3}
    assert limit.rollover is not None
    assert limit.rollover.max == 25


def test_a_lifetime_limit_of_a_counter_may_be_capped_by_any_period() -> None:
    caps = parse_toml("metrics.m = {}\nplans.p.limits.m = { caps = { year = 1, day = 1 } }").plans["p"].limits["m"].caps
    assert caps == {"year": 1, "day": 1}


def test_a_difference_reads_well_and_is_sorted() -> None:
    new = SOUND
    for old_text, new_text in (
        ('default_plan = "free"', 'default_plan = "pro"'),
        ('unit = "credit"', 'unit = "credit"\nwarn_at_pct = [50]'),
        ("credits = 5", "credits = 6, projects = 1"),
        ("limit = 35,", "rollover = { max = 5 }, limit = 40,"),
        ("limit = 50, enforcement", "enforcement"),
        ('{ period = "month", caps = { day = 200 } }', "{}"),
        ("[add_ons.extra]\nadds.credits = 100", '[plans."gold.2"]\nrank = 7'),
    ):
        assert old_text in new
        new = new.replace(old_text, new_text)
    assert [str(change) for change in difference(parse_toml(SOUND), parse_toml(new))] == [
        "removed add_ons.extra",
        "default_plan: free -> pro",
        "metrics.credits.warn_at_pct: [80, 95] -> [50]",
        "operations.create_reel.charges.credits: 5 -> 6",
        "added operations.create_reel.charges.projects: 1",
        'added plans."gold.2"',
        "plans.free.limits.credits.limit: 35 -> 40",
        'plans.free.limits.credits.rollover: none -> {"max": 5}',
        "removed plans.pro.limits.credits.caps.day (was 200)",
        "plans.pro.limits.credits.period: month -> lifetime",
        "plans.pro.limits.projects.limit: 50 -> unlimited",
    ]


def test_a_first_catalog_differs_from_nothing_by_all_that_it_holds() -> None:
    changes = difference(None, parse_toml('metrics.m = { kind = "level" }'))
    assert changes == [Change("metrics.m", after={"kind": "level"})]
    assert msgspec.json.encode(changes) == b'[{"path":"metrics.m","after":{"kind":"level"}}]'


def test_a_null_in_a_difference_is_a_value_and_not_an_absence() -> None:
    change = difference(parse_toml("plans.a = {}"), parse_toml('default_plan = "a"\nplans.a = {}'))
    assert msgspec.json.encode(change) == b'[{"path":"default_plan","before":null,"after":"a"}]'

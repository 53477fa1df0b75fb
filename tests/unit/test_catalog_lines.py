"""What is wrong with a catalog file is told with its line, in TOML and JSON, however it is written."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quota.catalog_lines import line_of, lines_of_json, lines_of_toml
from quota.catalog_paths import joined, names_in, path_at_start
from quota.errors import CatalogInvalid
from quotagate.catalog_file import read_catalog

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.toml"))

WRITTEN_IN_MANY_WAYS = """\
default_plan = "free" # a comment with [brackets] and "quotes"

[metrics]
"credits".unit = '''
many
lines'''
'pro jects' = { kind = "level", warn_at_pct = [
    10, # a comment, with a comma
    80,
] }

[ plans . "free" ]
limits.credits = { limit = 35, period = "month", caps = { day = 5 } }
limits . "pro jects" . limit = 3
"""
LINES = {
    "default_plan": 1,
    "metrics": 3,
    "metrics.credits": 4,
    "metrics.credits.unit": 4,
    'metrics."pro jects"': 7,
    'metrics."pro jects".kind': 7,
    'metrics."pro jects".warn_at_pct': 7,
    "plans": 12,
    "plans.free": 12,
    "plans.free.limits": 13,
    "plans.free.limits.credits": 13,
    "plans.free.limits.credits.limit": 13,
    "plans.free.limits.credits.period": 13,
    "plans.free.limits.credits.caps": 13,
    "plans.free.limits.credits.caps.day": 13,
    'plans.free.limits."pro jects"': 14,
    'plans.free.limits."pro jects".limit': 14,
}


def paths_of(document: object, path: str = "") -> Iterator[tuple[str, str]]:
    """Every path of a document, and the last name of it."""
    if isinstance(document, dict):
        for name, value in document.items():
            inner = joined(path, name)
            yield inner, name
            yield from paths_of(value, inner)


def test_every_way_of_writing_toml_has_its_lines() -> None:
    assert lines_of_toml(WRITTEN_IN_MANY_WAYS) == LINES
    assert {path for path, _ in paths_of(tomllib.loads(WRITTEN_IN_MANY_WAYS))} == set(LINES)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.name))
def test_every_path_of_every_example_resolves_to_a_line_that_has_its_name(file: Path) -> None:
    text = file.read_text()
    written, lines = text.splitlines(), lines_of_toml(text)
    wanted = list(paths_of(tomllib.loads(text)))
    assert len(wanted) > 20
    assert {path for path, _ in wanted} == set(lines)
    for path, name in wanted:
        assert re.search(rf"\b{re.escape(name)}\b", written[lines[path] - 1]), (path, lines[path])


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: str(file.name))
def test_every_path_of_every_example_as_json_resolves_to_the_line_of_its_key(file: Path) -> None:
    document = tomllib.loads(file.read_text())
    text = json.dumps(document, indent=2)
    written, lines = text.splitlines(), lines_of_json(text)
    assert {path for path, _ in paths_of(document)} == set(lines)
    for path, name in paths_of(document):
        assert written[lines[path] - 1].lstrip().startswith(f'"{name}":'), path


_trees = st.recursive(
    st.integers() | st.text() | st.lists(st.integers() | st.text() | st.booleans()),
    lambda inner: st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=8), _trees, max_size=4))
def test_every_path_of_any_json_is_found(document: dict[str, object]) -> None:
    found = lines_of_json(json.dumps(document, indent=1))
    assert set(found) == {path for path, _ in paths_of(document)}


@given(st.lists(st.text(max_size=20), min_size=1, max_size=5))
def test_a_path_is_read_as_it_was_joined(names: list[str]) -> None:
    path = ""
    for name in names:
        path = joined(path, name)
    assert path_at_start(f"{path}: whatever: it says") == path
    assert names_in(path) == names
    assert line_of(f"{path}.beyond: it says", {path: 3}) == 3


WRONG = [
    ("limit = 35", "limit = -1", 13, "plans.free.limits.credits.limit: write a limit from 0 to 9007199254740991, or"),
    ("day = 5", "month = 5", 13, "plans.free.limits.credits.caps.month: not a period shorter than the limit's own"),
    ("limit = 3\n", "limti = 3\n", 14, 'plans.free.limits."pro jects".limti: no such key; did you mean limit?'),
    ('"free" #', '"fre" #', 1, "default_plan: no such plan; write the name of one under plans"),
    ("    80,", "    80, 999,", 7, 'metrics."pro jects".warn_at_pct: write whole percents'),
    ("limits.credits", "limits.creditz", 13, "plans.free.limits.creditz: no such metric; declare it under metrics"),
    ("[ plans", "[ plants", 12, "plants: no such key; did you mean plans?"),
    ("limits . ", "limits = ", 14, "not valid TOML: "),
]


@pytest.mark.parametrize(("old", "new", "line", "told"), WRONG)
def test_what_is_wrong_is_told_with_file_line_and_what_to_write(
    old: str, new: str, line: int, told: str, tmp_path: Path
) -> None:
    file = tmp_path / "plans.toml"
    assert old in WRITTEN_IN_MANY_WAYS
    sound = WRITTEN_IN_MANY_WAYS.replace("'''\nmany\nlines'''", '"credit" #\n#\n').replace("pro jects", "projects")
    told = told.replace('"pro jects"', "projects")
    file.write_text(sound.replace(old, new, 1))
    with pytest.raises(CatalogInvalid) as raised:
        read_catalog(file)
    assert raised.value.errors[0].startswith(f"{file}:{line}: {told}"), raised.value.errors


def test_json_is_told_with_its_lines_as_well(tmp_path: Path) -> None:
    file = tmp_path / "plans.json"
    file.write_text('{\n "metrics": {"m": {}},\n "plans": {\n  "pro": {"rank": -1,\n   "limits": {"n": {}}}}\n}')
    with pytest.raises(CatalogInvalid) as raised:
        read_catalog(file)
    rank, metric = raised.value.errors
    assert rank.startswith(f"{file}:4: plans.pro.rank: write a rank from 0")
    assert metric.startswith(f"{file}:5: plans.pro.limits.n: no such metric")
    for broken, line in (('{\n"metrics": {\n,}', 3), ('{\n"metrics": {}\n', 2)):
        file.write_text(broken)
        with pytest.raises(CatalogInvalid, match=rf"plans\.json:{line}: not valid JSON"):
            read_catalog(file)

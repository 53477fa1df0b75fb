"""docs/catalog.md is true: its catalogs are accepted, and it explains every key that there is."""

import re
from pathlib import Path

import msgspec
import pytest

from quota.catalog import AddOn, Catalog, Limit, Metric, Operation, Plan, parse_toml

PAGE = (Path(__file__).parents[2] / "docs/catalog.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
PATHS: dict[str, type[msgspec.Struct]] = {
    "": Catalog,
    "metrics.M.": Metric,
    "operations.O.": Operation,
    "plans.P.": Plan,
    "plans.P.limits.M.": Limit,
    "add_ons.A.": AddOn,
}
TABLES = {"metrics", "operations", "plans", "add_ons", "plans.P.limits"}


def test_there_are_catalogs_on_the_page() -> None:
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("block", BLOCKS)
def test_every_catalog_on_the_page_is_accepted(block: str) -> None:
    assert parse_toml(block).plans


def test_every_key_is_explained_and_no_other() -> None:
    explained = set(re.findall(r"^\| `([\w.]+)` \|", PAGE, re.MULTILINE))
    there = {path + field.name for path, part in PATHS.items() for field in msgspec.structs.fields(part)}
    assert explained == there - TABLES

"""Catalogs that a newer version has checked and stored, read by this one."""

import json

import pytest

from quota.catalog import parse_json, stored, to_document
from quota.errors import CatalogInvalid

OURS = {
    "metrics": {"m": {"gifts": {"given_a_day": 3}}},
    "plans": {"free": {"limits": {"m": {"limit": 5, "period": "month"}}}},
    "add_ons": {"extra": {"adds": {"m": 1}}},
}
NEWER = {
    "sold_until": 5,
    "metrics": {"m": {"gifts": {"given_a_day": 3, "in_all": 9}, "shade": [1]}},
    "plans": {"free": {"limits": {"m": {"limit": 5, "period": "month", "burst": {"max": 2}}}}},
    "add_ons": {"extra": {"adds": {"m": 1}, "most": 4}},
}


def test_keys_that_only_a_newer_version_knows_are_passed_over_where_they_were_stored() -> None:
    assert to_document(stored(NEWER)) == OURS
    with pytest.raises(CatalogInvalid):
        parse_json(json.dumps(NEWER).encode())


def test_what_was_stored_is_not_looked_through_for_contradictions() -> None:
    contradictory = {"plans": {"free": {"limits": {"unknown": {"limit": 5}}}}}
    assert to_document(stored(contradictory)) == contradictory
    with pytest.raises(CatalogInvalid):
        parse_json(json.dumps(contradictory).encode())


def test_a_value_that_cannot_be_read_says_whose_it_is() -> None:
    with pytest.raises(CatalogInvalid, match="of a newer version"):
        stored({"metrics": {"m": {"kind": "gauge"}}})

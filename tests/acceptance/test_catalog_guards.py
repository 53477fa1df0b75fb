"""PUT /v1/catalog does not overwrite what its caller has not seen, and takes nothing away by accident."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.acceptance.asking import CATALOG
from tests.acceptance.door import assert_problem
from tests.conftest import Tenant

MakeTenant = Callable[[str | dict[str, Any]], Tenant]


@pytest.fixture
def tenant(make_tenant: MakeTenant) -> Tenant:
    return make_tenant(CATALOG)


def test_the_later_of_two_changes_is_refused_if_it_has_not_seen_the_other(tenant: Tenant) -> None:
    seen = tenant.client.get("/v1/catalog").headers["etag"]
    assert seen == '"1"'
    other, mine = CATALOG | {"upgrade_url": "https://example.com/a"}, CATALOG | {"upgrade_url": "https://example.com/b"}
    why = {"reason": "a new shop"}
    assert tenant.client.put("/v1/catalog", json=other, headers={"If-Match": seen}, params=why).status_code == 200
    for named in (seen, 'W/"2"', '"x"'):
        for dry_run in ("true", "false"):
            params = {"dry_run": dry_run}
            late = tenant.client.put("/v1/catalog", json=mine, headers={"If-Match": named}, params=params)
            assert assert_problem(late, 412, "CATALOG_CHANGED")["version"] == 2
    held = tenant.client.get("/v1/catalog")
    assert (held.json()["upgrade_url"], held.headers["etag"]) == ("https://example.com/a", '"2"')
    assert tenant.client.get("/v1/catalog?version=1").headers["etag"] == '"1"'
    assert tenant.client.get("/v1/catalog/versions").json()["items"][0]["reason"] == "a new shop"
    for named, version in (('"2"', 3), ("3", 3), ("*", 3)):
        answer = tenant.client.put("/v1/catalog", json=mine, headers={"If-Match": named})
        assert (answer.status_code, answer.json()["version"]) == (200, version)


def test_an_if_match_or_a_flag_that_is_none_is_refused(tenant: Tenant) -> None:
    for named in ("x", "", '"1", "2"', '"1', "'1'"):
        answer = tenant.client.put("/v1/catalog", json=CATALOG, headers={"If-Match": named})
        assert assert_problem(answer, 400, "INVALID_REQUEST")["field"] == "If-Match"
    for query in ("dry_run=yes", "allow_empty=1", "dry_run=true&dry_run=true", "reason=", "reason=" + "x" * 501):
        answer = tenant.client.put(f"/v1/catalog?{query}", json=CATALOG)
        assert assert_problem(answer, 400, "INVALID_REQUEST")["field"] == query.partition("=")[0]


def test_nobody_knows_the_catalog_of_an_instant_to_come(tenant: Tenant) -> None:
    answer = tenant.client.get("/v1/catalog?at=2099-01-01T00:00:00Z")
    assert assert_problem(answer, 400, "INVALID_REQUEST")["field"] == "at"


def test_an_empty_document_takes_nothing_away_unless_it_says_so(tenant: Tenant) -> None:
    assert tenant.client.put("/v1/catalog?dry_run=true", json={}).json()["changes"]
    for document in ({}, {"metrics": {}, "plans": {}, "upgrade_url": "https://example.com"}):
        refused = tenant.client.put("/v1/catalog", json=document)
        assert "?allow_empty=true" in assert_problem(refused, 409, "CONFLICT")["detail"]
    assert tenant.client.get("/v1/catalog").headers["etag"] == '"1"'
    assert tenant.client.put("/v1/catalog?allow_empty=true", json={}).json()["version"] == 2
    assert tenant.client.put("/v1/catalog", json={}).status_code == 200, "there is nothing left to be taken away"

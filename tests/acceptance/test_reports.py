"""Reports over HTTP: statements, entries, usage, sealed periods, balances as they stood."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from gateway.report_documents import ENTRY_MEMBERS
from tests.acceptance.reported import PATH, ROUTES, SUBJECT, Told, refused, two_tenants
from tests.system import System, eventually

LATER = "2099-01-01T00:00:00Z"


@pytest.fixture(scope="module")
def told(system: System) -> Iterator[Told]:
    with two_tenants(system) as told:
        yield told


@pytest.fixture(scope="module")
def document(system: System) -> dict[str, Any]:
    return dict(httpx.get(f"{system.urls['gateway']}/schema/openapi.json").json())


def errors_of(document: dict[str, Any], route: str, answer: httpx.Response) -> list[str]:
    """Where an answer of JSON is not as the document says."""
    described = document["paths"][ROUTES[route]]["get"]["responses"][str(answer.status_code)]
    media = answer.headers["content-type"]
    schema = {**described["content"][media]["schema"], "components": document["components"]}
    return [f"{error.json_path}: {error.message}" for error in Draft202012Validator(schema).iter_errors(answer.json())]


class TestEntries:
    def test_a_statement_has_every_entry_with_the_balance_after_it(self, told: Told) -> None:
        found = told.items(f"{PATH}/entries", limit=7)
        balance: dict[tuple[str, str | None], int] = {}
        for each in found:
            account = (each["metric"], each["period_start"])
            balance[account] = balance.get(account, 0) + each["change"]
            assert each["used_after"] == balance[account], each
        kinds = [each["kind"] for each in found if each["metric"] == "calls" and each["request_id"]]
        assert kinds == ["consume"] * 12 + ["refund", "denied"]
        of_counters = {each["metric"]: each["used"] for each in told.tenant.status(SUBJECT)["metrics"]}
        last = {each["metric"]: each["used_after"] for each in found}
        assert last == of_counters == {"calls": 11, "tokens": 550, "seats": 2}

    def test_an_entry_is_shown_with_all_its_members(self, told: Told, document: dict[str, Any]) -> None:
        for route in (f"{PATH}/entries", "/v1/entries"):
            answer = told.get(route, limit=1_000)
            assert errors_of(document, route, answer) == []
            assert {tuple(each) for each in answer.json()["items"]} == {ENTRY_MEMBERS}
        refund = next(each for each in told.items("/v1/entries", kind="refund", metric="tokens"))
        assert (refund["amount"], refund["change"], refund["receipt"]) == (50, -50, None)
        assert (refund["metadata"], refund["plan"]) == ({"a": "=2"}, "free")
        seats = next(each for each in told.items("/v1/entries", metric="seats"))
        assert seats["period_start"] is None
        again = told.tenant.client.post("/v1/refunds", json={"receipt": seats["receipt"]})
        assert (again.status_code, again.json()["refunded"]) == (200, 2)
        told.tenant.consume(SUBJECT, "seats", 2)
        told.system.drained()

    def test_all_of_the_tenant_are_listed_by_their_instants_and_the_filters_hold(self, told: Told) -> None:
        everything = told.items("/v1/entries", limit=5)
        assert [each["at"] for each in everything] == sorted(each["at"] for each in everything)
        count = "SELECT count(*) FROM entries WHERE tenant = %s"
        assert [(len(everything),)] == told.system.sql(count, told.tenant.name)
        assert len({each["id"] for each in everything}) == len(everything)
        middle = everything[len(everything) // 2]["at"]
        for name, query in {
            "subject": {"subject": "@evil"}, "metric": {"metric": "tokens"}, "kind": {"kind": "denied"},
        }.items():  # fmt: skip
            picked = [each for each in everything if each[name] == query[name]]
            assert told.items("/v1/entries", limit=3, **query) == picked != []
        since = told.items("/v1/entries", from_=middle)
        until = told.items("/v1/entries", to=middle)
        assert until + since == everything

    def test_pages_of_every_size_have_the_same_entries(self, told: Told) -> None:
        whole = told.items("/v1/entries", limit=1_000)
        for limit in (1, 2, 13, len(whole), len(whole) - 1):
            assert told.items("/v1/entries", limit=limit) == whole


class TestUsage:
    @pytest.mark.parametrize("by", ["hour", "day", "month"])
    def test_it_is_the_sum_of_the_entries(self, told: Told, document: dict[str, Any], by: str) -> None:
        answer = told.get(f"{PATH}/usage", by=by)
        assert errors_of(document, f"{PATH}/usage", answer) == []
        body = answer.json()
        assert (body["subject"], body["by"]) == (SUBJECT, by)
        statement = [each for each in told.items(f"{PATH}/entries") if body["from"] <= each["at"] < body["to"]]
        for metric in ("calls", "tokens", "seats"):
            sums = [each for each in body["items"] if each["metric"] == metric]
            of_metric = [each for each in statement if each["metric"] == metric]
            assert sum(each["used"] for each in sums) == sum(each["change"] for each in of_metric) > 0
            assert sum(each["entries"] for each in sums) == sum(each["change"] != 0 for each in of_metric)
            assert all(each["used"] == each["consumed"] - each["given_back"] for each in sums)
            for each in of_metric:
                assert any(one["start"] <= each["at"] < one["end"] for one in sums) or each["change"] == 0

    def test_it_pages_and_a_metric_is_picked_out(self, told: Told) -> None:
        whole = told.items(f"{PATH}/usage", by="day")
        assert told.items(f"{PATH}/usage", by="day", limit=1) == whole
        calls = [each for each in whole if each["metric"] == "calls"]
        assert told.items(f"{PATH}/usage", by="day", metric="calls", limit=2) == calls
        assert len(calls) == 3

    def test_a_range_that_is_too_long_is_refused_with_the_limit(self, told: Told) -> None:
        answer = told.get(f"{PATH}/usage", by="hour", from_="2026-01-01T00:00:00Z", to="2026-02-02T00:00:00Z")
        assert "31 days" in refused(answer, 400, "INVALID_REQUEST")


class TestStatusAtAnInstant:
    def test_it_is_the_balance_after_each_entry(self, told: Told, document: dict[str, Any]) -> None:
        statement = told.items(f"{PATH}/entries")
        for each in (entry for entry in statement if entry["request_id"]):
            answer = told.get(f"{PATH}/status", at=each["at"])
            assert errors_of(document, f"{PATH}/status", answer) == []
            assert answer.json()["at"] == each["at"]
            stood = {one["metric"]: one for one in answer.json()["metrics"]}[each["metric"]]
            last = [one for one in statement if one["metric"] == each["metric"] and one["at"] <= each["at"]][-1]
            assert (stood["used"], stood["entry"], stood["plan"]) == (last["used_after"], last["id"], "free")
            assert stood["period"]["start"] == each["period_start"]

    def test_without_an_instant_it_is_the_status_now(self, told: Told, document: dict[str, Any]) -> None:
        answer = told.get(f"{PATH}/status")
        assert errors_of(document, f"{PATH}/status", answer) == []
        assert answer.json() == told.tenant.status(SUBJECT)

    def test_before_anything_was_used_there_is_nothing_and_the_future_is_refused(self, told: Told) -> None:
        first = told.get(f"{PATH}/status", at="2020-01-01T00:00:00Z").json()
        assert first == {"subject": SUBJECT, "at": "2020-01-01T00:00:00Z", "metrics": []}
        assert "future" in refused(told.get(f"{PATH}/status", at=LATER), 400, "INVALID_REQUEST")
        last = told.items(f"{PATH}/entries")[-1]["at"]
        nobody = told.system.make_key("tenant-with-nothing", "read")
        assert told.get(f"{PATH}/status", at=last).json()["metrics"] != []
        assert told.get(f"{PATH}/status", key=nobody, at=last).json()["metrics"] == []


class TestPeriods:
    def test_sealed_ones_are_told_with_closing_balances_and_later_adjustments(
        self, told: Told, document: dict[str, Any]
    ) -> None:
        eventually(lambda: len(told.items("/v1/periods")) == 2, "both periods are sealed")
        answer = told.get("/v1/periods")
        assert errors_of(document, "/v1/periods", answer) == []
        found = answer.json()["items"]
        assert [(each["subject"], each["metric"], each["plan"]) for each in found] == [(SUBJECT, "calls", "free")] * 2
        adjusted, other = (each["adjustments"] for each in found)
        (late,) = adjusted["items"]
        assert (adjusted["entries"], adjusted["change"], late["kind"], late["change"]) == (1, -3, "refund", -3)
        assert other == {"entries": 0, "change": 0, "items": []}
        assert [(each["used"], each["stated"], each["used_adjusted"]) for each in found] == [(7, 7, 4), (5, 5, 5)]
        assert told.items("/v1/periods", limit=1) == found
        first = found[0]["period"]
        assert told.items("/v1/periods", from_=first["start"], to=first["end"]) == found[:1]
        assert told.items("/v1/periods", metric="tokens") == []

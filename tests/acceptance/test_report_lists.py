"""What every list of reports has in common, and the forms that entries come in: pages, CSV, NDJSON."""

import csv
import json
import socket
from collections.abc import Callable, Iterator
from io import StringIO
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from gateway.report_documents import ENTRY_MEMBERS
from tests.acceptance.reported import CATALOG, PATH, ROUTES, SUBJECT, Told, refused, two_tenants
from tests.conftest import Tenant
from tests.system import System, eventually

MakeTenant = Callable[[str | dict[str, Any]], Tenant]
LISTS = [route for route in ROUTES if not route.endswith("status")]
LATER = "2099-01-01T00:00:00Z"
MANY = 20_000


@pytest.fixture(scope="module")
def told(system: System) -> Iterator[Told]:
    with two_tenants(system) as told:
        yield told


def fill(system: System, tenant: str) -> None:
    """Many entries, once."""
    system.sql(
        """
        INSERT INTO entries (shard, epoch, n, occurred_at, tenant, subject, metric, kind, amount, change, used_after,
                             period_kind, period_start, receipt_first_n, receipt_count, reason)
        SELECT 0, 0, 1000 + n, date_trunc('day', now()) + n * interval '1 millisecond', %s, 'many', 'calls', 'consume',
               1, 1, n, 'lifetime', timestamptz 'epoch', n, 1, repeat('x', 400)
        FROM generate_series(1, %s) AS n ON CONFLICT DO NOTHING
        """,
        tenant,
        MANY,
    )
    system.sql(
        """
        INSERT INTO balances VALUES (%s, 'many', 'calls', 'lifetime', timestamptz 'epoch', NULL, NULL, 1, 0, 0, 1)
        ON CONFLICT DO NOTHING
        """,
        tenant,
    )


class TestStreams:
    def test_ndjson_has_the_same_entries_as_the_pages(self, told: Told) -> None:
        for query in ({}, {"kind": "consume"}, {"subject": SUBJECT}, {"subject": "nobody"}):
            answer = told.get("/v1/entries", accept="application/x-ndjson", **query)
            assert answer.headers["content-type"] == "application/x-ndjson"
            assert [json.loads(line) for line in answer.text.splitlines()] == told.items("/v1/entries", **query)

    def test_csv_has_them_too_with_formulas_made_harmless_and_numbers_left_alone(self, told: Told) -> None:
        answer = told.get("/v1/entries", accept="text/csv")
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        header, *rows = csv.reader(StringIO(answer.content.decode("utf-8"), newline=""))
        assert tuple(header) == ENTRY_MEMBERS
        pages = told.items("/v1/entries")
        assert len(rows) == len(pages)
        for row, entry in zip(rows, pages, strict=True):
            for name, cell in zip(header, row, strict=True):
                value = entry[name]
                if isinstance(value, int):
                    assert int(cell) == value
                elif value is None:
                    assert cell == ""
                elif name == "metadata":
                    assert json.loads(cell) == value
                else:
                    assert cell == ("'" + value if value[0] in "=+-@" else value)
        text = answer.text
        assert "'=key 0" in text and "'-request-0" in text and "'@evil" in text and ",-50," in text
        assert '"\'=1+1, said the ""caller""\r\nüber"' in text

    @pytest.mark.parametrize(
        ("accept", "media"),
        [
            ("text/csv, application/json;q=0.5", "text/csv; charset=utf-8"),
            ("text/csv;q=0.4, application/x-ndjson;q=0.5", "application/x-ndjson"),
            ("application/json, text/csv;q=0.9", "application/json"),
            ("text/*", "text/csv; charset=utf-8"),
            ("image/png", "application/json"),
            ("text/csv;q=0", "application/json"),
            ("text/csv;q=inf", "application/json"),
            ("text/csv;q=x", "text/csv; charset=utf-8"),
            (",;=,", "application/json"),
        ],
    )
    def test_the_accept_header_decides_the_form(self, told: Told, accept: str, media: str) -> None:
        answer = told.get("/v1/entries", accept=accept)
        assert (answer.status_code, answer.headers["content-type"]) == (200, media)

    def test_what_is_for_pages_is_refused_of_a_stream_and_so_is_bad_input_before_it_begins(self, told: Told) -> None:
        for name, value in (("limit", "5"), ("cursor", "x")):
            answer = told.get("/v1/entries", accept="text/csv", **{name: value})
            assert "pages" in refused(answer, 400, "INVALID_REQUEST")
        refused(told.get("/v1/entries", accept="text/csv", kind="x"), 400, "INVALID_REQUEST")
        refused(told.get("/v1/entries", accept="text/csv", metric="x"), 404, "UNKNOWN_METRIC")

    def test_callers_that_stop_reading_hold_no_connection_and_nobody_up(self, told: Told) -> None:
        fill(told.system, told.other.name)
        address = urlsplit(told.system.urls["gateway"])
        stalled = []
        for _ in range(6):
            each = socket.create_connection((str(address.hostname), int(address.port or 0)), timeout=10)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            head = f"GET /v1/entries HTTP/1.1\r\nhost: x\r\naccept: text/csv\r\nauthorization: Bearer {told.other.key}"
            each.sendall(f"{head}\r\n\r\n".encode())
            assert each.recv(12).startswith(b"HTTP/1.1 200")
            stalled.append(each)
        busy = "SELECT count(*) FROM pg_stat_activity WHERE usename = %s AND xact_start IS NOT NULL"
        user = str(urlsplit(told.system.urls["application_database"]).username)
        eventually(lambda: told.system.sql(busy, user) == [(0,)], "no transaction is open for who does not read")
        for _ in range(5):
            assert told.tenant.check(SUBJECT, "calls").status_code == 200
            assert told.get(f"{PATH}/entries", limit=5).status_code == 200
        for each in stalled:
            each.close()

    def test_a_long_stream_is_whole(self, told: Told) -> None:
        fill(told.system, told.other.name)
        answer = told.get("/v1/entries", key=told.other.key, accept="application/x-ndjson", subject="many")
        ids = [json.loads(line)["id"] for line in answer.text.splitlines()]
        assert len(ids) == len(set(ids)) == MANY


@pytest.mark.parametrize("route", LISTS)
class TestEveryList:
    def test_another_tenants_is_never_in_it(self, told: Told, route: str) -> None:
        """Both have done the same, so whatever one is told twice, or in the other's name, is the other's."""
        own, others = (told.get(route, key=key).json()["items"] for key in (told.tenant.key, told.other.key))
        if route.endswith("usage"):
            assert [each["used"] for each in own] == [each["used"] for each in others][: len(own)]
        else:
            name = "entry" if route.endswith("periods") else "id"
            ids = "SELECT concat(shard, '.', epoch, '-', n), occurred_at FROM entries WHERE tenant = %s"
            of_tenant = {each for each, _ in told.system.sql(ids, told.tenant.name)}
            assert own and {each[name] for each in own} <= of_tenant
        nobody = told.system.make_key("tenant-with-nothing", "read")
        assert told.get(route, key=nobody).json()["items"] == []

    def test_a_cursor_is_good_for_the_very_list_of_the_very_tenant(self, told: Told, route: str) -> None:
        cursor = told.get(route, limit=1).json()["next_cursor"]
        assert told.get(route, limit=2, cursor=cursor).status_code == 200
        elsewhere = [each for each in LISTS if each != route]
        answers = [told.get(each, cursor=cursor) for each in elsewhere]
        answers += [told.get(route, key=told.other.key, cursor=cursor)]
        answers += [told.get(route, cursor=each) for each in ("", "x", cursor[:-1], cursor + "A", cursor[::-1])]
        if route != f"{PATH}/entries":
            answers += [told.get(route, cursor=cursor, metric="calls"), told.get(route, cursor=cursor, to=LATER)]
        for answer in answers:
            assert "cursor" in refused(answer, 400, "INVALID_REQUEST") or "days" in answer.json()["detail"]

    def test_what_makes_no_sense_is_refused(self, told: Told, route: str) -> None:
        for name, values in {
            "limit": ("0", "1001", "x", "-1", "1.0", ""),
            "nothing": ("x",),
            **({} if route == f"{PATH}/entries" else {"from": ("x", "2026-11-01", ""), "to": ("yesterday",)}),
            **({} if route == f"{PATH}/entries" else {"metric": ("a b", "", "a" * 201)}),
            **({"kind": ("x", ""), "subject": ("a b", "")} if route == "/v1/entries" else {}),
            **({"by": ("week", "")} if route.endswith("usage") else {}),
        }.items():
            for value in values:
                assert name in refused(told.get(route, **{name: value}), 400, "INVALID_REQUEST"), (name, value)
        if route != f"{PATH}/entries":
            both = {"from": "2026-11-02T00:00:00Z", "to": "2026-11-01T00:00:00Z"}
            assert "before" in refused(told.get(route, **both), 400, "INVALID_REQUEST")
            assert "credits" in refused(told.get(route, metric="credits"), 404, "UNKNOWN_METRIC")

    def test_a_key_without_the_scope_or_none_is_refused(self, told: Told, route: str) -> None:
        refused(httpx.get(told.system.urls["gateway"] + route), 401, "UNAUTHENTICATED")
        for scope in ("consume", "admin", "ops"):
            refused(told.get(route, key=told.system.make_key(told.tenant.name, scope)), 403, "FORBIDDEN")


def test_a_subject_without_entries_has_empty_lists_and_one_that_cannot_be_is_refused(told: Told) -> None:
    for what in ("usage", "entries"):
        assert told.get(f"/v1/subjects/nobody/{what}").json()["items"] == []
        refused(told.get(f"/v1/subjects/%ff/{what}"), 400, "INVALID_REQUEST")
    assert told.get("/v1/entries", subject="nobody").json() == {"items": [], "next_cursor": None}


def test_a_metric_that_has_left_the_catalog_is_still_told(told: Told, make_tenant: MakeTenant) -> None:
    tenant = make_tenant(CATALOG)
    tenant.consume(SUBJECT, "calls", 3)
    without: dict[str, Any] = {"metrics": {"tokens": {}}, "plans": {}}
    assert tenant.client.put("/v1/catalog", json=without).status_code == 200
    told.system.drained()
    found = told.get("/v1/entries", key=tenant.key, metric="calls", kind="consume").json()["items"]
    assert [each["change"] for each in found] == [3]
    refused(told.get("/v1/entries", key=tenant.key, metric="images"), 404, "UNKNOWN_METRIC")


def test_a_page_goes_on_where_the_last_one_ended_while_entries_arrive(told: Told, make_tenant: MakeTenant) -> None:
    tenant = make_tenant(CATALOG)
    for n in range(20):
        assert tenant.consume(f"u_{n}", "calls").status_code == 200
    told.system.drained()
    seen: list[str] = []
    query: dict[str, Any] = {"limit": 3}
    for n in range(100):
        body = told.get("/v1/entries", key=tenant.key, **query).json()
        seen += [each["id"] for each in body["items"]]
        if body["next_cursor"] is None:
            break
        query["cursor"] = body["next_cursor"]
        if n < 5:
            assert tenant.consume(f"v_{n}", "calls").status_code == 200
            told.system.drained()
    everything = told.get("/v1/entries", key=tenant.key, limit=1_000).json()["items"]
    assert seen == [each["id"] for each in everything]
    assert len(seen) == 25

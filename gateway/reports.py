"""The routes of "Ledger and reports": usage, statements, entries, sealed periods, balances as they stood."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
from litestar import Response, get
from litestar.datastructures import MultiDict
from litestar.datastructures.headers import MediaTypeHeader
from litestar.di import NamedDependency
from litestar.params import FromPath

from gateway import paging
from gateway.admission import Admission
from gateway.paging import Cursors, limit_in
from gateway.reading import PIECE_ROWS, Place, Reading, ReadPiece, page
from gateway.report_documents import (
    JSON,
    STREAMED,
    Streamed,
    entry_document,
    seal_document,
    standing_document,
    usage_document,
)
from gateway.report_queries import by_in, identifier_in, kind_in, range_in, usage_range_in
from gateway.resources import StrictRequest, caller, from_path
from gateway.streams import BoundedStream
from ledger import balances_at, reports, sealed_reports
from ledger.reports import EntryPlace, Piece, UsagePlace, Wanted
from ledger.sealed_reports import SealPlace
from ledger.store import Store
from quota.errors import InvalidRequest, UnknownMetric
from quota.periods import to_rfc3339


class _UsageCursor(NamedTuple):
    """`from` and `to`, which may have been left out, as the first page understood them; and the place."""

    from_ms: int
    to_ms: int
    after: UsagePlace


class Reports:
    """What the routes of reports share in one process."""

    def __init__(self, store: Store, secret: str) -> None:
        self.reading = Reading(store)
        self._cursors = Cursors(secret)

    async def check_metric(self, tenant: str, metric: str | None) -> None:
        """UnknownMetric if no version of the tenant's catalog has it."""
        if metric is not None and not await self.reading.read(tenant, reports.knows_metric, tenant, metric):
            raise UnknownMetric(f"no version of the catalog has a metric {metric}", metric=metric)

    def place_in(self, request: StrictRequest, kind: type[Place]) -> Place | None:
        return self._cursors.place_in(request.query_params, kind, _listed(request))

    def next_cursor(self, request: StrictRequest, place: tuple[Any, ...] | None) -> str | None:
        return None if place is None else self._cursors.to(place, _listed(request))

    async def page(
        self,
        request: StrictRequest,
        read_piece: ReadPiece[Place],
        kind: type[Place],
        place_of: Callable[[Any], Place],
        document: Callable[[Any], Any],
    ) -> dict[str, Any]:
        """The page that the request asks for."""
        limit, after = limit_in(request.query_params), self.place_in(request, kind)
        items, place = await page(read_piece, place_of, document, after, limit)
        return {"items": items, "next_cursor": self.next_cursor(request, place)}

    async def stream(self, read_piece: ReadPiece[Place], written: Streamed) -> BoundedStream:
        """All of a list, which must come to an end."""
        self.reading.check_room()
        # Read before anything is sent, so that what fails at once is still told as a problem.
        first = await read_piece(None, PIECE_ROWS)
        pieces = self.reading.stream(written.head, first, read_piece, written.write)
        return BoundedStream(pieces, written.media, written.file_name)

    async def standing(self, tenant: str, subject: str, at_ms: int) -> dict[str, Any]:
        """The subject's balances as they stood at an instant."""
        rows = await self.reading.read(tenant, balances_at.at_instant, tenant, subject, at_ms)
        return {"subject": subject, "at": to_rfc3339(at_ms), "metrics": [standing_document(row) for row in rows]}

    def pieces_of(self, wanted: Wanted) -> ReadPiece[EntryPlace]:
        async def read_piece(after: EntryPlace | None, most: int) -> Piece[EntryPlace]:
            return await self.reading.read(wanted.tenant, reports.entries_after, wanted, after, most)

        return read_piece

    async def page_of_entries(self, request: StrictRequest, wanted: Wanted) -> Response[bytes]:
        """The page of entries that the request asks for, put into words piece by piece."""
        read_piece = self.pieces_of(wanted)
        document = await self.page(request, read_piece, EntryPlace, reports.place_of_entry, _encoded_entry)
        return Response(msgspec.json.encode(document), media_type=JSON)


def _encoded_entry(row: Any) -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(entry_document(row)))


def media_of(request: StrictRequest) -> str:
    """JSON, CSV or NDJSON: what the Accept header wants most; JSON where it wants none of them."""
    try:
        accepted = [MediaTypeHeader(each) for each in request.accept]
    except OverflowError:
        return JSON  # a quality beyond all numbers
    for each in accepted:
        for media in (JSON, *STREAMED):
            if each.priority[0] > 0 and MediaTypeHeader(media).match(each):
                return media
    return JSON


def check_streams_whole(query: MultiDict[str]) -> None:
    """InvalidRequest if only a part of a stream is asked for."""
    for name in paging.QUERY:
        if name in query:
            raise InvalidRequest(f"{name} is for pages of JSON; a stream has all of them", field=name)


def _listed(request: StrictRequest) -> list[str]:
    """The words that name a list: a cursor of one tenant, path and question is none of another's."""
    asked = sorted(f"{name}={value}" for name, value in request.query_params.multi_items() if name not in paging.QUERY)
    return [caller(request).tenant, request.scope["path"], *asked]


@get(
    "/v1/subjects/{subject:str}/usage",
    opt={"scopes": ("read",), "query": (*paging.QUERY, "metric", "from", "to", "by")},
    summary="What the subject used, by hour, day or month",
)
async def read_usage(
    request: StrictRequest,
    admission: NamedDependency[Admission],
    reporting: NamedDependency[Reports],
    subject: FromPath[str],
) -> dict[str, Any]:
    tenant, subject, query = caller(request).tenant, from_path(subject, "subject"), request.query_params
    metric, by, limit = identifier_in(query, "metric"), by_in(query), limit_in(query)
    from_ms, to_ms = usage_range_in(query, by, admission.now_ms())
    after: UsagePlace | None = None
    if cursor := reporting.place_in(request, _UsageCursor):
        from_ms, to_ms, after = cursor
    await reporting.check_metric(tenant, metric)
    wanted = Wanted(tenant, subject, metric, from_ms=from_ms, to_ms=to_ms)
    # All of the page at once: its sums are few and small, and each piece would sum up anew.
    piece = await reporting.reading.read(tenant, reports.usage_after, wanted, by, after, limit + 1)
    shown = piece.rows[:limit]
    goes_on = len(piece.rows) > limit
    place = _UsageCursor(from_ms, to_ms, reports.place_of_usage(shown[-1], by)) if goes_on else None
    return {
        "subject": subject,
        "by": by,
        "from": to_rfc3339(from_ms),
        "to": to_rfc3339(to_ms),
        "items": [usage_document(row, by) for row in shown],
        "next_cursor": reporting.next_cursor(request, place),
    }


@get(
    "/v1/subjects/{subject:str}/entries",
    opt={"scopes": ("read",), "query": paging.QUERY},
    summary="The subject's statement: every entry with the balance after it",
)
async def read_statement(
    request: StrictRequest, reporting: NamedDependency[Reports], subject: FromPath[str]
) -> Response[bytes]:
    wanted = Wanted(caller(request).tenant, from_path(subject, "subject"))
    return await reporting.page_of_entries(request, wanted)


@get(
    "/v1/entries",
    opt={"scopes": ("read",), "query": (*paging.QUERY, "from", "to", "subject", "metric", "kind")},
    summary="The tenant's entries, as pages or, by the Accept header, as one stream of CSV or NDJSON",
)
async def list_entries(
    request: StrictRequest, admission: NamedDependency[Admission], reporting: NamedDependency[Reports]
) -> Response[Any]:
    tenant, query = caller(request).tenant, request.query_params
    wanted_range = range_in(query)
    subject, metric, kind = identifier_in(query, "subject"), identifier_in(query, "metric"), kind_in(query)
    await reporting.check_metric(tenant, metric)
    wanted = Wanted(tenant, subject, metric, kind, wanted_range.from_ms, wanted_range.to_ms)
    media = media_of(request)
    if media == JSON:
        return await reporting.page_of_entries(request, wanted)
    check_streams_whole(query)
    if wanted.to_ms is None:
        wanted = replace(wanted, to_ms=admission.now_ms() + 1)  # else it might never come to an end
    return await reporting.stream(reporting.pieces_of(wanted), STREAMED[media])


@get(
    "/v1/periods",
    opt={"scopes": ("read",), "query": (*paging.QUERY, "metric", "from", "to")},
    summary="Sealed periods with their closing balances",
)
async def list_periods(request: StrictRequest, reporting: NamedDependency[Reports]) -> dict[str, Any]:
    tenant, query = caller(request).tenant, request.query_params
    began, metric = range_in(query), identifier_in(query, "metric")
    await reporting.check_metric(tenant, metric)
    wanted = Wanted(tenant, metric=metric, from_ms=began.from_ms, to_ms=began.to_ms)

    async def read_piece(after: SealPlace | None, most: int) -> Piece[SealPlace]:
        return await reporting.reading.read(tenant, sealed_reports.sealed_periods_after, wanted, after, most)

    return await reporting.page(request, read_piece, SealPlace, sealed_reports.place_of_seal, seal_document)

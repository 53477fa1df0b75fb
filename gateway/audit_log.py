"""GET /v1/audit_log: who changed what in the tenant, the newest first. It is read, and nothing changes it."""

from typing import Any

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency

from gateway import paging
from gateway.act_documents import STREAMED
from gateway.report_documents import JSON
from gateway.report_queries import act_in, identifier_in, range_in
from gateway.reports import Reports, check_streams_whole, media_of
from gateway.resources import StrictRequest, caller
from ledger.act_reading import ActPlace, WantedActs, act_document, acts_after, place_of_act
from ledger.reports import Piece


@get(
    "/v1/audit_log",
    opt={"scopes": ("admin",), "query": (*paging.QUERY, "from", "to", "subject", "act", "actor")},
    summary="Every administrative act, the newest first: pages or, by the Accept header, one stream of CSV or NDJSON",
)
async def list_acts(request: StrictRequest, reporting: NamedDependency[Reports]) -> Response[Any]:
    tenant, query = caller(request).tenant, request.query_params
    asked = range_in(query)
    subject, act, actor = identifier_in(query, "subject"), act_in(query), identifier_in(query, "actor")
    wanted = WantedActs(tenant, subject, act, actor, asked.from_ms, asked.to_ms)

    async def read_piece(after: ActPlace | None, most: int) -> Piece[ActPlace]:
        return await reporting.reading.read(tenant, acts_after, wanted, after, most)

    media = media_of(request)
    if media == JSON:
        document = await reporting.page(request, read_piece, ActPlace, place_of_act, act_document)
        return Response(msgspec.json.encode(document), media_type=JSON)
    check_streams_whole(query)
    # From the newest act backwards, it comes to an end whatever is added meanwhile.
    return await reporting.stream(read_piece, STREAMED[media])

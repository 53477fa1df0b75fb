"""POST /v1/consume/batch: up to a thousand items, each with its own result, or all or none of one subject."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
from msgspec import UNSET

from gateway import answers, metrics, problems
from gateway.admission import Admission
from gateway.answers import Answer
from gateway.bodies import BatchItem, BatchRequest, decoded, fingerprint
from gateway.consuming import demand_of
from gateway.hot import Asking
from gateway.in_order import Result, ask_in_order
from gateway.outage import Outage
from gateway.requests import checked_key
from quota.catalog import Catalog
from quota.counters import Counters
from quota.decisions import Charged, decision
from quota.demands import Asked, Demand
from quota.errors import CountersUnavailable, InvalidRequest, QuotagateError
from quota.protocol import Mode

ROUTE = "consume/batch"
"""The scope of the items' keys."""

PLACE_MARK = "§"
"""Between the header's key and an item's place. Keys are printable ASCII, so no caller's own key can have it."""


class Batch:
    """The route, bound to what decides."""

    def __init__(self, admission: Admission, counters: Counters, outage: Outage) -> None:
        self._admission = admission
        self._counters = counters
        self._outage = outage

    async def consume(self, asking: Asking) -> Answer:
        request = decoded(BatchRequest, asking.body)
        if request.atomic:
            return await self._all_or_none(asking, request)
        demands: list[Demand | QuotagateError] = [
            _demand_or_error(asking, place, raw) for place, raw in enumerate(request.items)
        ]
        good = [each for each in demands if isinstance(each, Demand)]
        results = iter(await ask_in_order(self._admission, self._counters, good))
        _, catalog = await self._admission.catalogs.get(asking.tenant)
        # Together, so that what an outage lets through is written down together.
        documents = await asyncio.gather(
            *(
                _refused(each, asking.path)
                if isinstance(each, QuotagateError)
                else self._document(each, next(results), catalog, asking.path)
                for each in demands
            )
        )
        return _results(asking, documents)

    async def _document(self, demand: Demand, result: Result, catalog: Catalog, path: str) -> dict[str, Any]:
        if isinstance(result, CountersUnavailable):
            try:
                return _let_through(demand, await self._outage.let_through(demand, result))
            except QuotagateError as error:
                result = error
        if isinstance(result, QuotagateError):
            return problems.document_of(result, path)
        shard = self._admission.shard_of(demand.tenant, demand.subject)
        status, document = answers.consumed_document(decision(demand, shard, result), catalog, path)
        return {"status": status, **document}

    async def _all_or_none(self, asking: Asking, request: BatchRequest) -> Answer:
        items = [decoded(BatchItem, bytes(raw)) for raw in request.items]
        if len({item.subject for item in items}) > 1:
            raise InvalidRequest("an atomic batch is for one subject", field="items")
        if any(item.idempotency_key is not UNSET for item in items):
            raise InvalidRequest(
                "the items of an atomic batch have no keys of their own; send the header Idempotency-Key", field="items"
            )
        demands = [demand_of(asking, item, Mode.CONSUME, None, ROUTE) for item in items]
        only_looks = all(demand.mode is Mode.CHECK for demand in demands)
        together = Demand(
            asking.tenant,
            items[0].subject,
            Mode.CHECK if only_looks else Mode.CONSUME,
            asking.request_id,
            attempt=asking.attempt,
            idempotency_key=asking.idempotency_key,
            route=ROUTE,
            fingerprint="" if asking.idempotency_key is None else fingerprint(items[0], items[1:]),
            together=tuple(demands),
        )
        try:
            decided, catalog = await self._admission.decide(together)
        except CountersUnavailable as error:
            return _results(asking, await self._all_let_through(together, error))
        status, document = answers.consumed_document(decided, catalog, asking.path)
        whole = {charge.metric: charge for charge in decided.charges}
        documents = []
        for demand in demands:
            if decided.allowed:
                charges = _shares(demand, catalog, whole)
                alone = replace(decided, charges=charges, operation=demand.operation)
                status, document = answers.consumed_document(alone, catalog, asking.path)
            documents.append({"status": status, **document})
        return _results(asking, documents, decided.replayed)

    async def _all_let_through(self, together: Demand, error: CountersUnavailable) -> list[dict[str, Any]]:
        # Priced here, once: what is kept is the sum of what the items are told, whatever the catalog costs meanwhile.
        catalog = self._admission.catalogs.known(together.tenant)
        if catalog is None:
            raise error
        try:
            documents = [_let_through(each, each.charges(catalog)) for each in together.together]
            priced = replace(together, asked=together.charges(catalog), together=())
        except QuotagateError:
            raise error from error.__cause__  # that it cannot be priced is not what went wrong
        await self._outage.let_through(priced, error)
        return documents


def _shares(demand: Demand, catalog: Catalog, whole: Mapping[str, Charged]) -> tuple[Charged, ...]:
    """An item's part of what was charged for all; all of it for a first answer whose prices have left the catalog."""
    try:
        asked = demand.charges(catalog)
    except QuotagateError:
        return tuple(whole.values())
    return tuple(replace(whole[each.metric], amount=each.amount or 0) for each in asked if each.metric in whole)


async def _refused(error: QuotagateError, path: str) -> dict[str, Any]:
    return problems.document_of(error, path)


def _let_through(demand: Demand, charges: tuple[Asked, ...]) -> dict[str, Any]:
    return {"status": 200, **answers.degraded_document(demand.subject, charges, demand.operation)}


def _demand_or_error(asking: Asking, place: int, raw: msgspec.Raw) -> Demand | QuotagateError:
    try:
        item = decoded(BatchItem, bytes(raw))
        key = None if item.idempotency_key is UNSET else checked_key(item.idempotency_key.encode())
        if key is None and asking.idempotency_key is not None:
            # The whole batch again is each of its items again.
            key = f"{asking.idempotency_key}{PLACE_MARK}{place}"
        demand = demand_of(asking, item, Mode.CONSUME, key, ROUTE)
        # Each item is a try of its own: where the reply to some is lost, the others were told.
        return replace(demand, attempt=f"{asking.attempt or ''}#{place}")
    except QuotagateError as error:
        return error


def _outcome_of(document: Mapping[str, Any]) -> str | None:
    """None of an item that was refused before anything was decided."""
    if document["status"] == 200:
        return "degraded" if "degraded" in document else "allowed"
    return "denied" if document["code"] in {"QUOTA_EXCEEDED", "NO_SUBSCRIPTION"} else None


def _results(asking: Asking, documents: Sequence[dict[str, Any]], replayed: bool = False) -> Answer:
    for outcome, count in Counter(filter(None, map(_outcome_of, documents))).items():
        metrics.decisions_of(asking.route, outcome).inc(count)
    headers = [("content-type", "application/json")]
    if replayed:
        headers.append(("idempotency-replayed", "true"))
    return Answer(200, headers, msgspec.json.encode({"results": documents}))

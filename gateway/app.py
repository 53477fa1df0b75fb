"""The composition root of a gateway process: everything is made here, and handed to whoever needs it."""

import asyncio
from collections.abc import AsyncGenerator, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
from litestar import Litestar, Router
from litestar.datastructures import State
from litestar.di import Provide
from litestar.openapi import OpenAPIConfig
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig

from gateway import api_keys, audit_log, catalog, grants, jobs, levels, openapi, ops, reports, stripe_webhooks, subjects
from gateway.admission import Admission
from gateway.auth import Authenticator
from gateway.batch import Batch
from gateway.consuming import Consuming
from gateway.edge import Edge
from gateway.epochs import Epochs, Looks
from gateway.hot import HotPath, Route
from gateway.in_order import ask_in_order
from gateway.keeping import Keeping
from gateway.key_uses import KeyUses
from gateway.levels import Levels
from gateway.lookups import Lookups
from gateway.lost_replies import LostReplies
from gateway.outage import Outage
from gateway.refunds import Refunds
from gateway.requests import MAX_BATCH_BYTES
from gateway.reservations import Reservations
from gateway.resources import StrictRequest, scope_guard, to_problem
from gateway.settling import Settling
from gateway.spool import Spool, folder_of
from gateway.stripe_signatures import StripeSignatures
from gateway.taking_back import TakingBack
from ledger import schema, shards
from ledger.store import ALL_TENANTS, Store
from quota import safety
from quota.counters import Counters
from quota.errors import CountersUnavailable, Unsafe
from quota.gathering import MAX_CALLS_IN_FLIGHT
from quota.lives import Lives, Looking
from quota.settings import MAX_SHARDS, Settings

CONNECT_TIMEOUT_S = 1.0

WARM_UPS = 3

log = structlog.get_logger()


def connect(settings: Settings, lives: Lives | None = None) -> Redis:
    """A client that never retries by itself: a request whose reply was lost would be charged again. It connects only to
    a life of Redis that may be used, if it is told which that is."""
    return Redis.from_url(
        settings.redis_url,
        redis_connect_func=None if lives is None else lives.admit,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        socket_timeout=None,  # the deadline is the caller's, around the whole trip
        retry=Retry(NoBackoff(), 0),
        max_connections=MAX_CALLS_IN_FLIGHT * 16,
        # With these, redis-py takes a connection that the server has closed for one that has something to say.
        maint_notifications_config=MaintNotificationsConfig(enabled=False),
    )


async def foreign(looking: Looking, store: Store) -> list[str]:
    """A sentence if this Redis and this database do not belong together."""
    # As many shards as any store may have: a foreign one with more of them is foreign all the same.
    own = await store.run(ALL_TENANTS, shards.store_id)
    if not await looking.stores(list(range(MAX_SHARDS))) - {own}:
        return []
    return [
        "this Redis holds the counters of another ledger: "
        "QUOTAGATE_REDIS_URL and QUOTAGATE_DATABASE_URL do not belong together"
    ]


async def refuse_unsafe(looking: Looking, store: Store, settings: Settings) -> None:
    """Unsafe, with every reason, if this Redis or this database could not keep the promises."""
    info, appendfsync = await looking.info()
    found = safety.complaints(info, appendfsync, settings.durability)
    found += await store.run(ALL_TENANTS, schema.complaints)
    if not found:
        found += await foreign(looking, store)
    if found:
        raise Unsafe("\n".join(found))


class Gateway:
    """What a process holds while it serves."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.store = Store(settings.database_url)
        self.lives = Lives()
        self.looking = Looking(connect(settings))
        self.counters = Counters(
            connect(settings, self.lives),
            deadline_s=settings.deadline_ms / 1000,
            record_ttl_s=settings.idempotency_ttl_s,
        )
        self.authenticator = Authenticator(self.store, settings.key_pepper)

    async def open(self) -> "Parts":
        """Checks both stores, makes the first key, gives every shard its head."""
        await refuse_unsafe(self.looking, self.store, self.settings)
        shard_count = await self.store.run(ALL_TENANTS, shards.count)
        if self.settings.admin_key:
            await self.authenticator.ensure_admin_key(self.settings.admin_key)
        looks = Looks(
            self.counters,
            self.looking,
            self.lives,
            self.store,
            shard_count=shard_count,
            most_waiting=self.settings.journal_entries,
        )
        await looks.look()
        await self._connected()
        return Parts(self, looks, shard_count, await self.store.run(ALL_TENANTS, shards.store_id))

    async def _connected(self) -> None:
        """Makes connections before the first requests come, which would wait for them within their deadline. That one
        comes late is no reason not to serve: the stores were looked at, with more patience than a request has."""
        for _ in range(WARM_UPS):
            pings = [self.counters.ping() for _ in range(MAX_CALLS_IN_FLIGHT)]
            found = await asyncio.gather(*pings, return_exceptions=True)
            missed = [each for each in found if isinstance(each, CountersUnavailable)]
            for each in found:
                if isinstance(each, BaseException) and each not in missed:
                    raise each
            if not missed:
                return
        log.warning("Redis is slow to answer", reason=str(missed[0]))

    async def close(self) -> None:
        await self.looking.close()
        await self.counters.close()
        await self.store.close()


class Parts:
    """What answers requests, made of an opened gateway's stores."""

    def __init__(self, gateway: Gateway, looks: Looks, shard_count: int, store_id: str) -> None:
        counters, store = gateway.counters, gateway.store
        self.looks = looks
        self.admission = Admission(counters, store, Epochs(gateway.looking, store, counters.acknowledged), shard_count)
        self.lookups = Lookups(counters, store, self.admission.epochs, shard_count)
        self.taking_back = TakingBack(self.admission, counters, self.lookups, store)
        self.reports = reports.Reports(store, gateway.settings.key_pepper)
        self.keeping = Keeping(store, Spool(folder_of(store_id, gateway.settings.outage_dir)))
        self.outage = Outage(self.admission, self.keeping)
        self.settling = Settling(partial(ask_in_order, self.admission, counters), counters, store)
        self.lost_replies = LostReplies(counters, store, self.taking_back, self.keeping)
        self.key_uses = KeyUses(store, gateway.authenticator.used_at)
        counters.on_lost = self.lost_replies.heard_of

    def keep_going(self) -> list[Coroutine[Any, Any, None]]:
        """What runs beside the requests for as long as the process serves."""
        parts = (self.looks, self.taking_back, self.lost_replies, self.keeping, self.settling, self.key_uses)
        return [part.keep_going() for part in parts]


def build(gateway: Gateway, parts: Parts) -> Edge:
    """The application of an opened gateway: the hot path, and Litestar for everything else."""
    hot = HotPath(gateway.authenticator)
    return Edge(routed(gateway, parts), {route.template: hot.serving(route) for route in hot_routes(gateway, parts)})


def hot_routes(gateway: Gateway, parts: Parts) -> list[Route]:
    """What the edge serves itself."""
    consuming = Consuming(parts.admission, parts.outage)
    reservations = Reservations(parts.admission, parts.lookups)
    return [
        Route("/v1/consume", consuming.consume),
        Route("/v1/check", consuming.check),
        Route("/v1/consume/batch", Batch(parts.admission, gateway.counters, parts.outage).consume, MAX_BATCH_BYTES),
        Route("/v1/refunds", Refunds(parts.admission, parts.lookups).refund),
        Route("/v1/release", Levels(parts.admission).release),
        Route("/v1/reservations", reservations.hold),
        Route("/v1/reservations/{id}/commit", reservations.commit),
        Route("/v1/reservations/{id}/release", reservations.release),
    ]


def routed(gateway: Gateway, parts: Parts) -> Litestar:
    """Every route but the hot ones."""
    stripe_signatures = StripeSignatures(gateway.settings.webhook_secrets)

    @asynccontextmanager
    async def lifespan(_: Litestar) -> AsyncGenerator[None, None]:
        running = [asyncio.create_task(each) for each in [gateway.authenticator.keep_fresh(), *parts.keep_going()]]
        try:
            yield
        finally:
            for task in running:
                task.cancel()
            await parts.lost_replies.finish()
            await gateway.close()

    return Litestar(
        [
            catalog.read_catalog,
            catalog.list_versions,
            catalog.write_catalog,
            catalog.list_plans,
            catalog.read_plan,
            subjects.read_status,
            subjects.read_subscription,
            subjects.write_subscription,
            grants.give_grant,
            levels.write_level,
            reports.read_usage,
            reports.read_statement,
            reports.list_entries,
            reports.list_periods,
            api_keys.create_api_key,
            api_keys.list_api_keys,
            api_keys.revoke_api_key,
            audit_log.list_acts,
            ops.read_reconciliation,
            jobs.start_job,
            jobs.read_job,
            stripe_webhooks.take_stripe_event,
            ops.live,
            ops.ready,
            ops.exposition,
        ],
        dependencies={
            "store": Provide(lambda: gateway.store, sync_to_thread=False),
            "authenticator": Provide(lambda: gateway.authenticator, sync_to_thread=False),
            "counters": Provide(lambda: gateway.counters, sync_to_thread=False),
            "admission": Provide(lambda: parts.admission, sync_to_thread=False),
            "stripe_signatures": Provide(lambda: stripe_signatures, sync_to_thread=False),
            "reporting": Provide(lambda: parts.reports, sync_to_thread=False),
        },
        exception_handlers={Exception: to_problem},
        logging_config=None,
        guards=[scope_guard],
        lifespan=[lifespan],
        openapi_config=OpenAPIConfig(
            title="Quotagate",
            version="1",
            openapi_router=Router(
                "/schema/openapi.json", route_handlers=[], opt={"scopes": ()}, include_in_schema=False
            ),
            render_plugins=[openapi.Document(path="/")],
        ),
        request_class=StrictRequest,
        state=State({"authenticator": gateway.authenticator}),
    )

"""A Redis that belongs to another ledger is refused: its entries would be drained into the wrong one, and be gone."""

import asyncio

import pytest
import redis

from gateway.app import Gateway
from quota import keys
from quota.errors import Unsafe
from quota.settings import Settings
from tests.conftest import Database, Stores
from tests.integration.pipeline import Pipeline


def test_a_drain_takes_nothing_from_a_redis_of_another_ledger(connection: "redis.Redis", database: Database) -> None:
    with Pipeline.on(connection, database) as pipeline:
        pipeline.shard.open(limit=None).consume(*[pipeline.shard.step(1)] * 3)
        connection.hset(keys.head(3), "store", "another")
        drain = pipeline.drain()
        with pytest.raises(Unsafe, match="belongs to another ledger"):
            drain.run_once()
        assert (pipeline.entries(), pipeline.waiting()) == ([], 3)


@pytest.mark.parametrize("shard", [0, 5, 900])
def test_a_gateway_does_not_start_on_a_redis_of_another_ledger(
    stores: Stores, connection: "redis.Redis", database: Database, shard: int
) -> None:
    connection.hset(keys.head(shard), mapping={"epoch": 1, "store": "another"})
    settings = Settings(
        redis_url=stores.redis_url, database_url=database.application_url, key_pepper="12345678", deadline_ms=1000
    )

    async def start() -> None:
        gateway = Gateway(settings)
        try:
            await gateway.open()
        finally:
            await gateway.close()

    with pytest.raises(Unsafe, match="holds the counters of another ledger"):
        asyncio.run(start())

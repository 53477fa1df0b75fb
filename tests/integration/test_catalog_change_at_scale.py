"""A limit that changes reaches every subject of the plan, and none is rewritten for it: a version in each shard's head
tells whoever comes next."""

import redis

from quota.settings import Settings
from tests.conftest import SHARDS, Database, Stores
from tests.integration.changing_catalogs import AFTER, changed_under

MANY = 4_000
MOST_COMMANDS_A_SHARD = 8
"""A script of four commands, and what a call may send besides."""


def test_what_a_catalog_costs_redis_does_not_depend_on_its_accounts(
    stores: Stores, connection: "redis.Redis", database: Database
) -> None:
    settings = Settings(
        redis_url=stores.redis_url, database_url=database.application_url, key_pepper="12345678", deadline_ms=5_000
    )
    many = changed_under(settings, connection, MANY)
    assert (many.limits, many.written) == ({(AFTER, 1): MANY}, 0), "each at its next touch, none before"
    assert sum(many.commands.values()) <= SHARDS * MOST_COMMANDS_A_SHARD, many.commands

"""Tells Redis of changes in Postgres that the gateway which made them did not live to tell, and brings in the accounts
whose new terms have no entry yet."""

from typing import Any

import structlog
from redis import Redis
from sqlalchemy import Connection, Engine

from ledger import announcements, catalogs, notices, older_drains, shards
from ledger.store import ALL_TENANTS, transaction
from quota import keys, protocol
from quota.keys import AccountName
from quota.protocol import Call
from quota.scripts import run
from workers.bringing_in import BringingIn

OLDER_THAN_S = 1.0
"""A gateway tells what it changed within milliseconds; one that has not within a second is gone."""

log = structlog.get_logger()


class Announcer:
    """Bound to one Redis and one ledger."""

    def __init__(self, connection: "Redis", engine: Engine) -> None:
        self._connection: Any = connection
        self._engine = engine
        self._bringing_in = BringingIn(connection, engine)

    def run_once(self) -> int:
        """Tells one bounded batch; how many announcements, accounts with notices, and gifts that an older drain left,
        it was."""
        with transaction(self._engine, ALL_TENANTS) as connection:
            booked = older_drains.book_gifts(connection)
        if booked:
            log.warning("gifts were booked that an older drain had left", gifts=booked)
        return booked + self._tell() + self._write_notices()

    def _tell(self) -> int:
        with transaction(self._engine, ALL_TENANTS) as connection:
            untold = announcements.untold(connection, OLDER_THAN_S)
            shard_count = shards.count(connection)
            calls = [call for each in untold for call in self._calls(connection, each, shard_count)]
        for call in calls:
            run(self._connection, call)
        with transaction(self._engine, ALL_TENANTS) as connection:
            announcements.told(connection, [each.id for each in untold])
        return len(untold)

    def _write_notices(self) -> int:
        with transaction(self._engine, ALL_TENANTS) as connection:
            untold = notices.untold(connection, OLDER_THAN_S)
            if untold:
                older_drains.take_notices_away(connection, untold)
        outcomes = self._bringing_in.bring_in(untold)
        if left_over := [account for account, outcome in outcomes.items() if outcome != "provisioned"]:
            with transaction(self._engine, ALL_TENANTS) as connection:
                notices.try_again(connection, left_over)
        return len(untold) - len(left_over)

    def _calls(self, connection: Connection, announcement: announcements.Announcement, shard_count: int) -> list[Call]:
        tenant, subject = announcement.tenant, announcement.subject
        version, catalog = catalogs.newest(connection, tenant)
        if subject is None:
            return [protocol.publish(shard, tenant, version) for shard in range(shard_count)]
        shard = keys.shard_of(tenant, subject, shard_count)
        names = [AccountName(tenant, subject, metric).key(shard) for metric in catalog.metrics]
        return [protocol.publish(shard, tenant, version, names)]

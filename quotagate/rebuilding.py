"""`quotagate rebuild`: brings the accounts that Redis has not got in again from the ledger."""

import json
import sys
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TextColumn

from quota.errors import InvalidRequest
from quotagate.operator import by_operator, stores
from quotagate.plain_commands import counted


def run_rebuild(
    environment: Mapping[str, str],
    data: Path,
    tenant: str | None,
    subject: str | None,
    shard: int | None,
    *,
    as_json: bool,
) -> bool:
    """Rebuilds what is missing; whether everything was brought in."""
    if subject is not None and tenant is None:
        raise InvalidRequest("a subject is one of a tenant: say of which with --tenant")
    settings = stores(environment, data, "redis_url", "database_url")
    from ledger import jobs
    from ledger.store import ALL_TENANTS, transaction
    from quota.collector import spare_the_collector
    from workers.context import open_context
    from workers.rebuild import Scope

    held = open_context(settings)
    if shard is not None and shard >= held.rebuild.shard_count:
        raise InvalidRequest(f"there is no shard {shard}: this store has {held.rebuild.shard_count}, counted from 0")
    asked = {"tenant": tenant, "subject": subject, "shard": shard}
    with transaction(held.engine, ALL_TENANTS) as connection:
        told = {name: value for name, value in asked.items() if value is not None}
        jobs.note_asked(connection, ALL_TENANTS, by_operator(), "rebuild", told)
    spare_the_collector()
    columns = (TextColumn("{task.description}"), TextColumn("{task.completed:,} accounts"))
    is_quiet = as_json or not sys.stderr.isatty()
    with closing(held), Progress(*columns, console=Console(stderr=True), disable=is_quiet) as progress:
        task = progress.add_task("looking at", total=None)
        scope = Scope(tenant, subject, None if shard is None else frozenset((shard,)))
        done = held.rebuild.run(scope, lambda accounts: progress.update(task, completed=accounts))
    if as_json:
        print(json.dumps({"accounts": done.accounts, "outcomes": done.outcomes, "complete": done.is_complete}))
        return done.is_complete
    print(f"{counted(done.accounts, 'account')} looked at, {done.outcomes['provisioned']:,} brought in again")
    for outcome, accounts in sorted(done.outcomes.items()):
        if outcome != "provisioned":
            print(f"  {accounts:,} could not be: {_WHY.get(outcome, outcome)}")
    return done.is_complete


_WHY = {
    "uninitialised": "their shards have no epoch; a running gateway begins one within two seconds, so run it again",
    "behind": "Redis has lost entries, and a running gateway begins an epoch within two seconds, so run it again",
    "undrained": "entries of the epoch that ended still wait in the journal; run it again when they are drained",
    "moved": "they were changed meanwhile; the next request brings them in, or run it again",
    "failed": "the journal refuses entries; see `quotagate doctor`",
}

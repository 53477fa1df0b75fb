"""A limit that changes under a million accounts: `python -m tests.soak.catalog`, or `--accounts N`.

Prints what applying the catalog cost Redis; exits with an error when it wrote an account, or one has the old limit at
its next touch.
"""

import argparse
import tempfile
from pathlib import Path

from quota.logs import configure
from quota.settings import Settings
from quotagate.embedded import valkey_url
from tests.integration.changing_catalogs import AFTER, changed_under
from tests.soak.planted import empty_stores, say


def main() -> None:
    asked = argparse.ArgumentParser()
    asked.add_argument("--accounts", type=int, default=1_000_000)
    asked.add_argument("--seed", type=int, help="As every part has it; nothing here is left to chance.")
    accounts = asked.parse_args().accounts
    configure("critical", "soak")
    with tempfile.TemporaryDirectory() as folder, empty_stores(Path(folder)) as pipeline:
        settings = Settings(
            redis_url=valkey_url(pipeline.connection.get_connection_kwargs()["port"], "soak"),
            database_url=pipeline.engine.url.render_as_string(hide_password=False),
            key_pepper="12345678",
            deadline_ms=5_000,
        )
        changed = changed_under(settings, pipeline.connection, accounts)
    say(f"{accounts:,} accounts: {sum(changed.commands.values())} commands, {changed.commands}")
    assert changed.written == 0, "accounts were written by the change"
    assert changed.limits == {(AFTER, 1): accounts}, changed.limits


if __name__ == "__main__":
    main()

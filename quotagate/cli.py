"""The command line. Each command imports what it needs when it runs, so that `--help` answers at once."""

import click

from quotagate.audit_command import audit
from quotagate.catalog_commands import catalog
from quotagate.completion import completion
from quotagate.counter_commands import rebuild, reconcile
from quotagate.grouped_help import GroupedCommands
from quotagate.key_commands import key, tenant
from quotagate.ledger_commands import ledger
from quotagate.ledger_explaining import explain
from quotagate.looking_commands import doctor, incidents, top
from quotagate.process_commands import gateway, migrate, scheduler, up, worker
from quotagate.subject_amending_commands import correct_counter, gift_units, override_limit, set_level
from quotagate.subject_commands import subject


@click.group(cls=GroupedCommands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="quotagate")
def main() -> None:
    """A Redis-first quota gateway with a Postgres ledger."""


for command in (
    *(up, gateway, worker, scheduler, migrate),
    *(doctor, top, incidents, audit),
    *(subject, catalog, tenant, key),
    *(ledger, reconcile, rebuild),
    completion,
):
    main.add_command(command)
ledger.add_command(explain)
for command in (override_limit, set_level, correct_counter, gift_units):
    subject.add_command(command)

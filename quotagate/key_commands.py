"""`quotagate tenant …` and `quotagate key …`: who may ask. What a script wants is alone on standard output: of a new
key its secret, once; what is said about it goes to standard error.
"""

import os
import re
from pathlib import Path

import click

from quotagate.plain_commands import data_option, json_option, lines_option, plainly

SECONDS_OF = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
MAX_GRACE_S = 365 * SECONDS_OF["d"]
MOST_SHOWN = 1_000

_length = re.compile(r"(\d{1,9})([smhd])\Z")


def _seconds(_context: click.Context, _option: click.Parameter, value: str) -> int:
    """A length of time as people write it."""
    found = _length.match(value)
    seconds = int(found[1]) * SECONDS_OF[found[2]] if found else None
    if seconds is None or seconds > MAX_GRACE_S:
        raise click.BadParameter(f"{value!r} is no length of time up to 365d: write 90s, 30m, 24h or 7d")
    return seconds


limit_option = click.option(
    "--limit", type=click.IntRange(1, 100_000), default=MOST_SHOWN, show_default=True, help="So many at most."
)
expires_option = click.option(
    "--expires-at", metavar="INSTANT", help="When it ends, such as 2030-01-01T00:00:00Z, or never."
)


@click.group()
def tenant() -> None:
    """Whose keys, plans and subjects there are."""


@tenant.command("create")
@click.argument("name")
@data_option
@json_option
@plainly
def create_tenant(name: str, data: Path, as_json: bool) -> None:
    """Make the tenant NAME; one that is there already stays as it is."""
    from quotagate.key_running import run_tenant_create

    run_tenant_create(os.environ, data, name, as_json=as_json)


@tenant.command("list")
@limit_option
@data_option
@lines_option
@plainly
def list_tenants(limit: int, data: Path, as_json: bool) -> None:
    """Show tenants by name, with the number of their keys."""
    from quotagate.key_running import run_tenant_list

    run_tenant_list(os.environ, data, limit, as_json=as_json)


@click.group()
def key() -> None:
    """API keys. ID is a key's id, as `key list` shows it."""


@key.command("create")
@click.option("--tenant", default="default", show_default=True, help="Whose it is; made if it is new.")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(["consume", "read", "admin", "ops"]),
    help="What it may do; may be given several times.",
)
@click.option("--name", help="What it is for, as lists show it.")
@expires_option
@data_option
@json_option
@plainly
def create_key(
    *, tenant: str, scopes: tuple[str, ...], name: str | None, expires_at: str | None, data: Path, as_json: bool
) -> None:
    """Make a key. It is shown once, alone on standard output."""
    from quotagate.key_running import run_key_create

    run_key_create(os.environ, data, tenant, scopes, name=name, expires_at=expires_at, as_json=as_json)


@key.command("list")
@click.option("--tenant", help="Only this tenant's.")
@click.option("--all", "is_all", is_flag=True, help="Those as well that were revoked or have expired.")
@limit_option
@data_option
@lines_option
@plainly
def list_keys(tenant: str | None, is_all: bool, limit: int, data: Path, as_json: bool) -> None:
    """Show keys and when they were used last, to about a minute; the newest at the end."""
    from quotagate.key_running import run_key_list

    run_key_list(os.environ, data, tenant, limit, is_all=is_all, as_json=as_json)


@key.command("revoke")
@click.argument("key_id", metavar="ID")
@data_option
@json_option
@plainly
def revoke_key(key_id: str, data: Path, as_json: bool) -> None:
    """Revoke a key for ever; every gateway hears of it within a second."""
    from quotagate.key_running import run_key_revoke

    run_key_revoke(os.environ, data, key_id, as_json=as_json)


@key.command("rotate")
@click.argument("key_id", metavar="ID")
@click.option(
    "--grace",
    "grace_s",
    callback=_seconds,
    metavar="LENGTH",
    default="24h",
    show_default=True,
    help="How long the old one works.",
)
@expires_option
@data_option
@json_option
@plainly
def rotate_key(key_id: str, grace_s: int, expires_at: str | None, data: Path, as_json: bool) -> None:
    """Make a key with the same name and scopes; the old one works until the grace is over.

    The new key is shown once, alone on standard output. Where the old one expires, say with --expires-at when the new
    one is to.
    """
    from quotagate.key_running import run_key_rotate

    run_key_rotate(os.environ, data, key_id, grace_s, expires_at=expires_at, as_json=as_json)

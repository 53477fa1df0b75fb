"""What `quotagate tenant …` and `quotagate key …` do, and what they print. Nothing is told before it is committed."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from sqlalchemy import Connection
from sqlalchemy.exc import ProgrammingError

from gateway.auth import digest_of, key_id_of, made_up_key
from gateway.bodies import checked_name
from ledger import api_keys, tenants
from ledger.api_keys import ListedKey, NewKey
from ledger.store import ALL_TENANTS, connect, transaction
from quota.errors import InvalidRequest, NotFound, Unsafe
from quota.identifiers import checked_identifier
from quota.periods import from_rfc3339, to_rfc3339
from quotagate.operator import by_operator, stores
from quotagate.plain_commands import counted

NO_SUCH_TABLE = {"42P01", "42703"}
"""SQLSTATE: there is no such table, no such column."""
TITLES = ("ID", "TENANT", "NAME", "SCOPES", "STATE", "LAST USED")


@contextmanager
def _ledger(environment: Mapping[str, str], data: Path, *required: str) -> Iterator[tuple[Connection, str]]:
    """One transaction over every tenant's rows, and the deployment's pepper."""
    settings = stores(environment, data, "database_url", *required)
    engine = connect(settings.database_url, pool_size=1)
    try:
        with transaction(engine, ALL_TENANTS) as connection:
            yield connection, settings.key_pepper
    except ProgrammingError as error:
        if getattr(error.orig, "sqlstate", None) not in NO_SUCH_TABLE:
            raise
        raise Unsafe("the database is not at this version's schema: run `quotagate migrate`") from error
    finally:
        engine.dispose()


def run_tenant_create(environment: Mapping[str, str], data: Path, name: str, *, as_json: bool) -> None:
    """Makes a tenant if it is missing."""
    checked_identifier(name, "tenant")
    with _ledger(environment, data) as (connection, _):
        is_new = tenants.ensure(connection, name, by_operator())
    if as_json:
        click.echo(json.dumps({"tenant": name, "created": is_new}))
    elif is_new:
        click.echo(f"Tenant {name} is made. `quotagate key create --tenant {name} --scope admin` makes its first key.")
    else:
        click.echo(f"Tenant {name} was there already.")


def run_tenant_list(environment: Mapping[str, str], data: Path, limit: int, *, as_json: bool) -> None:
    """Prints tenants, by name."""
    with _ledger(environment, data) as (connection, _):
        found = tenants.listed(connection, None, limit)
    for each in found:
        line = f"{each.name}: {counted(each.living_keys, 'key')}, made {to_rfc3339(each.created_at_ms)}"
        click.echo(json.dumps(each.to_document()) if as_json else line)
    if len(found) == limit:
        _remark(f"The first {limit:,} are shown; --limit shows more.")
    elif not found:
        _remark("There is no tenant yet: `quotagate tenant create NAME` makes one.")


def run_key_create(
    environment: Mapping[str, str],
    data: Path,
    tenant: str,
    scopes: Sequence[str],
    *,
    name: str | None,
    expires_at: str | None,
    as_json: bool,
) -> None:
    """Makes a key and prints it, once."""
    checked_identifier(tenant, "tenant")
    if name is not None:
        checked_name(name)
    expires_ms = _instant(expires_at)
    with _ledger(environment, data, "key_pepper") as (connection, pepper):
        is_new = tenants.ensure(connection, tenant, by_operator())
        key, secret = _made_up(pepper, tenant, scopes, name, expires_ms)
        made = api_keys.add(connection, key, by_operator())
    _show_secret(made, secret, {}, as_json=as_json)
    if is_new:
        _remark(f"Tenant {tenant} is new.")


def run_key_list(
    environment: Mapping[str, str], data: Path, tenant: str | None, limit: int, *, is_all: bool, as_json: bool
) -> None:
    """Prints keys, a line each, the newest last."""
    with _ledger(environment, data) as (connection, _):
        tenants.must_be_known(connection, tenant)
        found = api_keys.newest(connection, tenant, limit, is_living=not is_all)
    if as_json:
        for each in found:
            click.echo(json.dumps(each.to_document()))
    elif found:
        rows = [TITLES, *(_row(each, int(time.time() * 1000)) for each in found)]
        widths = [max(len(row[place]) for row in rows) for place in range(len(TITLES))]
        for row in rows:
            click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if len(found) == limit:
        _remark(f"The newest {limit:,} are shown; --limit shows more.")
    elif not found:
        _remark("There is no such key: `quotagate key create` makes one, and --all shows those that have ended.")


def run_key_revoke(environment: Mapping[str, str], data: Path, word: str, *, as_json: bool) -> None:
    """Revokes a key; the tenant's last one as well, because the operator can make another."""
    with _ledger(environment, data) as (connection, _):
        before = _named(connection, word)
        api_keys.revoke(connection, before.tenant, before.id, by_operator(), keeps_an_admin=False)
        after = _named(connection, before.id)
        nobody_is_left = not api_keys.living_admins(connection, before.tenant)
    told = to_rfc3339(after.revoked_at_ms or 0)
    if as_json:
        click.echo(json.dumps(after.to_document()))
    elif before.revoked_at_ms is not None:
        click.echo(f"Key {after.id} of tenant {after.tenant} was revoked already, at {told}.")
    else:
        click.echo(f"Key {after.id} of tenant {after.tenant} is revoked; every gateway hears of it within a second.")
    if nobody_is_left:
        again = f"`quotagate key create --tenant {after.tenant} --scope admin` makes one"
        _remark(f"Tenant {after.tenant} has no key with the scope admin now: {again}.")


def run_key_rotate(
    environment: Mapping[str, str], data: Path, word: str, grace_s: int, *, expires_at: str | None, as_json: bool
) -> None:
    """Makes a key in place of another, which goes on for a while."""
    expires_ms = _instant(expires_at)
    with _ledger(environment, data, "key_pepper") as (connection, pepper):
        found = _named(connection, word)
        api_keys.check_rotates(connection, found)  # first: its expiry may be what an earlier rotation gave it
        if found.expires_at_ms is not None and expires_at is None:
            raise InvalidRequest(
                f"the key {found.id} expires at {to_rfc3339(found.expires_at_ms)}: say when the new one is to, with "
                "--expires-at INSTANT or --expires-at never"
            )
        key, secret = _made_up(pepper, found.tenant, found.scopes, found.name, expires_ms)
        made, old = api_keys.rotate(connection, found, key, by_operator(), grace_s)
    _show_secret(made, secret, {"old": old.to_document()}, as_json=as_json)
    _remark(f"The old key {old.id} works until {to_rfc3339(old.expires_at_ms or 0)}.")


def _made_up(
    pepper: str, tenant: str, scopes: Sequence[str], name: str | None, expires_ms: int | None
) -> tuple[NewKey, str]:
    secret = made_up_key()
    ordered = [scope for scope in api_keys.SCOPES if scope in scopes]
    digest = digest_of(pepper, secret)
    return NewKey(key_id_of(pepper, secret), tenant, digest, ordered, name, expires_ms), secret


def _show_secret(made: ListedKey, secret: str, more: dict[str, Any], *, as_json: bool) -> None:
    click.echo(json.dumps({**made.to_document(), "secret": secret, **more}) if as_json else secret)
    ends = "" if made.expires_at_ms is None else f", until {to_rfc3339(made.expires_at_ms)}"
    _remark(f"Key {made.id} of tenant {made.tenant}, for {', '.join(made.scopes)}{ends}. It is not shown again.")


def _named(connection: Connection, word: str) -> ListedKey:
    """The key of an id, or of a whole key, which is what people have at hand. The word itself is not said again: it may
    be a secret."""
    key_id = word.split("_")[1] if word.startswith("qg_") else word
    found = api_keys.read(connection, key_id)
    if found is None:
        raise NotFound("there is no such key; give its id, as `quotagate key list --all` shows it")
    return found


def _instant(text: str | None) -> int | None:
    if text is None or text == "never":
        return None
    try:
        instant_ms = from_rfc3339(text)
    except InvalidRequest as error:
        raise InvalidRequest(f"--expires-at: {error}; or write never") from error
    if instant_ms <= time.time() * 1000:
        raise InvalidRequest(f"--expires-at: {text} lies in the past")
    return instant_ms


def _row(key: ListedKey, now_ms: int) -> tuple[str, ...]:
    used = "never" if key.last_used_at_ms is None else to_rfc3339(key.last_used_at_ms)
    return (key.id, key.tenant, key.name or "-", ",".join(key.scopes), _state(key, now_ms), used)


def _state(key: ListedKey, now_ms: int) -> str:
    if key.revoked_at_ms is not None:
        return f"revoked {to_rfc3339(key.revoked_at_ms)}"
    if key.expires_at_ms is None:
        return "good"
    return f"{'expired' if key.expires_at_ms <= now_ms else 'good until'} {to_rfc3339(key.expires_at_ms)}"


def _remark(sentence: str) -> None:
    """Beside what a script reads."""
    print(sentence, file=sys.stderr)

"""Overrides: a limit of one account in place of its plan's."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, RowMapping, delete, func, select, text
from sqlalchemy.dialects.postgresql import insert

from ledger import acts, notices
from ledger.accounts import names_of
from ledger.acts import By
from ledger.announcements import announce
from ledger.instants import from_timestamp, to_timestamp
from ledger.notices import Told
from ledger.subscription_tables import overrides
from quota.entitlement import Override
from quota.errors import NotFound
from quota.keys import AccountName
from quota.periods import to_rfc3339

_of_accounts = text(
    """
    SELECT o.tenant, o.subject, o.metric, o."limit", o.expires_at
    FROM unnest(CAST(:tenants AS text[]), CAST(:subjects AS text[]), CAST(:metrics AS text[]))
         AS wanted (tenant, subject, metric)
    JOIN overrides o USING (tenant, subject, metric)
    """
)


def of_accounts(connection: Connection, accounts: Sequence[AccountName]) -> dict[AccountName, Override]:
    """The override of each account that has one, ended or not."""
    rows = connection.execute(_of_accounts, names_of(accounts)).all()
    return {AccountName(row.tenant, row.subject, row.metric): _override(row) for row in rows}


def _override(row: Any) -> Override:
    # The name would be read as the method of a row.
    return Override(row._mapping["limit"], None if row.expires_at is None else from_timestamp(row.expires_at))


def of_subject(
    connection: Connection, tenant: str, subject: str, now_ms: int, *, after: str, most: int
) -> list[dict[str, Any]]:
    """Documents of the subject's overrides that have not ended, by metric, after one."""
    return [_document(row) for row in _in_force(connection, tenant, subject, now_ms, after=after, most=most)]


def with_authors(connection: Connection, tenant: str, subject: str, now_ms: int, most: int) -> list[dict[str, Any]]:
    """The same documents from the first metric on, each with who has put it there under `by`."""
    rows = _in_force(connection, tenant, subject, now_ms, after="", most=most)
    return [_document(row) | {"by": row["changed_by"]} for row in rows]


def _in_force(
    connection: Connection, tenant: str, subject: str, now_ms: int, *, after: str, most: int
) -> Sequence[RowMapping]:
    query = (
        select(overrides)
        .where(overrides.c.tenant == tenant, overrides.c.subject == subject, overrides.c.metric > after)
        .where(overrides.c.expires_at.is_(None) | (overrides.c.expires_at > to_timestamp(now_ms)))
        .order_by(overrides.c.metric)
        .limit(most)
    )
    return connection.execute(query).mappings().all()


def _document(row: Any) -> dict[str, Any]:
    return {
        "metric": row["metric"],
        "limit": row["limit"],
        "expires_at": None if row["expires_at"] is None else to_rfc3339(from_timestamp(row["expires_at"])),
        "reason": row["reason"],
    }


def set_limit(
    connection: Connection, account: AccountName, override: Override, by: By, now_ms: int
) -> tuple[dict[str, Any], int]:
    """Puts a limit in place of the plan's; its document, and the id of the announcement that Redis must hear of. `by`
    must give a reason. TooMany when too many changes of the subject's terms have not reached the ledger yet."""
    assert by.reason is not None, "an override has a reason"
    before = _alone(connection, account, now_ms)
    values = {
        "limit": override.limit,
        "expires_at": None if override.expires_ms is None else to_timestamp(override.expires_ms),
        "reason": by.reason,
        "changed_at": func.now(),
        "changed_by": by.actor,
    }
    query = insert(overrides).values(account._asdict() | values)
    connection.execute(query.on_conflict_do_update(constraint="an_account_has_one_override", set_=values))
    after = _document(account._asdict() | values)
    word = "unlimited" if override.limit is None else "limit"
    told = Told(account.metric, "override", override.limit or 0, word)
    _note(connection, account, "override.set", by, told, before=before, after=after)
    return after, announce(connection, account.tenant, account.subject)


def remove(connection: Connection, account: AccountName, by: By, now_ms: int) -> int:
    """Takes it away; the id of the announcement that Redis must hear of. NotFound if there is none in force."""
    before = _alone(connection, account, now_ms)
    if before is None:
        raise NotFound(f"{account.subject} has no override of {account.metric}", subject=account.subject)
    connection.execute(delete(overrides).where(*_is(account)))
    _note(connection, account, "override.removed", by, Told(account.metric, "override", 0, "removed"), before=before)
    return announce(connection, account.tenant, account.subject)


_ended = text(
    """
    DELETE FROM overrides WHERE (tenant, subject) = (:tenant, :subject) AND expires_at <= :now
    RETURNING tenant, subject, metric, "limit", expires_at, reason, changed_by
    """
)


def end(connection: Connection, tenant: str, subject: str, now_ms: int) -> list[AccountName]:
    """Writes down of the subject's overrides which of them have ended; their accounts. The caller has locked the
    subject (`ledger/notices.py`)."""
    where = {"tenant": tenant, "subject": subject, "now": to_timestamp(now_ms)}
    ended = []
    for row in connection.execute(_ended, where).mappings().all():
        account = AccountName(row["tenant"], row["subject"], row["metric"])
        before = _document(row)
        by = By(row["changed_by"], reason=f"until {before['expires_at']}: {row['reason']}")
        _note(connection, account, "override.expired", by, Told(account.metric, "override", 0, "ended"), before=before)
        ended.append(account)
    return ended


def _alone(connection: Connection, account: AccountName, now_ms: int) -> dict[str, Any] | None:
    """The account's override of now, which nobody else changes until the transaction ends. What has ended before is
    written down first."""
    notices.room(connection, account.tenant, account.subject)
    end(connection, account.tenant, account.subject, now_ms)
    row = connection.execute(select(overrides).where(*_is(account))).mappings().one_or_none()
    return None if row is None else _document(row)


def _is(account: AccountName) -> tuple[Any, ...]:
    return tuple(overrides.c[name] == value for name, value in account._asdict().items())


def _note(
    connection: Connection, account: AccountName, act: str, by: By, told: Told, *, before: Any = None, after: Any = None
) -> None:
    tenant, subject, metric = account
    act_id = acts.note(connection, tenant, by, act, subject=subject, object=metric, before=before, after=after)
    notices.add(connection, tenant, subject, [told], act_id=act_id, by=by)

"""The audit log: what is done and what is kept of it are one transaction."""

from typing import Any

import pytest
from sqlalchemy import Connection

from ledger import api_keys, jobs, subscriptions, tenants
from ledger.acts import By
from ledger.api_keys import NewKey
from ledger.store import ALL_TENANTS
from quota.entitlement import Subscription
from quota.errors import Conflict
from tests.integration.pipeline import Pipeline

NOW_MS = 1_790_000_000_000
BY = By("key_1", "192.0.2.7", "req-1", "they paid")


def test_an_act_says_who_from_where_why_and_how_it_was_before_and_after(pipeline: Pipeline) -> None:
    pipeline.call(subscriptions.put, "t", "u", Subscription("free", "active", None, {}), BY, now_ms=NOW_MS)
    pipeline.call(subscriptions.put, "t", "u", Subscription("pro", "active", None, {"x": 2}), BY, now_ms=NOW_MS)

    rows = pipeline.rows(
        "SELECT act, actor, origin, request_id, reason, subject, object, before ->> 'plan', after ->> 'plan' "
        "FROM acts ORDER BY id"
    )

    said = ("key_1", "192.0.2.7", "req-1", "they paid", "u")
    assert rows == [
        ("subscription.written", *said, "free", None, "free"),
        ("subscription.written", *said, "pro", "free", "pro"),
    ]


def test_what_was_not_done_is_not_kept(pipeline: Pipeline) -> None:
    def put_and_fail(connection: Connection) -> None:
        subscriptions.put(connection, "t", "u", Subscription("free", "active", None, {}), BY, now_ms=NOW_MS)
        raise RuntimeError("the gateway dies here")

    with pytest.raises(RuntimeError):
        pipeline.call(put_and_fail)

    assert pipeline.rows("SELECT count(*) FROM acts") == [(0,)]


def kept(pipeline: Pipeline) -> list[tuple[Any, ...]]:
    return pipeline.rows("SELECT tenant, act, object, actor, request_id FROM acts ORDER BY id")


def test_what_is_done_to_tenants_and_keys_is_kept_without_secret_or_digest(pipeline: Pipeline) -> None:
    def key(name: str) -> NewKey:
        return NewKey(name, "t", b"the digest", ["admin"], "checkout")

    pipeline.call(tenants.ensure, "t", BY)
    pipeline.call(tenants.ensure, "t", BY)
    made = pipeline.call(api_keys.add, key("one"), BY)
    pipeline.call(api_keys.rotate, made, key("two"), BY, 60)
    for _ in range(2):
        pipeline.call(api_keys.revoke, "t", "two", BY, keeps_an_admin=False)
    for _ in range(2):
        pipeline.call(api_keys.ensure, "t", "first", b"the digest", ["admin"])

    assert [row[:4] for row in kept(pipeline)] == [
        ("t", "tenant.made", "t", "key_1"),
        ("t", "api_key.made", "one", "key_1"),
        ("t", "api_key.rotated", "one", "key_1"),
        ("t", "api_key.revoked", "two", "key_1"),
        ("t", "api_key.made", "first", "settings"),
    ]
    changes = pipeline.rows(
        "SELECT before ->> 'revoked_at', after ->> 'revoked_at' IS NOT NULL FROM acts WHERE act = 'api_key.revoked'"
    )
    assert changes == [(None, True)]
    rotated = "SELECT before ->> 'expires_at', after #>> '{old,expires_at}' IS NOT NULL, after #>> '{new,replaces}'"
    assert pipeline.rows(f"{rotated} FROM acts WHERE act = 'api_key.rotated'") == [(None, True, "one")]
    told = pipeline.rows("SELECT string_agg(a::text, ' ') FROM acts a")[0][0]
    assert "digest" not in told and b"the digest".hex() not in told


def test_what_failed_to_be_revoked_or_asked_for_is_not_kept(pipeline: Pipeline) -> None:
    pipeline.call(api_keys.ensure, "t", "only", b"digest", ["admin"], by=BY)
    before = kept(pipeline)
    with pytest.raises(Conflict):
        pipeline.call(api_keys.revoke, "t", "only", BY, keeps_an_admin=True)
    assert pipeline.call(api_keys.revoke, "another", "only", BY, keeps_an_admin=True) is None
    assert kept(pipeline) == before


def test_a_job_is_kept_of_the_tenant_that_it_is_about_without_the_catalog_to_be_tried(pipeline: Pipeline) -> None:
    made = pipeline.call(jobs.add, ALL_TENANTS, "simulate", {"tenant": "t", "catalog": {"plans": {}}}, BY)
    pipeline.call(jobs.add, "t", "verify", {"tenant": "t", "subject": "u"}, BY)
    pipeline.call(jobs.note_asked, ALL_TENANTS, BY, "reconcile", {"corrections": "all"})

    found = pipeline.rows("SELECT tenant, object, subject, after FROM acts WHERE act = 'job.asked' ORDER BY id")
    assert found[0] == ("t", "simulate", None, {"id": made.id, "tenant": "t"})
    assert found[1][:3] == ("t", "verify", "u")
    assert found[2] == ("*", "reconcile", None, {"corrections": "all"})

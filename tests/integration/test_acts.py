"""The audit log: what is done and what is kept of it are one transaction."""

import pytest
from sqlalchemy import Connection

from ledger import subscriptions
from ledger.acts import By
from quota.entitlement import Subscription
from tests.integration.pipeline import Pipeline

BY = By("key_1", "192.0.2.7", "req-1", "they paid")


def test_an_act_says_who_from_where_why_and_how_it_was_before_and_after(pipeline: Pipeline) -> None:
    pipeline.call(subscriptions.put, "t", "u", Subscription("free", "active", None, {}), BY)
    pipeline.call(subscriptions.put, "t", "u", Subscription("pro", "active", None, {"x": 2}), BY)

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
        subscriptions.put(connection, "t", "u", Subscription("free", "active", None, {}), BY)
        raise RuntimeError("the gateway dies here")

    with pytest.raises(RuntimeError):
        pipeline.call(put_and_fail)

    assert pipeline.rows("SELECT count(*) FROM acts") == [(0,)]

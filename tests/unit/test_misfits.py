"""What is told of a body that does not fit: which field, and what it takes, in no library's words."""

from typing import Any

import pytest

from gateway.bodies import (
    ApiKeyRequest,
    BatchRequest,
    ConsumeRequest,
    GrantRequest,
    OverrideRequest,
    SubscriptionRequest,
    decoded,
)
from gateway.jobs import AnyJob
from quota.errors import InvalidRequest


@pytest.mark.parametrize(
    ("kind", "body", "field", "words"),
    [
        (ConsumeRequest, '{"metric": "m"}', "subject", "subject is missing; send it"),
        (ConsumeRequest, '{"subject": "u", "colour": 1}', "colour", "colour is no field of this body"),
        (
            ConsumeRequest, '{"subject": "a b"}', "subject",
            "subject is 1 to 200 characters of A-Z a-z 0-9 . _ - : @ / +",
        ),
        (ConsumeRequest, '{"subject": "u", "amount": "1"}', "amount", "amount is a whole number, not text"),
        (ConsumeRequest, '{"subject": "u", "amount": -1}', "amount", "amount is a whole number, at least 0"),
        (
            ConsumeRequest, '{"subject": "u", "amount": 1.5}', "amount",
            "amount is a whole number, not a number with a decimal point",
        ),
        (ConsumeRequest, "[]", None, "the body is an object, not a list"),
        (
            SubscriptionRequest, '{"plan": "p", "status": "cancelled"}', "status",
            "status is one of active, trialing, past_due, canceled, paused",
        ),
        (
            SubscriptionRequest, '{"plan": "p", "add_ons": {"a b": 1}}', "add_ons",
            "a name in add_ons is 1 to 200 characters of A-Z a-z 0-9 . _ - : @ / +",
        ),
        (SubscriptionRequest, '{"plan": "p", "add_ons": {"a": 0}}', "add_ons", "add_ons is a whole number, at least 1"),
        (SubscriptionRequest, '{"plan": "p", "anchor": 5}', "anchor", "anchor is text or null, not a whole number"),
        (GrantRequest, '{"metric": "m", "amount": 1, "reason": ""}', "reason", "reason has at least 1 character"),
        (
            OverrideRequest, '{"limit": 1, "reason": "' + "x" * 501 + '"}', "reason",
            "reason has at most 500 characters",
        ),
        (BatchRequest, '{"items": []}', "items", "items has at least 1 item"),
        (ApiKeyRequest, '{"scopes": ["x"]}', "scopes[0]", "scopes[0] is one of consume, read, admin, ops"),
        (
            AnyJob, '{"job": "x"}', "job",
            "job is one of drain, reconcile, reset, rebuild, verify, replay, simulate",
        ),
        (AnyJob, '{"job": "simulate", "catalog": {}}', "from", "from is missing; send it"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_with_its_field(kind: Any, body: str, field: str | None, words: str) -> None:
    with pytest.raises(InvalidRequest) as told:
        decoded(kind, body.encode())
    assert (str(told.value), told.value.extra.get("field")) == (words, field)


def test_what_is_not_json_is_told_as_that() -> None:
    for body in (b"", b"{", b"\xff"):
        with pytest.raises(InvalidRequest, match="the body is not valid JSON"):
            decoded(ConsumeRequest, body)

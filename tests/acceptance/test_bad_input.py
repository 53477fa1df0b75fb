"""What cannot be understood gets a problem document with a 4xx, and changes nothing."""

import json

import pytest

from tests.acceptance.door import Door, assert_problem

DEEP = 100_000
LONG_DIGITS = "1" + "0" * 400


BAD_AMOUNTS = [
    "-1", "1.5", "1.0", "1e3", "1e400", "NaN", "Infinity", '"5"', "true", "null", "[1]", "{}", "01", "0x5", "",
    str(2**53), str(2**64), str(-(2**63)), LONG_DIGITS,
]  # fmt: skip


@pytest.mark.parametrize("route", ["/v1/consume", "/v1/check"])
@pytest.mark.parametrize("amount", BAD_AMOUNTS, ids=lambda text: text[:24] or "nothing")
def test_an_amount_that_is_no_integer_from_0_to_2_to_the_53_is_refused(door: Door, route: str, amount: str) -> None:
    bodies = (
        f'{{"subject": "u_1", "metric": "credits", "amount": {amount}}}',
        f'{{"subject": "u_1", "operation": "create_reel", "quantity": {amount}}}',
    )
    with door.unchanged():
        for body in bodies:
            assert_problem(door.send("POST", route, body.encode()), 400, "INVALID_REQUEST")


def test_the_largest_amount_is_understood_and_one_that_multiplies_beyond_it_is_not(door: Door) -> None:
    assert door.tenant.consume("u_1", "credits", 2**53 - 1).status_code == 429
    with door.unchanged():
        assert_problem(door.tenant.operate("u_1", "create_reel", 2**53 - 1), 400, "INVALID_REQUEST")


BAD_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "no object": b"[]",
    "a string": b'"u_1"',
    "null": b"null",
    "no subject": b'{"metric": "credits"}',
    "neither metric nor operation": b'{"subject": "u_1"}',
    "both metric and operation": b'{"subject": "u_1", "metric": "credits", "operation": "publish"}',
    "amount with operation": b'{"subject": "u_1", "operation": "publish", "amount": 1}',
    "quantity with metric": b'{"subject": "u_1", "metric": "credits", "quantity": 1}',
    "an unknown field": b'{"subject": "u_1", "metric": "credits", "ammount": 2}',
    "a tenant": b'{"subject": "u_1", "metric": "credits", "tenant": "default"}',
    "a null metric": b'{"subject": "u_1", "metric": null, "operation": "publish"}',
    "a subject that is a number": b'{"subject": 1, "metric": "credits"}',
    "cut off": b'{"subject": "u_1", "metric": "cred',
    "broken UTF-8": b'{"subject": "u_1", "metric": "cr\xffdits"}',
    "broken UTF-8 in metadata": b'{"subject": "u_1", "metric": "credits", "metadata": {"a": "\xc3\x28"}}',
    "a surrogate in UTF-8": b'{"subject": "u_1", "metric": "credits", "metadata": {"a": "\xed\xa0\x80"}}',
    "UTF-16": '{"subject": "u_1", "metric": "credits"}'.encode("utf-16"),
    "deep": b"[" * DEEP,
    "deep, within the size": b"[" * 60_000,
    "deep metadata": b'{"subject": "u_1", "metric": "credits", "metadata": {"a": ' + b"[" * 60_000,
    "deep objects": b'{"a":' * 12_000,
    "an unknown field, deep": b'{"subject": "u_1", "metric": "credits", "x": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
}  # fmt: skip
BAD_IDENTIFIERS = {
    "empty": "", "201 characters": "u" * 201, "10 kB": "u" * 10_240, "braces": "{u_1}", "a brace": "u}",
    "CR LF": "u\\r\\nx", "a trailing line feed": "u_1\\n", "NUL": "u\\u0000x", "a trailing NUL": "u_1\\u0000",
    "a lone surrogate": "\\ud800", "a lone low surrogate": "u\\udfff", "a surrogate pair": "\\ud83d\\ude00",
    "a space": "u 1", "an accent": "ü", "a percent sign": "u%2F1", "a star": "u*",
}  # fmt: skip
BAD_METADATA = {
    "17 entries": json.dumps({f"k{each}": each for each in range(17)}),
    "over 2 KiB": json.dumps({"k": "x" * 2_048}),
    "over 2 KiB of key": json.dumps({"k" * 2_048: 1}),
    "a nested object": '{"a": {"b": 1}}',
    "a list": '{"a": [1]}',
    "true": '{"a": true}',
    "null inside": '{"a": null}',
    "null": "null",
    "no object": '"a"',
    "NUL in a value": '{"a": "x\\u0000"}',
    "NUL in a key": '{"\\u0000": 1}',
    "a lone surrogate": '{"a": "\\ud800"}',
    "a lone low surrogate in a key": '{"\\udc00": 1}',
    "NaN": '{"a": NaN}',
    "1e400": '{"a": 1e400}',
    "10^400": f'{{"a": {LONG_DIGITS}}}',
}


@pytest.mark.parametrize("route", ["/v1/consume", "/v1/check"])
@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES)
def test_a_body_that_is_not_what_the_route_takes_is_refused(door: Door, route: str, body: bytes) -> None:
    with door.unchanged():
        assert_problem(door.send("POST", route, body))


@pytest.mark.parametrize("name", BAD_IDENTIFIERS.values(), ids=BAD_IDENTIFIERS)
def test_an_identifier_with_a_character_or_a_length_that_no_identifier_has_is_refused(door: Door, name: str) -> None:
    bodies = (
        f'{{"subject": "{name}", "metric": "credits"}}',
        f'{{"subject": "u_1", "metric": "{name}"}}',
        f'{{"subject": "u_1", "operation": "{name}"}}',
    )
    with door.unchanged():
        for body in bodies:
            for route in ("/v1/consume", "/v1/check"):
                assert_problem(door.send("POST", route, body.encode()), 400, "INVALID_REQUEST")
        assert_problem(door.send("PUT", "/v1/subjects/u_1/subscription", f'{{"plan": "{name}"}}'.encode()))


@pytest.mark.parametrize("metadata", BAD_METADATA.values(), ids=BAD_METADATA)
def test_metadata_that_the_ledger_could_not_keep_is_refused(door: Door, metadata: str) -> None:
    body = f'{{"subject": "u_1", "metric": "credits", "metadata": {metadata}}}'
    with door.unchanged():
        assert_problem(door.send("POST", "/v1/consume", body.encode()), 400, "INVALID_REQUEST")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"subject": "u_1", "metric": "nothing"}', "UNKNOWN_METRIC"),
        (b'{"subject": "u_1", "operation": "nothing"}', "UNKNOWN_OPERATION"),
        (b'{"subject": "u_1", "metric": "create_reel"}', "UNKNOWN_METRIC"),
    ],
)
def test_what_the_catalog_does_not_know_is_not_found(door: Door, body: bytes, code: str) -> None:
    with door.unchanged():
        for route in ("/v1/consume", "/v1/check"):
            assert_problem(door.send("POST", route, body), 404, code)


@pytest.mark.parametrize(
    "value",
    [
        b"", b'""', b"x" * 256, b'"' + b"x" * 256 + b'"', b"caf\xc3\xa9", b"caf\xe9", b"a\tb", b"a\x01b", b"a\x7fb",
        b'"open', b'"a" b', b'"a";p=1', b'"a", "b"', b'"a\\b"', b'"a\tb"', b'"caf\xc3\xa9"',
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["Idempotency-Key", "X-Idempotency-Key"])
def test_an_idempotency_key_that_is_none_is_refused(door: Door, name: str, value: bytes) -> None:
    headers = [("authorization", f"Bearer {door.tenant.key}"), (name, value)]
    with door.unchanged():
        answer = door.send("POST", "/v1/consume", b'{"subject": "u_1", "metric": "credits"}', headers)
        assert_problem(answer, 400, "INVALID_REQUEST")


def test_two_idempotency_keys_are_one_too_many(door: Door) -> None:
    authorization = ("authorization", f"Bearer {door.tenant.key}")
    body = b'{"subject": "u_1", "metric": "credits"}'
    with door.unchanged():
        for second in ("Idempotency-Key", "X-Idempotency-Key"):
            headers = [authorization, ("Idempotency-Key", "a"), (second, "b")]
            assert_problem(door.send("POST", "/v1/consume", body, headers), 400, "INVALID_REQUEST")


BAD_SUBSCRIPTIONS: dict[str, tuple[str, int]] = {
    "nothing": ("", 400),
    "no object": ("[]", 400),
    "no plan": ('{"status": "active"}', 400),
    "a null plan": ('{"plan": null}', 400),
    "a plan that is a number": ('{"plan": 1}', 400),
    "an unknown plan": ('{"plan": "nothing"}', 404),
    "an unknown status": ('{"plan": "pro", "status": "alive"}', 400),
    "an unknown effective": ('{"plan": "pro", "effective": "later"}', 400),
    "an unknown field": ('{"plan": "pro", "anchr": null}', 400),
    "an anchor in words": ('{"plan": "pro", "anchor": "yesterday"}', 400),
    "an empty anchor": ('{"plan": "pro", "anchor": ""}', 400),
    "an anchor that is a number": ('{"plan": "pro", "anchor": 1767225600}', 400),
    "an anchor without a time": ('{"plan": "pro", "anchor": "2026-11-01"}', 400),
    "an anchor without a zone": ('{"plan": "pro", "anchor": "2026-11-01T00:00:00"}', 400),
    "an anchor on no day": ('{"plan": "pro", "anchor": "2026-02-30T00:00:00Z"}', 400),
    "an anchor before all years": ('{"plan": "pro", "anchor": "0000-01-01T00:00:00Z"}', 400),
    "an anchor with a line feed": ('{"plan": "pro", "anchor": "2026-11-01T00:00:00Z\\n"}', 400),
    "an unknown add-on": ('{"plan": "pro", "add_ons": {"nothing": 1}}', 400),
    "an add-on with a line feed": ('{"plan": "pro", "add_ons": {"credits_100\\n": 1}}', 400),
    "a negative add-on": ('{"plan": "pro", "add_ons": {"credits_100": -1}}', 400),
    "half an add-on": ('{"plan": "pro", "add_ons": {"credits_100": 1.5}}', 400),
    "an add-on times a string": ('{"plan": "pro", "add_ons": {"credits_100": "2"}}', 400),
    "an add-on times true": ('{"plan": "pro", "add_ons": {"credits_100": true}}', 400),
    "an add-on times 2^53": (f'{{"plan": "pro", "add_ons": {{"credits_100": {2**53}}}}}', 400),
    "add-ons in a list": ('{"plan": "pro", "add_ons": ["credits_100"]}', 400),
    "broken UTF-8": ('{"plan": "pr\udcff"}', 400),
    "deep": ('{"plan": ' + "[" * 60_000, 400),
}


@pytest.mark.parametrize(("body", "status"), BAD_SUBSCRIPTIONS.values(), ids=BAD_SUBSCRIPTIONS)
def test_a_subscription_that_makes_no_sense_changes_nothing(door: Door, body: str, status: int) -> None:
    path = "/v1/subjects/u_1/subscription"
    before = door.send("GET", path).json()
    with door.unchanged():
        assert_problem(door.send("PUT", path, body.encode(errors="surrogateescape")), status)
    assert door.send("GET", path).json() == before


def test_what_is_wrong_is_told_with_its_field_and_no_word_of_the_framework(door: Door) -> None:
    path = "/v1/subjects/u_1/subscription"
    empty = assert_problem(door.send("PUT", path), 400, "INVALID_REQUEST")
    assert empty["detail"] == "the body is empty: send a JSON object"
    unknown = assert_problem(door.send("PUT", path, BAD_SUBSCRIPTIONS["an unknown add-on"][0].encode()), 400)
    assert (unknown["code"], unknown["field"], unknown["add_on"]) == ("INVALID_REQUEST", "add_ons", "nothing")


BAD_CATALOGS = {
    "nothing": "",
    "no object": "[]",
    "null": "null",
    "TOML": 'default_plan = "free"',
    "broken UTF-8": '{"upgrade_url": "https://example.com/\udcff"}',
    "an unknown field": '{"metrics": {}, "plan": {}}',
    "an unknown field of a metric": '{"metrics": {"m": {"units": "x"}}}',
    "an unknown metric": '{"plans": {"free": {"limits": {"m": {"limit": 1}}}}}',
    "an unknown default plan": '{"default_plan": "free"}',
    "an unknown period": '{"metrics": {"m": {}}, "plans": {"free": {"limits": {"m": {"limit": 1, "period": "hour"}}}}}',
    "a limit in a string": '{"metrics": {"m": {}}, "plans": {"free": {"limits": {"m": {"limit": "5"}}}}}',
    "a negative limit": '{"metrics": {"m": {}}, "plans": {"free": {"limits": {"m": {"limit": -1}}}}}',
    "half a limit": '{"metrics": {"m": {}}, "plans": {"free": {"limits": {"m": {"limit": 1.5}}}}}',
    "a limit of 2^53": f'{{"metrics":{{"m":{{}}}},"plans":{{"p":{{"limits":{{"m":{{"limit":{2**53}}}}}}}}}}}',
    "a limit of 10^400": f'{{"metrics":{{"m":{{}}}},"plans":{{"p":{{"limits":{{"m":{{"limit":{LONG_DIGITS}}}}}}}}}}}',
    "a limit that is no number": '{"metrics": {"m": {}}, "plans": {"free": {"limits": {"m": {"limit": NaN}}}}}',
    "an operation that costs nothing of a metric": '{"metrics": {"m": {}}, "operations": {"o": {"charges": {"m": 0}}}}',
    "a name with a brace": '{"metrics": {"m}": {}}}',
    "a name with a line feed": '{"metrics": {"m\\n": {}}}',
    "an empty name": '{"plans": {"": {}}}',
    "a NUL": '{"metrics": {"m": {"unit": "\\u0000"}}}',
    "a lone surrogate": '{"metrics": {"m": {"unit": "\\ud800"}}}',
    "deep": "[" * DEEP,
}


@pytest.mark.parametrize("body", BAD_CATALOGS.values(), ids=BAD_CATALOGS)
def test_a_catalog_that_contradicts_itself_changes_nothing(door: Door, body: str) -> None:
    before = door.send("GET", "/v1/catalog").json()
    with door.unchanged():
        answer = door.send("PUT", "/v1/catalog", body.encode(errors="surrogateescape"))
        assert_problem(answer, 400, "INVALID_CATALOG")
        assert_problem(door.send("PUT", "/v1/catalog?dry_run=perhaps", b"{}"), 400)
    assert door.send("GET", "/v1/catalog").json() == before

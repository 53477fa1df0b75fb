"""Every administrative route keeps what it did in the audit log: one that is added later, and forgets it, is found."""

import re
from collections.abc import Callable
from typing import Any

from tests.conftest import Tenant
from tests.system import System, eventually

ADMINISTRATIVE = {"admin", "ops"}
WORDS = {"subject": "u_1", "metric": "connected_platforms", "plan": "pro"}
ORDER = ("put", "post", "delete")
"""What is taken away has to be there."""


def example(operation: dict[str, Any]) -> Any:
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    return next((each["value"] for each in content.get("examples", {}).values()), None)


def test_every_administrative_route_keeps_an_act(
    system: System, document: dict[str, Any], make_tenant: Callable[[str | dict[str, Any]], Tenant]
) -> None:
    tenant = make_tenant({"plans": {}})
    client, weak = tenant.client, system.client(system.make_key(tenant.name, "consume", "read"))
    made: dict[str, str] = {}

    def path_of(template: str) -> str:
        words = WORDS | {"id": made.get(template.removesuffix("/{id}"), "nobodys")}
        return re.sub(r"\{(\w+)\}", lambda found: words[found[1]], template)

    def is_administrative(method: str, template: str) -> bool:
        refused = weak.request(method, path_of(template))
        return refused.status_code == 403 and refused.json().get("scope") in ADMINISTRATIVE

    routes = [(method, path) for path, item in document["paths"].items() for method in item if method != "get"]
    asked = sorted(
        (each for each in routes if is_administrative(*each)),
        # The catalog first: all else goes by it. Gifts after the grants that they are made of.
        key=lambda each: (each[1] != "/v1/catalog", ORDER.index(each[0]), each[1] == "/v1/gifts", each[1]),
    )
    assert {path for _, path in asked} >= {"/v1/catalog", "/v1/api_keys", "/v1/ops/jobs"}
    for number, (method, template) in enumerate(asked):
        body = example(document["paths"][template][method])
        sent = {} if body is None else {"json": body}
        answer = client.request(method, path_of(template), headers={"X-Request-Id": f"act-{number}"}, **sent)
        assert answer.is_success, f"give {method} {template} an example that can be done: {answer.text}"
        if method == "post" and isinstance(answer.json().get("id"), str):
            made[template] = answer.json()["id"]
    weak.close()
    system.drained()

    expected = {f"act-{number}": each for number, each in enumerate(asked)}

    def kept() -> dict[str, tuple[str, str, str]]:
        rows = system.sql("SELECT request_id, act, actor, origin FROM acts WHERE tenant = %s", tenant.name)
        return {row[0]: row[1:] for row in rows if row[0] is not None}

    eventually(lambda: kept().keys() >= expected.keys(), f"each is kept: {expected}")
    mine = {each: kept()[each] for each in expected}
    assert {(actor, origin) for _, actor, origin in mine.values()} == {(tenant.key.split("_")[1], "127.0.0.1")}

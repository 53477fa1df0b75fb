"""What several tests of a running service begin with: a door to be refused at, the OpenAPI document that it serves."""

import secrets
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.acceptance.door import Door, door_of
from tests.acceptance.shop import CATALOG, Shop
from tests.conftest import Tenant
from tests.system import Gateway, System


@pytest.fixture(scope="module")
def door(system: System) -> Iterator[Door]:
    with door_of(system) as door:
        yield door


@pytest.fixture(scope="module")
def document(system: System) -> dict[str, Any]:
    answer = httpx.get(f"{system.urls['gateway']}/schema/openapi.json")
    assert answer.status_code == 200
    return dict(answer.json())


@pytest.fixture(scope="session")
def names() -> dict[str, str]:
    """Tenants with their secrets, which a gateway is told at its start."""
    return {f"shop-{secrets.token_hex(4)}": f"whsec_{secrets.token_hex(16)}" for _ in range(2)}


@pytest.fixture(scope="session")
def gateway(system: System, names: dict[str, str]) -> Iterator[Gateway]:
    told = [f"{name}={secret}" for name, secret in names.items()]
    first = next(iter(names))
    told.insert(0, f"{first}=whsec_{first}_the_next_one")  # while one is replaced, there are two
    gateway = Gateway(system, "stripe", stripe_webhook_secrets=",".join(told)).start()
    yield gateway
    gateway.stop()


@pytest.fixture
def shop(system: System, gateway: Gateway, names: dict[str, str]) -> Iterator[Shop]:
    name = next(iter(names))
    key = system.make_key(name)
    with system.client(key) as client:
        assert client.put("/v1/catalog", json=CATALOG).status_code == 200
        shop = Shop(Tenant(name, key, client), gateway, names[name])
        with shop.door:
            yield shop

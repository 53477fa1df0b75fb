"""What several tests of a running service begin with: a door to be refused at, the OpenAPI document that it serves."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.acceptance.door import Door, door_of
from tests.system import System


@pytest.fixture(scope="module")
def door(system: System) -> Iterator[Door]:
    with door_of(system) as door:
        yield door


@pytest.fixture(scope="module")
def document(system: System) -> dict[str, Any]:
    answer = httpx.get(f"{system.urls['gateway']}/schema/openapi.json")
    assert answer.status_code == 200
    return dict(answer.json())

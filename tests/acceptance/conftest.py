"""What the tests of refusals begin with."""

from collections.abc import Iterator

import pytest

from tests.acceptance.door import Door, door_of
from tests.system import System


@pytest.fixture(scope="module")
def door(system: System) -> Iterator[Door]:
    with door_of(system) as door:
        yield door

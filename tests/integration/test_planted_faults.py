"""Faults of every kind, planted one at a time: each is found, and told with its account or its place. A thousand of
them, and an hour without one: tests/soak/planted.py."""

from collections.abc import Iterator

import pytest
import redis

from tests.conftest import Database
from tests.integration.pipeline import Pipeline
from tests.integration.planting import Planter

FAULTS = 39
SEED = 20261122


@pytest.fixture
def pipeline(connection: "redis.Redis", database: Database) -> Iterator[Pipeline]:
    with Pipeline.on(connection, database) as pipeline:
        yield pipeline


def test_each_planted_fault_is_found_and_nothing_else(pipeline: Pipeline) -> None:
    planter = Planter(pipeline, SEED)
    assert planter.left() == []
    missed, left = [], []
    for turn in range(FAULTS):
        fault = planter.plant(turn)
        if not planter.is_found(fault):
            missed.append((turn, fault))
        planter.heal(fault)
        left += [(turn, fault, each) for each in planter.left()]
    assert missed == []
    assert left == []
    assert set(planter.planted.values()) == {FAULTS // len(planter.kinds)}

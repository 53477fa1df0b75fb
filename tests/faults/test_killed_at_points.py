"""kill -9 at the points that matter: a drain's, and of both servers while a drain is at work."""

from pathlib import Path

import pytest

from tests.faults.dying import ROUND, assert_nothing_is_missing_or_there_twice, kill_at_points, points
from tests.faults.dying_drain import DRAINS, SERVERS
from tests.system import System

SEED = 20261124


def test_a_kill_at_each_of_six_points_loses_and_doubles_nothing(
    tmp_path_factory: pytest.TempPathFactory, catalog: Path
) -> None:
    order = list(dict.fromkeys(points(ROUND, SEED)))
    assert set(order) == {*DRAINS, *SERVERS}
    system = System(tmp_path_factory.mktemp("killed"), catalog=catalog, durability="always", deadline_ms="200").start()
    try:
        assert system.redis().config_get("appendfsync") == {"appendfsync": "always"}
        log = kill_at_points(system, order, "killed")
        assert_nothing_is_missing_or_there_twice(system, log, "killed")
    finally:
        system.stop()

"""kill -9 of Redis under load: nothing that was acknowledged is missing, and nothing is there twice. With appendfsync
always: test_killed_at_points.py.
"""

from tests.faults.killing import assert_nothing_acknowledged_is_missing, kill_redis_under_load
from tests.system import System


def test_with_appendfsync_everysec_it_may_be_killed_on_a_healthy_disk(faulty: System) -> None:
    assert faulty.redis().config_get("appendfsync") == {"appendfsync": "everysec"}
    log = kill_redis_under_load(faulty, 1, "everysec")
    assert_nothing_acknowledged_is_missing(faulty, log, "everysec")

"""Workers and a scheduler as RQ and rq-scheduler write them down, where none is started."""

from datetime import UTC, datetime, timedelta

import redis

from workers.main import ROLES


def put_worker(connection: "redis.Redis", role: str, *, ago_s: float = 0, state: str = "idle") -> str:
    """A worker that has given a sign so long ago; its key."""
    heard_at = datetime.now(UTC) - timedelta(seconds=ago_s)
    key = f"rq:worker:{role}-{ago_s}-{state}"
    connection.hset(key, mapping={"last_heartbeat": f"{heard_at:%Y-%m-%dT%H:%M:%S.%fZ}", "state": state})
    for queue in ROLES[role]:
        connection.sadd(f"rq:workers:{queue}", key)
    return key


def put_scheduler(connection: "redis.Redis", *, late_s: float = 0) -> None:
    """A scheduler that should have started a job so long ago."""
    due_at = (datetime.now(UTC) - timedelta(seconds=late_s)).timestamp()
    connection.zadd("rq:scheduler:scheduled_jobs", {"quotagate-watchdog": due_at})


def put_all(connection: "redis.Redis") -> None:
    """All that a deployment needs."""
    for role in ROLES:
        put_worker(connection, role)
    put_scheduler(connection)

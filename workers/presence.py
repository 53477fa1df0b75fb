"""Whether anybody does the work: what RQ and rq-scheduler have written down of their processes. A bounded look.

An idle worker gives a sign with each job, and there is one every second or two as long as a scheduler starts them.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis import Redis
from rq.worker_registration import WORKERS_BY_QUEUE_KEY

from workers import queues, schedule
from workers.main import ROLES

MAX_LOOKED_AT = 200
"""Registered workers of a role; those that were killed stay for some minutes."""
IDLE_S, LATE_S = 60.0, 30.0
_TIMEOUTS_S = {"drain": queues.DRAIN_TIMEOUT_S, "jobs": queues.JOB_TIMEOUT_S}


@dataclass(frozen=True)
class Sign:
    """The last that was heard of a worker. One that is busy gives none until its job is done."""

    ago_s: float
    is_busy: bool


@dataclass(frozen=True)
class Presence:
    """Signs of the workers of each role, and how late the scheduler is; None: nothing was ever scheduled."""

    signs: dict[str, list[Sign]]
    scheduler_late_s: float | None


def look(broker: "Redis") -> Presence:
    """RedisError."""
    seconds, microseconds = broker.time()
    now_s = int(seconds) + int(microseconds) / 1_000_000
    signs = {role: _signs(broker, served[0], now_s) for role, served in ROLES.items()}
    return Presence(signs, schedule.late_s(broker, now_s))


def _signs(broker: "Redis", queue_name: str, now_s: float) -> list[Sign]:
    names: Any = broker.srandmember(WORKERS_BY_QUEUE_KEY % queue_name, MAX_LOOKED_AT) or []
    pipeline = broker.pipeline(transaction=False)
    for name in names:
        pipeline.hmget(name, ("last_heartbeat", "state", "death"))
    found = []
    for heard, state, death in pipeline.execute() if names else ():
        if heard is None or death is not None:
            continue
        at = datetime.fromisoformat(heard.decode()).replace(tzinfo=UTC)
        found.append(Sign(now_s - at.timestamp(), state == b"busy"))
    return found


def complaints(presence: Presence) -> list[str]:
    """What is missing, each with what to start. Pure."""
    late_s, found = presence.scheduler_late_s, []
    if late_s is None:
        found.append("no job was ever scheduled: start `quotagate scheduler`")
    elif late_s > LATE_S:
        found.append(f"no scheduler has started a job for {late_s:.0f} s: start `quotagate scheduler`")
    is_scheduled = not found
    for role, signs in presence.signs.items():
        start = f"start `quotagate worker --role {role}`"
        if not signs:
            found.append(f"no worker of the role {role} is registered: {start}")
        # Without a scheduler an idle worker has no reason to give a sign.
        elif is_scheduled and not any(each.ago_s < _patience_s(role, each) for each in signs):
            newest_s = min(each.ago_s for each in signs)
            found.append(f"no worker of the role {role} has given a sign for {newest_s:.0f} s: {start}")
    return found


def _patience_s(role: str, sign: Sign) -> float:
    return IDLE_S + (_TIMEOUTS_S[role] if sign.is_busy else 0)

"""Whether a Redis server can keep what it acknowledges. Pure: judges what a server says of itself.

A server that evicts forgets counters, and every quota is full again; one that does not persist forgets them at the next
restart. Both are refused at start, in one plain sentence.
"""

from collections.abc import Mapping

_RANK = {"no": 0, "none": 0, "everysec": 1, "always": 2}


def complaints(info: Mapping[str, object], appendfsync: str | None, durability: str) -> list[str]:
    """What is unsafe, a sentence each. `info` is Redis's INFO; `appendfsync` None where CONFIG may not be read."""
    found = []
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction":
        found.append(
            f"Redis evicts keys when memory is full (maxmemory-policy is {policy}), and an evicted counter is a full "
            "quota: set maxmemory-policy noeviction"
        )
    if str(info.get("role", "master")) not in {"master", "primary"}:
        found.append("this Redis is a replica and cannot count: point QUOTAGATE_REDIS_URL at the primary")
    version = str(info.get("redis_version", "0"))
    if int(version.split(".", maxsplit=1)[0]) < 7:
        found.append(f"Redis {version} is too old: the journal's ids need version 7 or newer, or any Valkey")
    if int(str(info.get("cluster_enabled", "0"))):
        found.append("this Redis runs in cluster mode, which the gateway does not speak yet: use a single primary")
    if durability == "none":
        return found
    if not int(str(info.get("aof_enabled", "0"))):
        found.append(
            f"Redis has no append-only file, but QUOTAGATE_DURABILITY asks for {durability}: set appendonly yes, "
            "or QUOTAGATE_DURABILITY=none if counters may be lost"
        )
    elif appendfsync is not None and _RANK[appendfsync] < _RANK[durability]:
        found.append(
            f"Redis's appendfsync is {appendfsync}, but QUOTAGATE_DURABILITY asks for {durability}: "
            f"set appendfsync {durability}, or lower QUOTAGATE_DURABILITY"
        )
    return found

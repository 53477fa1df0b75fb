"""Whether a server can keep what it acknowledges, from what it says of itself."""

import pytest

from quota.safety import complaints

SAFE = {
    "maxmemory_policy": "noeviction",
    "role": "master",
    "aof_enabled": 1,
    "redis_version": "7.2.4",
    "cluster_enabled": 0,
}


@pytest.mark.parametrize(
    ("appendfsync", "durability"),
    [("always", "always"), ("always", "everysec"), ("everysec", "everysec"), ("no", "none"), (None, "always")],
)
def test_a_safe_server_is_not_complained_of(appendfsync: str | None, durability: str) -> None:
    assert complaints(SAFE, appendfsync, durability) == []


@pytest.mark.parametrize(
    ("info", "said"),
    [
        ({"maxmemory_policy": "allkeys-lru"}, "maxmemory-policy is allkeys-lru"),
        ({"maxmemory_policy": "volatile-ttl"}, "set maxmemory-policy noeviction"),
        ({"role": "slave"}, "is a replica and cannot count"),
        ({"aof_enabled": 0}, "set appendonly yes"),
        ({"redis_version": "6.2.14"}, "Redis 6.2.14 is too old"),
        ({"cluster_enabled": 1}, "runs in cluster mode"),
    ],
)
def test_what_is_unsafe_is_told_in_one_sentence(info: dict[str, object], said: str) -> None:
    (complaint,) = complaints(SAFE | info, "everysec", "everysec")
    assert said in complaint
    assert "\n" not in complaint


@pytest.mark.parametrize(("appendfsync", "durability"), [("no", "everysec"), ("everysec", "always"), ("no", "always")])
def test_a_file_that_is_synced_less_often_than_asked_is_complained_of(appendfsync: str, durability: str) -> None:
    (complaint,) = complaints(SAFE, appendfsync, durability)
    assert f"appendfsync is {appendfsync}, but QUOTAGATE_DURABILITY asks for {durability}" in complaint


@pytest.mark.parametrize("fact", [{"redis_version": "6.2.14"}, {"cluster_enabled": 1}, {"role": "slave"}])
def test_what_does_not_work_at_all_is_refused_whatever_durability_is_asked(fact: dict[str, object]) -> None:
    assert len(complaints(SAFE | fact, "everysec", "none")) == 1


def test_a_server_without_persistence_will_do_where_counters_may_be_lost() -> None:
    assert complaints(SAFE | {"aof_enabled": 0}, "no", "none") == []


def test_everything_that_is_unsafe_is_told_at_once() -> None:
    worst = {"maxmemory_policy": "allkeys-lru", "role": "slave", "aof_enabled": 0, "redis_version": "5.0.1"}
    assert len(complaints(SAFE | worst, "no", "always")) == 4

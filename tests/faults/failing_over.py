"""Fails over to a replica that has lagged, under a whole system: gateway, workers and scheduler reach Redis through a
proxy, as they would reach one behind a name.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import redis

from tests.faults.conftest import SCANS, assert_the_two_agree
from tests.faults.dying import drain_held_back
from tests.faults.losing import FLUSHED, told
from tests.faults.proxy import Proxy
from tests.integration.counting import PrivateServer
from tests.load import Log, hammer
from tests.system import System, eventually, port_of, through

DENIED, MAX_REQUESTS = 100, 20_000
"""Requests go on until so many were denied: by then every limit has been reached."""
CUT_OFF_AT, HELD_BACK_AT, FAILED_OVER_AT = 100, 200, 300
"""Served requests at which the replica hears no more; at which the ledger hears no more, so that something is lost;
and at which the replica takes over."""
NOTICED_WITHIN_S = 5.0
CLIENTS, PAUSE_S = 8, 0.05


@dataclass
class Pair:
    """A system on a primary with one replica. `new` makes the server that takes over next."""

    system: System
    door: Proxy
    primary: PrivateServer
    new: Callable[[], PrivateServer]

    @property
    def limits(self) -> int:
        """What all requests of one fail-over may have together."""
        return FLUSHED * SCANS


@dataclass(frozen=True)
class FailedOver:
    """What was acknowledged, what of it Redis had lost, what the replica lacked and the ledger had, and in how many
    seconds that was noticed."""

    acknowledged: int
    lost: int
    forgotten: int
    noticed_s: float


@contextmanager
def paired(folder: Path, catalog: Path, **settings: str) -> Iterator[Pair]:
    """The block and all fail-overs are to be in the main thread, but for the requests."""
    with ExitStack() as stack:
        count = iter(range(1_000))

        def new() -> PrivateServer:
            place = folder / f"valkey-{next(count)}"
            place.mkdir(parents=True)
            return stack.enter_context(PrivateServer(place))

        primary = new()
        door = Proxy(port_of(primary.url)).start()
        stack.callback(door.stop)
        system = System(folder / "system", catalog=catalog, redis_url=through(primary.url, door.port), **settings)
        stack.callback(system.start().stop)
        yield Pair(system, door, primary, new)


def fail_over(pair: Pair, name: str) -> FailedOver:
    """Requests go on while the replica is cut off, and while it takes over; afterwards the two must agree, and what was
    lost be told to the unit."""
    system = pair.system
    lost_before, forgotten_before = told(system, "lost_entries"), told(system, "rewound")
    replica = pair.new()
    wire = Proxy(port_of(pair.primary.url)).start()
    noticed_s: list[float] = []
    try:
        _follow(replica, pair.primary, wire)
        log = Log()
        bodies = ({"subject": f"{name}_{each % FLUSHED}", "metric": "scans"} for each in range(MAX_REQUESTS))
        requests = takewhile(lambda _: log.counts[429] < DENIED, bodies)

        def take_over(log: Log) -> None:
            eventually(lambda: log.served >= CUT_OFF_AT, "requests are served")
            wire.faults.refuses = True
            wire.cut()
            eventually(lambda: log.served >= HELD_BACK_AT, "requests are served without a replica")
            with drain_held_back(system):
                eventually(lambda: log.served >= FAILED_OVER_AT, "requests are served that the ledger has not got")
                noticed_s.append(_promote(pair, replica, forgotten_before))

        hammer(
            [system.urls["gateway"]],
            system.admin_key,
            requests,
            clients=CLIENTS,
            meanwhile=take_over,
            pause_s=PAUSE_S,
            into=log,
        )
    finally:
        wire.stop()
    acknowledged = log.acknowledged()
    assert log.counts[429] >= DENIED, log.counts
    assert_the_two_agree(system)
    pattern = name.replace("_", "\\_") + "\\_%"
    rows = system.sql("SELECT request_id FROM entries WHERE kind = 'consume' AND subject LIKE %s", pattern)
    lost = len(acknowledged - {row[0] for row in rows})
    eventually(lambda: told(system, "lost_entries") - lost_before == lost, f"{lost} lost units are told", 10)
    return FailedOver(len(acknowledged), lost, told(system, "rewound") - forgotten_before, noticed_s[0])


def _follow(replica: PrivateServer, primary: PrivateServer, wire: Proxy) -> None:
    with redis.Redis.from_url(replica.url) as second:
        second.config_set("primaryauth", str(second.connection_pool.connection_kwargs["password"]))
        second.replicaof("127.0.0.1", wire.port)
        eventually(lambda: second.info("replication")["master_link_status"] == "up", "the replica follows")


def _promote(pair: Pair, replica: PrivateServer, forgotten_before: int) -> float:
    """In how many seconds somebody has told of what the replica lacks."""
    pair.primary.kill()
    with redis.Redis.from_url(replica.url) as second:
        second.replicaof("NO", "ONE")
    pair.door.target = port_of(replica.url)
    pair.door.cut()
    pair.primary, began = replica, time.monotonic()
    eventually(
        lambda: told(pair.system, "rewound") > forgotten_before, "what the replica lacks is told", NOTICED_WITHIN_S
    )
    return time.monotonic() - began

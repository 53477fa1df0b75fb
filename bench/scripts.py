"""What a check costs Redis: consume.lua beside the script that everybody writes first, `GET` and `INCRBY`.

All variants but one are pipelined to the same number of checks a trip, which is what suits the naive script best: a
trip for each check, which is how it is used, costs Redis a read, a write and a turn of its loop more. The client's own
work is not measured. Rounds are interleaved, so that a busy moment of the machine falls on all of them.
"""

import random
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from redis import Redis

from bench.redis_load import Wire, Work, pack, work
from quota import keys, protocol
from quota.demands import Asked, Demand, step
from quota.entitlement import Entitlement
from quota.formats import CapState, GrantState
from quota.identifiers import MAX_AMOUNT
from quota.keys import AccountName
from quota.periods import PeriodKind, period_at
from quota.protocol import Bringing, Mode, Opening, Step
from quota.scripts import SCRIPTS
from quotagate.data_folder import free_port
from quotagate.embedded import valkey_part, valkey_url
from quotagate.supervisor import Supervisor

TENANT, METRIC, RICH_METRIC = "default", "api_calls", "credits"
SUBJECTS = 10_000
SHARDS = 64
CATALOG_VERSION = 1
EPOCH = 1
LIMIT = 1_000_000_000
"""A hard limit that no measurement reaches."""
TOO_MUCH = MAX_AMOUNT // 2
FEW = 20
"""Subjects that are denied so often that their denials are counted and not told one by one."""
CHECKS_A_TRIP = 128
"""As many as the gateway puts into one call at most."""
RECORD_TTL_MS = 86_400_000
READY_AFTER_S = 30.0

NAIVE = """#!lua
local used = tonumber(redis.call('GET', KEYS[1]) or '0')
if used + tonumber(ARGV[1]) > tonumber(ARGV[2]) then return 0 end
redis.call('INCRBY', KEYS[1], ARGV[1])
return 1
"""


@dataclass(frozen=True, slots=True)
class Variant:
    """`commands` packs that many checks; `answer` is how each of their replies begins."""

    name: str
    commands: Callable[[int], list[bytes]]
    answer: bytes
    pipelined: bool = True


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds a check: of Redis's main thread, and inside scripts alone. Medians over the rounds."""

    name: str
    cpu_us: float
    script_us: float
    cpu_ratio: float
    script_ratio: float
    spread: float
    """The middle half of the rounds' cpu_us lies within this part of the median, up and down."""


def subject(place: int) -> str:
    return f"user_{place:06d}"


def _shard(name: str) -> int:
    return keys.shard_of(TENANT, name, SHARDS)


def _step(chance: random.Random, *, mode: Mode, amount: int, with_key: bool, metric: str, subjects: int) -> Step:
    name = subject(chance.randrange(subjects))
    shard = _shard(name)
    idempotency_key = str(uuid.UUID(int=chance.getrandbits(128))) if with_key else None
    demand = Demand(
        TENANT,
        name,
        mode,
        uuid.UUID(int=chance.getrandbits(128)).hex,
        (Asked(metric, amount),),
        idempotency_key=idempotency_key,
        route="consume",
        fingerprint="0123456789abcdef0123456789abcdef" if with_key else "",
    )
    return step(demand, demand.asked, shard, CATALOG_VERSION)


def _ours(
    chance: random.Random,
    steps_a_call: int,
    *,
    mode: Mode = Mode.CONSUME,
    amount: int = 1,
    with_key: bool = False,
    metric: str = METRIC,
    subjects: int = SUBJECTS,
) -> Callable[[int], list[bytes]]:
    def commands(checks: int) -> list[bytes]:
        found = []
        for _ in range(checks // steps_a_call):
            steps = [
                _step(chance, mode=mode, amount=amount, with_key=with_key, metric=metric, subjects=subjects)
                for _ in range(steps_a_call)
            ]
            call = protocol.consume(steps, RECORD_TTL_MS)
            sha = SCRIPTS[call.script].sha
            found.append(pack("EVALSHA", sha, len(call.keys), *call.keys, *call.arguments))
        return found

    return commands


def _naive(chance: random.Random, sha: str) -> Callable[[int], list[bytes]]:
    def commands(checks: int) -> list[bytes]:
        names = (subject(chance.randrange(SUBJECTS)) for _ in range(checks))
        return [pack("EVALSHA", sha, 1, f"naive:{TENANT}:{name}:{METRIC}", 1, LIMIT) for name in names]

    return commands


def prepare(connection: "Redis") -> str:
    """Heads, accounts and scripts; the naive script's name in Redis's cache."""
    now_ms = int(time.time() * 1000)
    granted = Entitlement("pro", LIMIT, "hard", PeriodKind.MONTH, None, (80, 95))
    period = period_at(PeriodKind.MONTH, now_ms)
    pipeline = connection.pipeline(transaction=False)
    for script in SCRIPTS.values():
        pipeline.script_load(script.text)
    for shard in range(SHARDS):
        call = protocol.begin_epoch(shard, EPOCH, "")
        pipeline.evalsha(SCRIPTS[call.script].sha, len(call.keys), *call.keys, *call.arguments)
    for place in range(SUBJECTS):
        plain = AccountName(TENANT, subject(place), METRIC)
        rich = AccountName(TENANT, subject(place), RICH_METRIC)
        caps = (CapState(period_at(PeriodKind.DAY, now_ms), LIMIT),)
        for opening in (
            Opening(plain, CATALOG_VERSION, granted, period),
            Opening(rich, CATALOG_VERSION, granted, period, caps, (GrantState(1, 0, None, LIMIT),), 1),
        ):
            call = protocol.provision([Bringing(_shard(plain.subject), EPOCH, "0", opening)])
            pipeline.evalsha(SCRIPTS[call.script].sha, len(call.keys), *call.keys, *call.arguments)
        pipeline.set(f"naive:{TENANT}:{plain.subject}:{METRIC}", 0)
    replies = pipeline.execute()
    assert replies.count([b"provisioned"]) == 2 * SUBJECTS, "every account is there"
    return str(connection.script_load(NAIVE))


def _variants(naive_sha: str) -> list[Variant]:
    chance = random.Random(1)
    return [
        Variant("naive GET + INCRBY, 1 a call, pipelined", _naive(chance, naive_sha), b"1"),
        Variant("naive GET + INCRBY, 1 a trip", _naive(chance, naive_sha), b"1", pipelined=False),
        Variant("consume, 1 a call", _ours(chance, 1), b"allowed"),
        Variant("consume, 32 a call", _ours(chance, 32), b"allowed"),
        Variant("consume, 128 a call", _ours(chance, 128), b"allowed"),
        Variant("consume with an idempotency key, 32 a call", _ours(chance, 32, with_key=True), b"allowed"),
        Variant("consume with a cap and a grant, 32 a call", _ours(chance, 32, metric=RICH_METRIC), b"allowed"),
        Variant("check only, 32 a call", _ours(chance, 32, mode=Mode.CHECK), b"allowed"),
        Variant("denied and told, 32 a call", _ours(chance, 32, amount=TOO_MUCH), b"denied"),
        Variant("denied again and again, 32 a call", _ours(chance, 32, amount=TOO_MUCH, subjects=FEW), b"denied"),
    ]


def _run(wire: Wire, connection: "Redis", variant: Variant, checks: int) -> Work:
    commands = variant.commands(checks)
    commands_a_trip = max(1, CHECKS_A_TRIP * len(commands) // checks) if variant.pipelined else 1
    before = work(connection)
    for first in range(0, len(commands), commands_a_trip):
        for reply in wire.trip(commands[first : first + commands_a_trip]):
            answers = reply if isinstance(reply, list) else [b"%d" % reply]
            assert all(answer.startswith(variant.answer) for answer in answers), (variant.name, answers)
    return work(connection) - before


def _forget(connection: "Redis") -> None:
    """Empties the journals and drops idempotency records, so that every round finds the same memory."""
    pipeline = connection.pipeline(transaction=False)
    for shard in range(SHARDS):
        pipeline.xtrim(keys.journal(shard), maxlen=0, approximate=False)
    for key in connection.scan_iter(match="qg:{*}:i:*", count=1000):
        pipeline.unlink(key)
    pipeline.execute()


def spread(values: Sequence[float]) -> float:
    ordered = sorted(values)
    return (ordered[len(ordered) * 3 // 4] - ordered[len(ordered) // 4]) / 2 / median(ordered)


def measure(rounds: int, checks: int) -> list[Cost]:
    """Costs of every variant; the first is what the others are compared with. Ratios are of one round each."""
    cpu_us: dict[str, list[float]] = {}
    script_us: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="quotagate-bench-") as folder, Supervisor() as supervisor:
        port = free_port()
        url = valkey_url(port, "bench")
        supervisor.start(valkey_part(Path(folder) / "valkey", port, Path(folder) / "valkey.log", password="bench"))
        connection = Redis.from_url(url)
        supervisor.wait_until("valkey", connection.ping, READY_AFTER_S)
        connection.config_set("auto-aof-rewrite-percentage", 0)  # a rewrite would fall on one of the variants only
        wire = Wire(url)
        variants = _variants(prepare(connection))
        for number in range(-1, rounds):
            for variant in variants:
                done = _run(wire, connection, variant, checks)
                _forget(connection)
                if number >= 0:  # the first round is for warming up
                    cpu_us.setdefault(variant.name, []).append(done.cpu_us / checks)
                    script_us.setdefault(variant.name, []).append(done.script_us / checks)
        wire.close()
        connection.close()
    base = variants[0].name

    def ratio(found: dict[str, list[float]], name: str) -> float:
        return median(mine / naive for mine, naive in zip(found[name], found[base], strict=True))

    return [
        Cost(
            name,
            median(cpu_us[name]),
            median(script_us[name]),
            ratio(cpu_us, name),
            ratio(script_us, name),
            spread(cpu_us[name]),
        )
        for name in cpu_us
    ]

"""Faults of every kind, planted one at a time: each is found, and told with its account or its place. A thousand of
them, and an hour without one: tests/soak/planted.py."""

import re
from pathlib import Path

import pytest
import redis

from tests.conftest import Database
from tests.integration.accounts_apart import Members
from tests.integration.counting import PrivateServer
from tests.integration.pipeline import Pipeline
from tests.integration.planting import Planter

FAULTS = 39
SEED = 20261122


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


@pytest.mark.parametrize(
    ("where", "told"),
    [
        (rb"guild/1:m\r\n\$5\r\nstate\r\n\$\d+\r\n()\d", ["guild/1"]),
        (rb"consume \d+ \d ()\d \d+ 1 1 - - - qg:\{3\}:a:t:guild/1:m", ["arithmetic", "guild/1"]),
        (rb"consume \d+ \d \d ()\d 1 1 - - - qg:\{3\}:a:t:guild/1:m", ["arithmetic"]),
        (rb"()consume \d+ \d \d \d 1 1 - - - qg:\{3\}:a:t:guild/1:m", ["unreadable", "guild/1"]),
    ],
    ids=["what a counter says", "what an entry changes", "what it states", "what it is"],
)
def test_a_flipped_bit_in_the_append_only_file_is_found(
    tmp_path: Path, database: Database, where: bytes, told: list[str]
) -> None:
    with (
        PrivateServer(tmp_path) as server,
        redis.Redis.from_url(server.url) as connection,
        Pipeline.on(connection, database) as pipeline,
    ):
        Members.opened(pipeline, 3, used=5).consume([0, 1, 2])
        server.kill()
        flip_a_bit(tmp_path / "valkey", where)
        server.start()
        pipeline.drained()
        run = pipeline.reconcile().run_once()
        assert [kind for _, kind, _ in pipeline.incidents()] + [each.subject for each in run.drifts] == told


def flip_a_bit(folder: Path, where: bytes) -> None:
    """Of the last place in the file that is written like this: the lowest one of the byte behind the empty group."""
    (file,) = sorted((folder / "appendonlydir").glob("*.incr.aof"))[-1:]
    text = bytearray(file.read_bytes())
    *_, found = re.finditer(where, bytes(text))
    text[found.start(1)] ^= 1
    file.write_bytes(text)

"""A period that something is wrong with keeps no other from being sealed."""

from collections.abc import Iterator
from typing import Any

import pytest
import redis

from ledger import sealing
from quota import keys
from tests.conftest import Database
from tests.integration.resetting import Resetting, name_of

BAD, GOOD = name_of("a", "r"), name_of("b", "m")


@pytest.fixture
def scene(connection: "redis.Redis", database: Database) -> Iterator[Resetting]:
    with Resetting.on(connection, database) as scene:
        scene.used_yesterday({BAD: 3, GOOD: 2})
        yield scene


def damage(scene: Resetting, detail: bytes) -> None:
    """In what the entry that closed the period says of what may go on."""
    journal = keys.journal(scene.shard(BAD).number)
    for name, fields in scene.connection.xrange(journal):
        words = fields[b"line"].split(b" ")
        changed = [detail if word.startswith(b"rollover:") else word for word in words]
        scene.connection.xadd("again", fields | {b"line": b" ".join(changed)}, id=name)
    scene.connection.rename("again", journal)


@pytest.mark.parametrize(
    "detail", [b"rollover:q:6:1", b"rollover:7:6", b"rollover:7:6:99999999999999999", b"rollover:7:99999999999999999:1"]
)
def test_a_close_whose_words_are_damaged_rolls_nothing_over_and_is_told(scene: Resetting, detail: bytes) -> None:
    reset = scene.reset()
    reset.run_once()
    damage(scene, detail)
    scene.pipeline.drained()
    scene.settled(reset)
    assert scene.sealed() == [("a", "r", 3, 3, 3, 0), ("b", "m", 2, 2, 2, 0)]
    ((_, kind, told),) = scene.pipeline.incidents()
    assert (kind, told["subject"], told["close"]) == ("seal", "a", detail.decode())


def test_whatever_is_wrong_with_one_the_others_are_sealed(scene: Resetting, monkeypatch: pytest.MonkeyPatch) -> None:
    seal = sealing.seal

    def failing(connection: Any, wanted: Any, *arguments: Any, **words: Any) -> Any:
        if any(due.account == BAD for due in wanted):
            raise ValueError
        return seal(connection, wanted, *arguments, **words)

    monkeypatch.setattr(sealing, "seal", failing)
    reset = scene.reset()
    for _ in range(2):
        assert reset.run_once().waiting > 0
        scene.pipeline.drained()
    assert reset.run_once().waiting == 1
    assert [each[0] for each in scene.sealed()] == ["b"]
    monkeypatch.undo()
    scene.settled(reset)
    assert [each[0] for each in scene.sealed()] == ["a", "b"]

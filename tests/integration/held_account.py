"""An account that has something in every bucket, all of it in the ledger, and what may go wrong with its hash."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ledger import grants
from ledger.acts import By
from ledger.openings import opening, read
from ledger.replay_verification import step
from quota.protocol import Charge, Mode
from quota.replies import Reply
from tests.integration.replaying import through
from tests.integration.resetting import Resetting, name_of

CATALOG = """
default_plan = "free"
[metrics.m]
[plans.free]
rank = 0
limits.m = { limit = 10, period = "month", caps = { day = 90 } }
"""
ACCOUNT = name_of("u")


@dataclass
class HeldAccount:
    """Of 10 units and a grant of 20: 3 held by two holds, 25 used (18 of them the grant's), warned of, denied once."""

    scene: Resetting
    grant: int = 0
    places: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.shard = self.scene.shard(ACCOUNT, is_clocked=False)
        self.key = ACCOUNT.key(self.shard.number)
        words: dict[str, Any] = {"amount": 20, "priority": 0, "expires_ms": None, "by": By("k", reason="r")}
        self.grant, _ = self.scene.pipeline.call(grants.add, "t", "u", "m", **words)
        assert self.provisioned() == "provisioned"
        self.places = [self.hold(1), self.hold(2)]
        self.ask(Mode.CONSUME, 25)
        self.ask(Mode.CONSUME, 50)
        self.scene.pipeline.drained()

    def provisioned(self) -> str:
        """What came of bringing it in."""
        now_ms = self.shard.now_ms()
        return self.shard.provision(opening(ACCOUNT, now_ms, self.scene.pipeline.call(read, [ACCOUNT], now_ms)))

    def ask(self, mode: Mode, amount: int | None, detail: str = "") -> Reply:
        (reply,) = self.shard.consume(self.shard.step(0, mode=mode, charges=(Charge(self.key, amount, detail),)))
        return reply

    def hold(self, amount: int, ttl_ms: int = 60_000) -> str:
        reply = self.ask(Mode.HOLD, amount, str(ttl_ms))
        return f"{reply.epoch}-{reply.first_n}"

    def hash(self) -> dict[str, str]:
        return self.scene.hash(ACCOUNT)

    def but_its_entry(self) -> dict[str, str]:
        """What a correction must leave or put back as it was."""
        found = self.hash()
        return found | {"state": found["state"].partition(" ")[0]}

    def put(self, name: str, text: str | None) -> None:
        if text is None:
            self.scene.connection.hdel(self.key, name)
        else:
            self.scene.connection.hset(self.key, name, text)

    def change(self, name: str, place: int, by: int) -> None:
        """A number in a text."""
        words = self.hash()[name].split(" ")
        words[place] = str(int(words[place]) + by)
        self.put(name, " ".join(words))

    def lose(self, place: str) -> None:
        """A hold, so that nothing in the hash speaks of it."""
        text = self.hash()[f"h:{place}"]
        self.put(f"h:{place}", None)
        if self.hash()["held"].split(" ")[1] == "1":
            self.put("held", None)
        else:
            self.change("held", 0, -int(text.partition(" ")[0]))
            self.change("held", 1, -1)

    def lose_all(self) -> None:
        for place in self.places:
            self.lose(place)

    def invent(self) -> None:
        """A hold that nobody made."""
        self.put("h:1-99", f"4 {self.shard.now_ms() + 60_000} 4 -")
        self.change("held", 0, 4)
        self.change("held", 1, 1)

    def corrections(self) -> list[tuple[Any, ...]]:
        return list(
            self.scene.pipeline.rows(
                "SELECT amount, change, used_after, detail, reason FROM entries WHERE kind = 'correct' ORDER BY n"
            )
        )

    def settled_by(self) -> list[Any]:
        return [by for (by,) in self.scene.pipeline.rows("SELECT settled_by FROM holds ORDER BY epoch, n")]

    def assert_all_is_well(self) -> None:
        """Nothing is told any more, the balance is the sum of the entries, and the ledger agrees with itself."""
        pipeline = self.scene.pipeline
        pipeline.drained()
        run = pipeline.reconcile().run_once()
        assert (run.drifts, run.missing, run.corrected) == ([], 0, 0)
        assert pipeline.rows("SELECT sum(change)::bigint FROM entries") == pipeline.rows("SELECT used FROM balances")
        assert through(pipeline, step)[0]["differing"] == 0
        assert pipeline.incidents() == []


PLANTED: dict[str, tuple[Callable[[HeldAccount], None], str]] = {
    "a hold lost": (lambda held: held.lose(held.places[0]), "holds"),
    "all holds lost": (lambda held: held.lose_all(), "holds"),
    "a hold that is not there": (lambda held: held.invent(), "holds"),
    "a hold of more": (lambda held: held.change(f"h:{held.places[1]}", 0, 1), "holds"),
    "held units": (lambda held: held.change("held", 0, -1), "held"),
    "a grant's remainder": (lambda held: held.change("grants", 3, 1), "grant {} left"),
    "all grants lost": (lambda held: held.put("grants", None), "grant {0} left, grant {0} taken"),
    "what a grant gave": (lambda held: held.change("grants", 4, -1), "grant {} taken"),
}
"""What may go wrong, and what is told of it."""

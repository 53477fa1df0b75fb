"""Who asks: what a key costs in queries and in lines of the log, right or wrong."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest
from structlog.testing import capture_logs

from gateway.answers import Answer
from gateway.auth import Authenticator, digest_of, key_id_of, made_up_key
from gateway.hot import HotPath, Route
from gateway.key_uses import KeyUses
from ledger import api_keys
from ledger.api_keys import KeyRecord
from quota.errors import LedgerUnavailable, Unauthenticated
from tests.unit.fakes import FakeStore

PEPPER = "12345678"
WRONG_KEYS = 10_000


class Keys:
    """A table of keys, and the process that asks it."""

    def __init__(self) -> None:
        self.rows: dict[str, KeyRecord] = {}
        self.noted: list[dict[str, int]] = []
        self.store: Any = FakeStore({api_keys.living: self._living, api_keys.note_uses: self.noted.append})
        self.authenticator = Authenticator(self.store, PEPPER)
        self.uses = KeyUses(self.store, self.authenticator.used_at)

    def make(self, *scopes: str, expires_at_ms: int | None = None) -> str:
        secret = made_up_key()
        key_id = key_id_of(PEPPER, secret)
        digest = digest_of(PEPPER, secret)
        self.rows[key_id] = KeyRecord(key_id, "t", digest, frozenset(scopes or ["consume"]), expires_at_ms)
        return secret

    def _living(self, ids: Sequence[str]) -> dict[str, KeyRecord]:
        return {each: self.rows[each] for each in ids if each in self.rows}

    async def knows(self, secret: str) -> bool:
        try:
            await self.authenticator.identify(b"Bearer " + secret.encode())
        except Unauthenticated:
            return False
        return True

    @property
    def queries(self) -> int:
        return len(self.store.asked)


@pytest.fixture
def keys() -> Keys:
    return Keys()


def wrong(right: str, number: int) -> str:
    """Of all kinds: an id that there is, one that there is not, no form of ours at all."""
    kinds = [right[:-6] + f"{number:06}", made_up_key(), f"guess-{secrets.token_hex(8)}"]
    return kinds[number % 3]


class Asked:
    """What a hot route answers to a key."""

    def __init__(self, keys: Keys) -> None:
        async def answer(_: Any) -> Answer:
            return Answer(200, [], b"{}")

        self._serve: Callable[..., Coroutine[Any, Any, None]] = HotPath(keys.authenticator).serving(  # type: ignore[assignment]
            Route("/v1/consume", answer)
        )

    async def status_of(self, secret: str) -> int:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request", "body": b"{}"}

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"authorization", b"Bearer " + secret.encode())]
        await self._serve({"method": "POST", "path": "/v1/consume", "headers": headers}, receive, send)
        return int(sent[0]["status"])


class TestWrongKeys:
    def test_ten_thousand_in_a_row_cost_the_right_one_no_query_and_the_log_no_line(self, keys: Keys) -> None:
        right, asked = keys.make(), Asked(keys)

        async def run() -> None:
            assert await asked.status_of(right) == 200
            for number in range(WRONG_KEYS):
                assert await asked.status_of(wrong(right, number)) == 401
            before = keys.queries
            for _ in range(10):
                assert await asked.status_of(right) == 200
            assert keys.queries == before == WRONG_KEYS + 1

        with capture_logs() as lines:
            asyncio.run(run())
        assert lines == []

    def test_a_thousand_at_once_wait_for_a_few_queries_together_and_the_right_one_with_them(self, keys: Keys) -> None:
        right = keys.make()

        async def run() -> list[bool]:
            secrets = [wrong(right, number) for number in range(1_000)]
            return await asyncio.gather(*(keys.knows(each) for each in [*secrets, right]))

        assert asyncio.run(run()) == [False] * 1_000 + [True]
        assert keys.queries <= 3

    def test_they_are_forgotten_as_soon_as_they_are_answered(self, keys: Keys) -> None:
        async def run() -> None:
            for _ in range(2):
                assert not await keys.knows("qg_0123456789ab_" + "x" * 43)
            await keys.authenticator.refresh()

        asyncio.run(run())
        assert keys.queries == 2  # and there is nothing to be looked up anew

    def test_while_the_ledger_is_away_each_is_told_so(self, keys: Keys) -> None:
        right = keys.make()

        async def run() -> None:
            keys.store.is_away = True
            for found in await asyncio.gather(*(keys.knows(right) for _ in range(3)), return_exceptions=True):
                assert isinstance(found, LedgerUnavailable)
            keys.store.is_away = False
            assert await keys.knows(right)

        asyncio.run(run())


class TestRightKeys:
    def test_one_that_was_revoked_is_unknown_after_the_next_look(self, keys: Keys) -> None:
        right = keys.make()

        async def run() -> None:
            assert await keys.knows(right)
            keys.rows.clear()
            assert await keys.knows(right)
            await keys.authenticator.refresh()
            assert not await keys.knows(right)

        asyncio.run(run())

    def test_an_expiry_that_was_brought_forward_holds_after_the_next_look(self, keys: Keys) -> None:
        right = keys.make()
        ((key_id, record),) = keys.rows.items()

        async def run() -> None:
            assert await keys.knows(right)
            keys.rows[key_id] = KeyRecord(key_id, "t", record.digest, record.scopes, 1)
            await keys.authenticator.refresh()
            assert not await keys.knows(right)

        asyncio.run(run())


class TestUses:
    def test_a_key_is_noted_once_a_minute_however_often_it_is_used(
        self, keys: Keys, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        right, now = keys.make(), 1_000_000.0
        (key_id,) = keys.rows
        keys.make()  # one that nobody uses

        async def run() -> None:
            nonlocal now
            monkeypatch.setattr("time.time", lambda: now)
            for _ in range(150):
                assert await keys.knows(right)
                await keys.uses.run_once()
                now += 1.0

        asyncio.run(run())
        assert keys.noted == [{key_id: int(at * 1000)} for at in (1_000_000.0, 1_000_060.0, 1_000_120.0)]

    def test_what_could_not_be_written_is_written_later_and_the_key_is_served_meanwhile(self, keys: Keys) -> None:
        right = keys.make()

        async def run() -> None:
            assert await keys.knows(right)
            keys.store.is_away = True
            with pytest.raises(LedgerUnavailable):
                await keys.uses.run_once()
            assert await keys.knows(right)
            keys.store.is_away = False
            assert [await keys.uses.run_once() for _ in range(2)] == [1, 0]

        asyncio.run(run())

    def test_neither_a_wrong_key_nor_an_expired_one_was_used(self, keys: Keys) -> None:
        expired = keys.make(expires_at_ms=1)

        async def run() -> None:
            assert not await keys.knows(expired)
            assert not await keys.knows(wrong(expired, 0))
            assert await keys.uses.run_once() == 0

        asyncio.run(run())
        assert keys.noted == []

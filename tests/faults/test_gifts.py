"""Gifts while gateways and drains are killed in the middle of them: each is given once, and no unit is lost."""

import signal
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tests.faults.conftest import assert_the_two_agree, status
from tests.faults.dying import DyingDrain, drain_held_back, verified, waiting
from tests.faults.dying_giver import POINTS
from tests.system import Gateway, System, eventually


def units(client: httpx.Client, subject: str) -> int:
    return sum(each["remaining"] for each in status(client, subject)["grants"])


def granted(client: httpx.Client, name: str) -> dict[str, Any]:
    """A gift of four of nine units."""
    grant = {"metric": "units", "amount": 9, "reason": "to give away"}
    assert client.post(f"/v1/subjects/{name}-giver/grants", json=grant).status_code == 201
    return {"from": f"{name}-giver", "to": f"{name}-receiver", "metric": "units", "amount": 4}


def assert_given_once(system: System, client: httpx.Client, name: str) -> None:
    wanted = (5, 4)
    found = lambda: (units(client, f"{name}-giver"), units(client, f"{name}-receiver"))  # noqa: E731
    eventually(lambda: found() == wanted, "the receiver has the units", 30)
    assert system.sql("SELECT state FROM gifts WHERE giver = %s", f"{name}-giver") == [("given",)]
    assert system.sql("SELECT count(*) FROM acts WHERE act = 'gift.given' AND subject = %s", f"{name}-giver") == [(1,)]
    assert_the_two_agree(system)
    verified(system)
    assert found() == wanted


@pytest.mark.parametrize("point", POINTS)
def test_a_gateway_that_is_killed_is_stood_in_for(faulty: System, reader: httpx.Client, point: str) -> None:
    name = f"gateway-{point}"
    gift = granted(reader, name)
    dying = Gateway(faulty, name, command=("tests.faults.dying_giver", point)).start()
    with dying.client() as client, suppress(httpx.TransportError):
        client.post("/v1/gifts", json=gift, headers={"Idempotency-Key": "k"})
    assert dying.process is not None and dying.process.wait(10) == -signal.SIGKILL
    dying.stop()  # its address
    again = reader.post("/v1/gifts", json=gift, headers={"Idempotency-Key": "k"})
    assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
    assert_given_once(faulty, reader, name)


@pytest.mark.parametrize("point", ["read", "committed"])
def test_a_drain_that_is_killed_gives_all_of_it_or_none(faulty: System, reader: httpx.Client, point: str) -> None:
    name = f"drain-{point}"
    gift = granted(reader, name)
    faulty.drained()
    with drain_held_back(faulty), DyingDrain(faulty) as dying:
        answer = reader.post("/v1/gifts", json=gift)
        assert (answer.status_code, answer.json()["state"]) == (201, "taken")
        assert waiting(faulty) > 0
        dying.run(point)
    assert_given_once(faulty, reader, name)

"""When a drift is too much to be corrected."""

from collections import Counter

import pytest

from workers.guard import Guard, Tally


def refused(guard: Guard, compared: int, *, high: int = 0, low: int = 0, damaged: int = 0) -> str | None:
    tally = Tally(Counter({3: compared}), Counter({3: high}), Counter({3: low}), Counter({3: damaged}))
    refusal = guard.refusal(tally)
    return None if refusal is None else refusal.reason


@pytest.mark.parametrize(
    ("compared", "found"),
    [
        (1_000_000, {}),
        (3, {"high": 1}),
        (3, {"high": 3}),
        (9, {"low": 9}),
        (100, {"high": 5, "low": 5}),
        (1000, {"high": 100}),
        (1000, {"high": 40, "low": 30, "damaged": 30}),
    ],
)
def test_little_is_corrected(compared: int, found: dict[str, int]) -> None:
    assert refused(Guard(), compared, **found) is None


@pytest.mark.parametrize(
    ("compared", "found", "words"),
    [
        (1_000_000, {"high": 101}, "at most 100"),
        (1_000_000, {"high": 50, "low": 50, "damaged": 1}, "at most 100"),
        (100, {"high": 6, "low": 5}, "11 of 100"),
        (0, {"damaged": 10}, "10 of 0"),
    ],
)
def test_much_is_not(compared: int, found: dict[str, int], words: str) -> None:
    assert words in (refused(Guard(), compared, **found) or "")


@pytest.mark.parametrize(("high", "low", "is_refused"), [(10, 0, True), (0, 10, True), (9, 1, False), (9, 0, False)])
def test_half_of_a_shard_in_one_direction_is_not_corrected(high: int, low: int, is_refused: bool) -> None:
    assert (refused(Guard(1_000, 100), 20, high=high, low=low) is not None) == is_refused
    assert refused(Guard(1_000, 100), 21, high=high, low=low) is None


def test_the_shard_of_most_of_it_is_named() -> None:
    tally = Tally(Counter({1: 100, 2: 100}), Counter({1: 5}), Counter({2: 7}))
    refusal = Guard(most=11).refusal(tally)
    assert refusal is not None and (refusal.shard, refusal.detail) == (2, {"drifted": 12, "compared": 200})


def test_another_shard_hides_none_that_is_wrong_in_one_direction() -> None:
    tally = Tally(Counter({1: 500, 2: 12}), Counter({1: 9}), Counter({1: 9, 2: 12}))
    refusal = Guard(1_000, 100).refusal(tally)
    assert refusal is not None and refusal.shard == 2

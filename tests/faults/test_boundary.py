"""Load over a period's end: Redis's clock alone says which period a request is counted in."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.faults.conftest import assert_exactly_once, used
from tests.load import hammer
from tests.system import Gateway, System

SUBJECTS = [f"edge-{place}" for place in range(12)]
UNTIL_THE_END = timedelta(seconds=3)
AFTER_THE_END = timedelta(seconds=0.7)
LOOK_EVERY = 100


def _redis_now(system: System) -> datetime:
    seconds, microseconds = system.redis().time()
    return datetime.fromtimestamp(int(seconds) + int(microseconds) / 1e6, UTC)


def test_two_gateways_whose_clocks_are_5_s_apart_count_each_request_in_the_period_of_rediss_clock(
    faulty: System, apart: tuple[Gateway, Gateway]
) -> None:
    end = (_redis_now(faulty) + UNTIL_THE_END).replace(microsecond=500_000)
    anchor = end.replace(year=end.year - 4).isoformat()  # a leap day has one four years before
    with apart[0].client() as client:
        for subject in SUBJECTS:
            plan = {"plan": "free", "anchor": anchor}
            assert client.put(f"/v1/subjects/{subject}/subscription", json=plan).status_code == 200

    def requests() -> Iterator[dict[str, Any]]:
        place = 0
        while place % LOOK_EVERY or _redis_now(faulty) < end + AFTER_THE_END:
            yield {"subject": SUBJECTS[place % len(SUBJECTS)], "metric": "units"}
            place += 1

    log = hammer([gateway.url for gateway in apart], faulty.admin_key, requests(), clients=16, keep_bodies=True)
    assert set(log.counts) == {200}
    assert_exactly_once(faulty, log, "units", "edge-%")
    rows = faulty.sql(
        "SELECT subject, occurred_at, period_start, period_end, used_after, request_id FROM entries "
        "WHERE subject LIKE 'edge-%%' AND kind = 'consume' ORDER BY shard, epoch, n"
    )
    assert {start if start == end else stop for _, _, start, stop, *_ in rows} == {end}, "two periods meet at the end"
    assert [row for row in rows if not row[2] <= row[1] < row[3]] == []
    counted: Counter[tuple[str, bool]] = Counter()
    for subject, _, start, _, used_after, ident in rows:
        counted[subject, start == end] += 1
        assert used_after == counted[subject, start == end], "a period counts from zero, one by one"
        assert (log.bodies[ident]["used"], _instant(log.bodies[ident]["period"]["start"])) == (used_after, start)
    assert counted.total() == len(log.status)
    for subject in SUBJECTS:
        assert counted[subject, False] > 0 and counted[subject, True] > 0
        with faulty.client() as client:
            assert used(client, subject) == counted[subject, True]
    closes = faulty.sql(
        "SELECT subject, used_after FROM entries WHERE subject LIKE 'edge-%%' AND metric = 'units' AND kind = 'close'"
    )
    assert sorted(closes) == sorted((subject, counted[subject, False]) for subject in SUBJECTS)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)

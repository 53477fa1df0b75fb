"""Acts are read in pieces: each once and only once, however few of those that are looked at are wanted."""

import pytest
from sqlalchemy import text

from ledger import act_reading
from ledger.act_reading import ActPlace, WantedActs, acts_after
from quota.periods import from_rfc3339
from tests.integration.pipeline import Pipeline

TEN = from_rfc3339("2026-11-01T10:00:00Z")
PLANT = """
INSERT INTO acts (tenant, act, actor, subject, at)
SELECT CASE WHEN n % 2 = 0 THEN 't' ELSE 'another' END, 'grant.given', 'key_' || (n % 50), 'u' || (n % 4),
       CAST('2026-11-01T00:00:00Z' AS timestamptz) + n * interval '1 minute'
FROM generate_series(1, 2000) AS n
"""


def pieces(pipeline: Pipeline, wanted: WantedActs, most: int) -> list[list[int]]:
    found: list[list[int]] = []
    after: ActPlace | None = None
    for _ in range(3_000):
        piece = pipeline.call(acts_after, wanted, after, most)
        found.append([row.id for row in piece.rows])
        after = piece.after
        if after is None:
            return found
    raise AssertionError("the list has no end")


@pytest.fixture
def planted(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    pipeline.call(lambda connection: connection.execute(text(PLANT)))
    monkeypatch.setattr(act_reading, "LOOK_ROWS", 100)
    return pipeline


@pytest.mark.parametrize(
    ("wanted", "condition"),
    [
        (WantedActs("t"), "tenant = 't'"),
        (WantedActs(None), "true"),
        (WantedActs("t", subject="u2"), "tenant = 't' AND subject = 'u2'"),
        (WantedActs("t", actor="key_6"), "tenant = 't' AND actor = 'key_6'"),
        (WantedActs("t", act="tenant.made"), "false"),
        (WantedActs("t", to_ms=TEN), "tenant = 't' AND at < '2026-11-01T10:00:00Z'"),
    ],
)  # fmt: skip
def test_each_act_comes_once_the_newest_first(planted: Pipeline, wanted: WantedActs, condition: str) -> None:
    whole = [row[0] for row in planted.rows(f"SELECT id FROM acts WHERE {condition} ORDER BY id DESC")]
    for most in (7, 1_000):
        assert [each for piece in pieces(planted, wanted, most) for each in piece] == whole


def test_it_does_not_look_through_all_that_is_older_than_what_is_asked_for(planted: Pipeline) -> None:
    """33 hours were planted; of the last two, half are this tenant's."""
    found = pieces(planted, WantedActs("t", from_ms=from_rfc3339("2026-11-02T07:20:00Z")), 50)
    assert sum(map(len, found)) == 61
    assert len(found) <= 4

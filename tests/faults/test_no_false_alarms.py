"""Reconciliation beside normal load: it tells of nothing, corrects nothing, and is not noticed."""

from quota import keys
from tests.faults.conftest import assert_the_two_agree
from tests.faults.reconciling import SUBJECTS, alarms, reconciling
from tests.system import System, eventually

SECONDS = 10
SEED = 20261122
KINDS = "SELECT kind, count(*) FROM incidents GROUP BY kind ORDER BY kind"


def every_epoch_is_told(system: System) -> bool:
    """After Redis was emptied, the shards that nobody asks for begin their epochs at the next look."""
    redis = system.redis()
    told = system.sql("SELECT shard, epoch FROM shards")
    return all(redis.hget(keys.head(shard), "epoch") == str(epoch).encode() for shard, epoch in told)


def test_reconciling_all_the_time_beside_a_mix_of_requests_raises_no_alarm(faulty: System) -> None:
    eventually(lambda: every_epoch_is_told(faulty), "what tests before this one have lost is told")
    before = faulty.sql(KINDS)
    log, runs = reconciling(faulty, SECONDS, SEED)
    assert alarms(runs) == []
    assert (len(runs) > 3, log.served > 100, runs[-1].accounts >= SUBJECTS) == (True, True, True)
    assert [run.corrected for run in runs] == [0] * len(runs)
    assert faulty.sql(KINDS) == before
    assert faulty.sql("SELECT count(*) FROM entries WHERE kind = 'correct' AND subject LIKE 'calm%%'") == [(0,)]
    assert_the_two_agree(faulty)

"""Reconciliation beside normal load: it tells of nothing, corrects nothing, and is not noticed."""

from tests.faults.conftest import assert_the_two_agree
from tests.faults.reconciling import SUBJECTS, alarms, reconciling
from tests.system import System

SECONDS = 60
SEED = 20261122


def test_reconciling_all_the_time_beside_a_mix_of_requests_raises_no_alarm(faulty: System) -> None:
    before = faulty.sql("SELECT count(*) FROM incidents")
    log, runs = reconciling(faulty, SECONDS, SEED)
    assert alarms(runs) == []
    assert (len(runs) > 3, log.served > 100, runs[-1].accounts >= SUBJECTS) == (True, True, True)
    assert [run.corrected for run in runs] == [0] * len(runs)
    assert faulty.sql("SELECT count(*) FROM incidents") == before
    assert faulty.sql("SELECT count(*) FROM entries WHERE kind = 'correct' AND subject LIKE 'calm%%'") == [(0,)]
    assert_the_two_agree(faulty)

"""A replica that had lagged takes over, in the middle of everything."""

from pathlib import Path

import pytest

from tests.faults.failing_over import NOTICED_WITHIN_S, fail_over, paired


def test_what_a_lagging_replica_lacks_is_noticed_told_and_let_through_at_most_once(
    tmp_path_factory: pytest.TempPathFactory, catalog: Path
) -> None:
    with paired(tmp_path_factory.mktemp("paired"), catalog, deadline_ms="200") as pair:
        found = fail_over(pair, "failed")
        assert found.acknowledged <= pair.limits + found.lost
    assert found.noticed_s < NOTICED_WITHIN_S
    assert found.lost > 0 and found.forgotten > 0, "the replica had lagged behind both the ledger and the callers"

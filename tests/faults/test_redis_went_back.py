"""A Redis that comes back with less than it had: it is looked at before anybody uses it, and the counters are the
ledger's again.
"""

import shutil
from pathlib import Path

import pytest

from tests.faults.conftest import assert_the_two_agree, kinds, used
from tests.faults.losing import SUBJECTS, asked, cut, redis_down, served_again, told
from tests.system import System, eventually


def test_an_older_file_is_noticed_before_it_is_used(faulty: System, tmp_path: Path) -> None:
    """BerriAI/litellm#30684: a restart from a stale snapshot, reads are hits, and nothing notices."""
    served, told_before = asked(faulty, "back"), told(faulty, "rewound")
    faulty.drained()
    shutil.copytree(faulty.data / "valkey", tmp_path / "older")
    served += asked(faulty, "back")
    faulty.drained()
    with redis_down(faulty) as files:
        shutil.rmtree(files)
        shutil.copytree(tmp_path / "older", files)
    eventually(lambda: told(faulty, "rewound") - told_before == 400, "what Redis had forgotten is told", 5)
    with faulty.client() as client:
        served_again(client)
        served += asked(faulty, "back")
        assert_the_two_agree(faulty)
        assert served == 1_200
        assert sum(used(client, f"back_{each}") for each in range(SUBJECTS)) == served
    assert kinds(faulty, "back\\_%")["consume"] == served


@pytest.mark.parametrize("part", [0.1, 0.5, 0.97])
def test_a_file_that_ends_early_loses_what_is_told_and_nothing_else(faulty: System, part: float) -> None:
    cut(faulty, f"cut_{part * 100:.0f}", part)

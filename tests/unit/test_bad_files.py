"""Files that commands read and cannot: a sentence, or one for each mistake, and status 2."""

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from quota.catalog import parse_toml
from quotagate.catalog_file import read_catalog
from quotagate.cli import main
from tests.system import ROOT

CREDITS = (ROOT / "examples" / "credits.toml").read_text()
MISTAKES = """\
default_plan = "x"
[metrics.a]
unt = "x"
[plans.free]
rnk = 1
"""


def ended(*words: str) -> Result:
    done = CliRunner().invoke(main, words, env={"QUOTAGATE_REDIS_URL": "", "QUOTAGATE_DATABASE_URL": ""})
    assert isinstance(done.exception, SystemExit), repr(done.exception)
    assert (done.exit_code, done.stdout) == (2, "")
    return done


@pytest.mark.parametrize("half", ["", '{"gateway": "http', "[]", '{"redis": 1}', '{"redis": "\\xff'])
def test_addresses_that_are_half_written_are_said_to_be(tmp_path: Path, half: str) -> None:
    (tmp_path / "urls.json").write_text(half)
    (line,) = ended("doctor", "--data", str(tmp_path)).stderr.splitlines()
    assert line.startswith(f"quotagate: {tmp_path / 'urls.json'} cannot be read, ")
    assert line.endswith("start `quotagate up` again")


def test_each_mistake_of_a_catalog_has_a_line(tmp_path: Path) -> None:
    file = tmp_path / "plans.toml"
    file.write_text(MISTAKES)
    lines = ended("catalog", "diff", str(file), "--data", str(tmp_path)).stderr.splitlines()
    assert [line.split(": ")[1] for line in lines] == [f"{file}:3", f"{file}:5"]
    assert all(line.startswith("quotagate: ") for line in lines)


def test_a_byte_order_mark_is_no_part_of_a_catalog(tmp_path: Path) -> None:
    file = tmp_path / "plans.toml"
    file.write_bytes(b"\xef\xbb\xbf" + CREDITS.encode())
    assert read_catalog(file) == parse_toml(CREDITS)
    file.write_bytes(b"\xef\xbb\xbf" + MISTAKES.encode() + b"\xff")
    with pytest.raises(Exception, match=r"plans\.toml:6: not UTF-8"):
        read_catalog(file)

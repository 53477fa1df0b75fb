"""README.md and docs/: every block of every page is run, or parsed, or says above it why not."""

import ast
import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from quota.catalog import parse_toml
from tests.docs.blocks import LANGUAGES, PAGES, UNSEEN, Block, blocks_of, has_own_system
from tests.docs.running import Shell, is_as_shown, mistakes_of, steps
from tests.system import ROOT, System
from tests.warm import warmed

CREDITS = ROOT / "examples" / "credits.toml"
SHELL = {"sh", "console", UNSEEN}
BRIEFEST_REASON = 20


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


RUN = [page for page in PAGES if any(each.language in SHELL and not each.not_run for each in blocks_of(page))]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    system = System(tmp_path_factory.mktemp("docs") / "data", catalog=CREDITS).start()
    yield system
    system.stop()


@pytest.fixture
def system(request: pytest.FixtureRequest, page: Path, tmp_path: Path) -> Iterator[System]:
    """A system under the catalog that `make up` starts with."""
    if has_own_system(page):
        system = System(tmp_path / "data", catalog=CREDITS).start()
        yield system
        system.stop()
        return
    shared: System = request.getfixturevalue("shared")
    with shared.client() as client:
        document = tomllib.loads(CREDITS.read_text(encoding="utf-8"))
        assert client.put("/v1/catalog", json=document).status_code == 200
    yield shared


@pytest.fixture
def shell(system: System, tmp_path: Path) -> Iterator[Shell]:
    shell = Shell(tmp_path / "reader", system, warmed())
    yield shell
    shell.close()


def parsed(block: Block, system: System | None = None) -> Any:
    """Raises what is wrong with a block that is no shell's."""
    match block.language:
        case "toml":
            document = tomllib.loads(block.text)
            return parse_toml(block.text) if "plans" in document else document
        case "json":
            return json.loads(block.text)
        case "yaml":
            return yaml.safe_load(block.text)
        case "python":
            return ast.parse(block.text)
        case "sql" if system is not None:
            with psycopg.connect(system.urls["database"]) as connection:
                connection.read_only = True
                return connection.execute(block.text.encode())
    return None


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_what_a_page_tells_to_type_does_what_the_page_says(page: Path, system: System, shell: Shell) -> None:
    for block in blocks_of(page):
        if block.not_run:
            continue
        where = f"{name_of(page)}:{block.line}"
        if block.file:
            shell.save(block.file, block.text)
        elif block.language in SHELL:
            mistakes = mistakes_of(shell, block)
            assert not mistakes, f"{where}: {mistakes}"
        else:
            parsed(block, system)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_of_a_page_is_something_and_is_run_or_parsed_or_says_why_not(page: Path) -> None:
    for block in blocks_of(page):
        where = f"{name_of(page)}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: say what it is: {sorted(LANGUAGES)}"
        if block.not_run:
            assert len(block.not_run) >= BRIEFEST_REASON, f"{where}: say in a sentence why it is not run"
            continue
        try:
            parsed(block)
        except (ValueError, SyntaxError, yaml.YAMLError) as error:
            pytest.fail(f"{where}: {error}")
        example = ROOT / "examples" / block.file
        if block.file and example.exists():
            assert block.text == example.read_text(encoding="utf-8"), f"{where}: not what examples/{block.file} is"


def test_sql_in_a_page_is_run_by_a_page_that_has_a_system() -> None:
    assert [
        name_of(page) for page in PAGES if page not in RUN and any(b.language == "sql" for b in blocks_of(page))
    ] == []


def test_a_shown_answer_may_leave_out_and_break_lines_and_be_of_another_day() -> None:
    printed = '{"used":1,"at":"2027-01-02T03:04:05.678Z","receipt":"3.1-17.1"}\n'
    assert is_as_shown('{"used":1,"at":"2026-11-22T22:02:01Z",\n "receipt":"49.1-0.1"}\n', printed)
    assert is_as_shown('{"used":1, …}', printed)
    assert not is_as_shown('{"used":2, …}', printed)
    assert not is_as_shown('{"used":1', printed)


def test_the_commands_of_a_console_block_are_told_from_what_they_print() -> None:
    assert steps("$ a \\\n  b\nout\n\n$ c\n") == [("a \\\n  b", "out\n\n"), ("c", "")]


def test_a_mark_holds_for_the_block_right_below_it_alone(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- not run: for a reason -->\n```sh\na\n```\n\n```sh\nb\n```\n<!-- file: c -->\n```toml\nd = 1\n```\n"
        "<!-- run unseen\ne\n-->\n"
    )
    found = [(each.language, each.text, each.not_run, each.file, each.line) for each in blocks_of(page)]
    assert found == [
        ("sh", "a\n", "for a reason", "", 2),
        ("sh", "b\n", "", "", 6),
        ("toml", "d = 1\n", "", "c", 10),
        (UNSEEN, "e\n", "", "", 13),
    ]

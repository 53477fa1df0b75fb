"""`quotagate ledger archive` and `verify` from a shell, with the stores of a running `quotagate up`."""

import json
from typing import Any

import pytest
from click.testing import CliRunner, Result

from quotagate.cli import main
from tests.integration.archiving import History
from tests.integration.replaying import as_owner


def command(history: History, *words: str) -> Result:
    """Its stores are those that `up` has kept in the folder."""
    urls = {"database": history.database.owner_url, "application_database": history.database.application_url}
    kept = {name: url.replace("+psycopg", "", 1) for name, url in urls.items()}
    (history.folder / "urls.json").write_text(json.dumps(kept))
    return CliRunner().invoke(main, ["ledger", *words, "--data", str(history.folder)], env={})


def document(result: Result, status: int = 0) -> dict[str, Any]:
    assert result.exit_code == status, result.output
    return dict(json.loads(result.output))


def test_months_are_archived_and_verified_from_a_shell(history: History) -> None:
    months = [f"{month:%Y-%m}" for month in history.months]
    out = str(history.folder / "months")
    told = document(command(history, "archive", "--before", months[2], "--out", out, "--json"))
    assert ([each["month"] for each in told["archived"]], told["dropped"]) == (months[:2], [])
    done = command(history, "archive", "--before", months[1], "--out", out, "--drop")
    assert done.output == f"{months[0]}: its table was dropped\n"
    verified = command(history, "verify")
    assert "0 differences" in verified.output
    assert (
        "16 entries compared, 32 in archives, 0 not linked yet; 32 archived entries are in the sums" in verified.output
    )
    with_archive = document(command(history, "verify", "--archive", out, "--json"))["result"]
    assert (with_archive["differing"], with_archive["carried"], with_archive["entries"]) == (0, 0, 48)
    replayed = command(history, "balance", "--tenant", "t", "--subject", "u", "--at", f"{months[0]}-20T00:00:00Z")
    assert (replayed.exit_code, "--archive DIR" in replayed.output) == (2, True)


@pytest.mark.parametrize(("before", "words"), [("2026-13", "a month must look like"), ("9999-01", "still written")])
def test_a_month_that_cannot_be_is_refused_in_plain_words(history: History, before: str, words: str) -> None:
    done = command(history, "archive", "--before", before, "--out", str(history.folder))
    assert (done.exit_code, words in done.output) == (2, True)


def test_heads_that_were_kept_find_a_chain_that_was_made_anew(history: History) -> None:
    kept = history.folder / "heads.json"
    kept.write_text(command(history, "verify", "--json").output)
    assert command(history, "verify", "--heads", str(kept)).exit_code == 0
    as_owner(history.database, "UPDATE entries SET reason = 'another' WHERE n = 3")
    found = command(history, "verify")
    assert (found.exit_code, "entry 3.1-3 of t u m was changed after it was linked (link 1)" in found.output) == (
        1,
        True,
    )
    as_owner(history.database, "DELETE FROM links WHERE seq > 0")
    history.settle()
    assert command(history, "verify").exit_code == 0
    found = command(history, "verify", "--heads", str(kept))
    assert (found.exit_code, "it is not the one that was made" in found.output) == (1, True)
    kept.write_text('{"3": {"seq": "one"}}')
    assert command(history, "verify", "--heads", str(kept)).exit_code == 2

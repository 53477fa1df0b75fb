"""Before a catalog is applied it is asked about, where somebody sees what the question is about."""

import click
import pytest

from quota.errors import Unsafe
from quotagate import catalog_running


def test_nobody_is_asked_about_what_json_has_not_shown_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(click, "confirm", lambda question, **_: asked.append(question) is None)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    catalog_running._ask(as_json=False)
    assert asked == ["Apply?"]
    with pytest.raises(Unsafe, match="look with --dry-run, then say --yes"):
        catalog_running._ask(as_json=True)
    assert asked == ["Apply?"]

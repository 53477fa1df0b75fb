"""`quotagate up --catalog FILE`: for a tenant that has no catalog yet; whatever was applied since is kept."""

import io
import json
from pathlib import Path

import pytest

from quota.catalog import Catalog, parse_json, parse_toml, to_document
from quotagate import banner, up
from tests.system import ROOT

CREDITS = ROOT / "examples" / "credits.toml"
APPLIED_SINCE = parse_toml((ROOT / "examples" / "builder.toml").read_text())


class Served:
    """What the gateway answers about a tenant's catalog."""

    def __init__(self, *versions: Catalog) -> None:
        self.versions = list(versions)

    def call(self, method: str, url: str, key: str | None = None, body: bytes | None = None) -> bytes:
        if method == "PUT":
            assert body is not None
            self.versions.append(parse_json(body))
        if url.endswith("/versions?limit=1"):
            return json.dumps({"items": [{"version": len(self.versions)}] if self.versions else []}).encode()
        return json.dumps(to_document(self.versions[-1] if self.versions else Catalog())).encode()


def started(served: Served, monkeypatch: pytest.MonkeyPatch, folder: Path) -> str:
    """The banner of a start with the catalog of credits."""
    monkeypatch.setattr(up, "_call", served.call)
    begun = up.Up({}, host=None, port=0, data=folder, catalog=CREDITS)
    catalog, kept = begun._apply_catalog("http://here", "key")
    out = io.StringIO()
    banner.show(out, address="http://here", admin_key="key", catalog=catalog, kept=kept, data=folder, took_s=1.0)
    return out.getvalue()


def test_the_first_start_applies_it_and_the_next_has_nothing_to_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    served = Served()
    first = started(served, monkeypatch, tmp_path)
    assert served.versions == [parse_toml(CREDITS.read_text())]
    assert started(served, monkeypatch, tmp_path) == first
    assert "kept" not in first and len(served.versions) == 1


def test_a_start_keeps_what_was_applied_since_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    served = Served(Catalog(), APPLIED_SINCE)
    told = started(served, monkeypatch, tmp_path)
    assert served.versions == [Catalog(), APPLIED_SINCE]
    assert "Catalog version 2 is kept: --catalog is for the first start, and would make " in told
    assert "`quotagate catalog apply FILE`" in told

"""The alerts that we hand out: each asks for metrics and labels that there are, and says what to do."""

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from gateway import metrics as of_gateways
from ledger import incidents
from tests.system import ROOT
from workers import metrics as of_workers

RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((ROOT / "examples/alerts.yaml").read_text(encoding="utf-8"))["groups"]
    for rule in group["rules"]
]
NAMED = re.compile(r"\b(quotagate_\w+)(?:\{([^}]*)\})?")


def series() -> dict[str, set[str]]:
    """Every name that /metrics can have, with its labels."""
    found: dict[str, set[str]] = {}
    for module in (of_gateways, of_workers):
        for metric in vars(module).values():
            if isinstance(metric, MetricWrapperBase):
                (family,) = metric.describe()
                endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
                for ending in endings:
                    found[family.name + ending] = {*metric._labelnames, *(["le"] if ending == "_bucket" else [])}
    return found


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_an_alert_asks_for_what_there_is_and_says_what_to_do(rule: dict[str, Any]) -> None:
    known, named = series(), NAMED.findall(rule["expr"])
    assert named, "it asks for nothing of ours"
    for name, matchers in named:
        assert name in known
        assert set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)) <= known[name]
    for grouped in re.findall(r"\bby \(([^)]*)\)", rule["expr"]):
        assert {each.strip() for each in grouped.split(",")} <= set().union(*(known[name] for name, _ in named))
    assert rule["expr"].count("(") == rule["expr"].count(")")
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"page", "ticket"}
    assert rule["annotations"]["summary"] and rule["annotations"]["description"][-1] in ".?"


def test_every_alert_has_a_name_of_its_own() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names) > 10


def test_the_page_for_people_on_call_has_every_alert_and_no_other() -> None:
    page = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| `(Quotagate\w+)` \| (\w+) \| .+ \|$", page, re.MULTILINE)
    assert told == [(rule["alert"], rule["labels"]["severity"]) for rule in RULES]


@pytest.mark.parametrize("metric", ["quotagate_incidents", "quotagate_mass_drift", "quotagate_drain_lag_seconds"])
def test_what_must_wake_somebody_has_an_alert(metric: str) -> None:
    assert any(metric in rule["expr"] for rule in RULES)


def test_the_labels_that_are_matched_have_those_values() -> None:
    from ledger.outages import _left

    for rule in RULES:
        for value in re.findall(r'what(?:!=|=)"(\w+)"', rule["expr"]):
            assert f"'{value}'" in str(_left)


def test_every_metric_of_ours_is_registered_under_our_name() -> None:
    names = set(series())
    assert names
    assert all(name.startswith("quotagate_") for name in names)
    assert {family.name for family in REGISTRY.collect() if family.name.startswith("quotagate_")} <= {
        re.sub(r"_(total|bucket|sum|count)$", "", name) for name in names
    }


PLACE_OF_KIND = {"add_incidents": 2, "_tell_of_loss": 2, "Loss": 1}


def kinds_in(path: Path) -> set[str]:
    """The kinds of incidents that a file writes down, where it names them itself."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        place = PLACE_OF_KIND.get(getattr(node.func, "attr", getattr(node.func, "id", "")))
        if place is not None:
            kind = node.args[place]
            found |= {each.value for each in ast.walk(kind) if isinstance(each, ast.Constant) and each.value}
            if isinstance(kind, ast.Name):
                for other in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                    if isinstance(other, ast.Assign) and getattr(other.targets[0], "id", "") == kind.id:
                        constants = [each for each in ast.walk(other.value) if isinstance(each, ast.Constant)]
                        found |= {str(each.value) for each in constants if each.value is not None}
    return {str(each) for each in found}


def test_every_kind_of_incident_says_what_to_do_and_is_counted() -> None:
    written = {
        kind
        for room in ("ledger", "workers", "gateway")
        for path in (ROOT / room).glob("*.py")
        for kind in kinds_in(path)
    }
    assert {"lost", "rewound", "gap", "mass_drift"} <= written
    assert written | {"clock"} == set(incidents.WHAT_TO_DO)

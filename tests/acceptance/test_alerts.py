"""The alerts that we hand out ask for what a running system says."""

import re

import httpx

from tests.system import ROOT, System, eventually


def test_a_running_system_says_whatever_the_alerts_ask_for(system: System) -> None:
    with system.client() as client:
        assert client.post("/v1/check", json={"subject": "u", "metric": "none"}).status_code in {200, 403, 404}
    wanted = set(re.findall(r"\bquotagate_\w+", (ROOT / "examples/alerts.yaml").read_text(encoding="utf-8")))

    def missing() -> set[str]:
        said = httpx.get(f"{system.urls['gateway']}/metrics").text
        return wanted - set(re.findall(r"^(quotagate_\w+)[ {]", said, re.MULTILINE))

    eventually(lambda: not missing(), f"it says {sorted(wanted)}", 90)
    assert len(wanted) > 10

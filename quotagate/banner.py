"""What `quotagate up` prints once it is ready: the address, the key, and requests to paste."""

import json
from pathlib import Path
from typing import TextIO

from quota.catalog import Catalog


def _curl(address: str, key: str, path: str, body: dict[str, object] | None = None, method: str = "POST") -> str:
    words = ["curl -sS", f"-H 'Authorization: Bearer {key}'"]
    if body is not None:
        if method != "POST":
            words.append(f"-X {method}")
        words.append(f"-d '{json.dumps(body)}'")
    return " ".join([*words, f"{address}{path}"])


def examples(catalog: Catalog) -> tuple[str | None, str | None, int]:
    """A plan to subscribe to first (None if a default one holds), a metric of it, and an amount that is denied."""
    plan = catalog.default_plan or next(iter(catalog.plans), None)
    limits = catalog.plans[plan].limits if plan is not None else {}
    # One that comes back every period is the better first example.
    for metric, limit in sorted(limits.items(), key=lambda item: item[1].period is None):
        if limit.limit and limit.enforcement == "hard":
            return (None if catalog.default_plan else plan), metric, limit.limit + 1
    return (None if catalog.default_plan else plan), next(iter(limits), None), 2**53 - 1


def show(
    out: TextIO, *, address: str, admin_key: str, catalog: Catalog, kept: str | None, data: Path, took_s: float
) -> None:
    """Prints it all; `kept` says that a catalog was given, and another holds."""
    plan, metric, too_many = examples(catalog)
    lines = [
        "",
        f"Quotagate is ready ({took_s:.1f} s).",
        "",
        f"  gateway    {address}",
        f"  admin key  {admin_key}",
        f"  data       {data}  (urls.json, logs/)",
        "",
    ]
    if kept is not None:
        lines += [kept, ""]
    if metric is None:
        lines += ["The catalog is empty: `quotagate catalog apply examples/credits.toml`, or PUT /v1/catalog.", ""]
    else:
        subject = "user_1"
        if plan is not None:
            body: dict[str, object] = {"plan": plan}
            path = f"/v1/subjects/{subject}/subscription"
            lines += [
                "# first, a plan: this catalog has no default one",
                _curl(address, admin_key, path, body, "PUT"),
                "",
            ]
        allowed: dict[str, object] = {"subject": subject, "metric": metric, "amount": 1}
        denied: dict[str, object] = {"subject": subject, "metric": metric, "amount": too_many}
        lines += [
            "# allowed",
            _curl(address, admin_key, "/v1/consume", allowed),
            "# denied",
            _curl(address, admin_key, "/v1/consume", denied),
            "# where the subject stands",
            _curl(address, admin_key, f"/v1/subjects/{subject}/status"),
            "",
        ]
    lines.append("Ctrl-C stops everything; the data stays.")
    out.write("\n".join(lines) + "\n")
    out.flush()

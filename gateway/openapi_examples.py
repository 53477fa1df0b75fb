"""Examples of answers, where the schema alone makes none that anybody would get: by the schema's name, the members that
are put in place of those made."""

from typing import Any

_KEY = {"id": "3f9c52d1a0be", "name": "checkout", "created_by": "cli", "last_used_at": "2026-11-22T10:00:00Z"}
_GIFT = {"from": "u_1", "to": "u_2", "amount": 5, "state": "given", "reason": "thanks"}
_LIMIT = {"limit": 100, "period": "month"}
_CATALOG = {
    "default_plan": "free",
    "metrics": {"credits": {"unit": "credit"}},
    "plans": {
        "free": {"limits": {"credits": {"limit": 30, "period": "month"}}},
        "pro": {"rank": 1, "limits": {"credits": _LIMIT}},
    },
}
_TIGHTER = {
    "path": "plans.free.limits.credits",
    "change": "35 → 30 a month",
    "tighter": True,
    "subjects": 212,
    "everybody_else": True,
    "over_limit": 31,
}
_ACT = {
    "act": "grant.given",
    "actor": "3f9c52d1a0be",
    "origin": "192.0.2.7",
    "object": "credits",
    "before": None,
    "after": {"amount": 20, "metric": "credits"},
}
_RUN = {"run_id": 1207, "accounts": 5310, "lag_ms": 12}

EXAMPLES_OF: dict[str, Any] = {
    "Readiness": {"parts": {"counters": "ok", "ledger": "ok"}},
    "ApiKey": _KEY,
    "NewApiKey": _KEY | {"last_used_at": None, "secret": "qg_3f9c52d1a0be_…"},
    "Act": _ACT,
    "Catalog": _CATALOG,
    "CatalogChange": {"version": 2, "applied": True, "changes": ["plans.free.limits.credits.limit: 35 -> 30"]},
    "CatalogEffect": _TIGHTER,
    "CatalogVersions": {"items": [{"version": 2, "applied_by": "cli", "reason": "dearer models", "changes": 1}]},
    "Gift": _GIFT,
    "GiftResult": _GIFT,
    "Grant": {"amount": 20, "remaining": 20},
    "PlanWithLimits": {"rank": 1, "limits": {"credits": _LIMIT}},
    "Reconciliation": _RUN,
    "RefundResult": {"refunded": 1, "refunded_total": 1, "charges": [{"refunded": 1, "refunded_total": 1}]},
}


def told(made: Any, words: Any) -> Any:
    """What was made, with these words in their places; of a list its one item."""
    if isinstance(made, dict) and isinstance(words, dict) and words.keys() <= made.keys():
        return made | {name: told(made[name], each) for name, each in words.items()}
    if isinstance(made, list) and isinstance(words, list):
        return [told(one, each) for one, each in zip(made, words, strict=True)]
    return words

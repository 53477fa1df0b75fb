"""The jobs that also run by themselves, as people ask for them: each a step that may be done twice."""

from typing import Any

from ledger.replay import Step, share
from quota.keys import AccountName
from workers.drain import Drain
from workers.rebuild import BEFORE_ALL, Rebuild, Scope
from workers.reconcile import Reconcile
from workers.reset import Reset
from workers.taking_up import Stepping

MAX_RESET_PASSES = 1_000
REBUILT_PAGES = 50
MAX_DRAINED_ENTRIES = 1_000_000
"""Of one asked-for drain: under full load there is always something more."""


WAIT_FOR_CLOSES_MS = 100


def stepping(drain: Drain, reconcile: Reconcile, rebuild: Rebuild, reset: Reset) -> dict[str, Stepping]:
    """By the names that `POST /v1/ops/jobs` knows them by."""

    def drain_step(_arguments: dict[str, Any], cursor: dict[str, Any] | None) -> Step:
        drained = drain.run_once().entries
        entries = drained + (cursor or {}).get("entries", 0)
        is_done = drained == 0 or entries >= MAX_DRAINED_ENTRIES
        return Step({"entries": entries}, 0.0, [], {"entries": entries} if is_done else None)

    def reconcile_step(_arguments: dict[str, Any], _cursor: dict[str, Any] | None) -> Step:
        return Step({}, 1.0, [], reconcile.run_once().to_document())

    def rebuild_step(arguments: dict[str, Any], cursor: dict[str, Any] | None) -> Step:
        before: dict[str, Any] = cursor or {
            "accounts": 0,
            "outcomes": {},
            "after": BEFORE_ALL,
            "estimated": rebuild.estimated_accounts(),
        }
        scope = Scope(arguments.get("tenant"), arguments.get("subject"))
        done = rebuild.run(scope, after=AccountName(*before["after"]), most_pages=REBUILT_PAGES)
        done.accounts += before["accounts"]
        done.outcomes.update(before["outcomes"])
        outcomes = dict(done.outcomes)
        if done.after is None:
            return Step({}, 1.0, [], {"accounts": done.accounts, "complete": done.is_complete, **outcomes})
        progress = share(done.accounts, before["estimated"])
        return Step(before | {"accounts": done.accounts, "outcomes": outcomes, "after": done.after}, progress)

    def reset_step(_arguments: dict[str, Any], cursor: dict[str, Any] | None) -> Step:
        before = cursor or {"passes": 0}
        done = reset.run_once()
        total = {name: count + before.get(name, 0) for name, count in done.to_document().items()}
        total |= {"passes": before["passes"] + 1, "waiting": done.waiting}
        # What was swept is sealed once the ledger has heard of it.
        is_done = done.waiting == 0 or total["passes"] >= MAX_RESET_PASSES
        if not is_done:
            drain.run_once(WAIT_FOR_CLOSES_MS)
        return Step(total, 0.0, [], total if is_done else None)

    return {"drain": drain_step, "reconcile": reconcile_step, "rebuild": rebuild_step, "reset": reset_step}

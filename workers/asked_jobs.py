"""The jobs that also run by themselves, as people ask for them: each a step that may be done twice."""

from typing import Any

from ledger.replay import Step
from workers.drain import Drain
from workers.rebuild import Rebuild, Scope
from workers.reconcile import Reconcile
from workers.taking_up import Stepping

MAX_DRAINED_ENTRIES = 1_000_000
"""Of one asked-for drain: under full load there is always something more."""


def stepping(drain: Drain, reconcile: Reconcile, rebuild: Rebuild) -> dict[str, Stepping]:
    """By the names that `POST /v1/ops/jobs` knows them by."""

    def drain_step(_arguments: dict[str, Any], cursor: dict[str, Any] | None) -> Step:
        drained = drain.run_once().entries
        entries = drained + (cursor or {}).get("entries", 0)
        is_done = drained == 0 or entries >= MAX_DRAINED_ENTRIES
        return Step({"entries": entries}, 0.0, [], {"entries": entries} if is_done else None)

    def reconcile_step(_arguments: dict[str, Any], _cursor: dict[str, Any] | None) -> Step:
        return Step({}, 1.0, [], reconcile.run_once().to_document())

    def rebuild_step(arguments: dict[str, Any], _cursor: dict[str, Any] | None) -> Step:
        done = rebuild.run(Scope(arguments.get("tenant"), arguments.get("subject")))
        return Step({}, 1.0, [], {"accounts": done.accounts, "complete": done.is_complete, **dict(done.outcomes)})

    return {"drain": drain_step, "reconcile": reconcile_step, "rebuild": rebuild_step}

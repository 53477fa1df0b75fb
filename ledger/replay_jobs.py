"""The jobs that read the ledger alone, by name. A command and a worker take the same steps."""

from collections.abc import Callable
from typing import Any

from sqlalchemy import Engine

from ledger import replay_balances, replay_export, replay_verification, simulation
from ledger.replay import Step

Stepping = Callable[[Engine, dict[str, Any], dict[str, Any] | None], Step]
"""Takes one bounded step: of which job is said by the arguments, and where it begins by the cursor, None at first."""

STEPPING: dict[str, Stepping] = {
    "verify": replay_verification.step,
    "replay": replay_balances.step,
    "export": replay_export.step,
    "simulate": simulation.step,
}

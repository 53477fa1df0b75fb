"""A shell in which `quotagate subject …` is run for one tenant."""

from typing import Any

from tests.conftest import Tenant
from tests.system import System

ACTS = "SELECT act, actor, reason FROM acts WHERE tenant = %s AND subject IS NOT NULL ORDER BY id"


class Shell:
    """`quotagate subject …` for one tenant; `run` gives status, standard output and standard error."""

    def __init__(self, system: System, tenant: Tenant) -> None:
        self._system = system
        self.tenant = tenant

    def run(self, *words: str) -> tuple[int, str, str]:
        where = ("--tenant", self.tenant.name, "--data", str(self._system.data))
        done = self._system.command("subject", *words, *where, check=False)
        return done.returncode, done.stdout, done.stderr

    def acts(self) -> list[tuple[Any, ...]]:
        return self._system.sql(ACTS, self.tenant.name)

"""Runs the shell blocks of a page, in order, in one folder and against one system, and compares what they print.

The pages say 127.0.0.1:8080, 8081 for a second system, and 9000 for the reader's program; here these are free ports.
`quotagate` and `python3` are those of the tests, and KEY is the first key, as the pages say that it is.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from quotagate.data_folder import free_port
from tests.docs.blocks import Block
from tests.system import ROOT, System, port_of
from tests.warm import CLIENT

BLOCK_AFTER_S = 60.0
_VARYING = [
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "INSTANT"),
    (re.compile(r"\b[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b"), "UUID"),
    (re.compile(r"\b\d+\.\d+-\d+(?:\.\d+)?\b"), "ENTRY"),
    (re.compile(r"\b([rt]=|retry_after_s\":)\d+"), r"\1N"),
    (re.compile(r"\d+ ms\b"), "N ms"),
]
"""What is another at each run, and which a page may show as it was once: no wildcard is needed for it."""


class Shell:
    """Where a page's blocks run; what a block exports, the next one has."""

    def __init__(self, folder: Path, system: System, warm: Path) -> None:
        self.folder = folder
        self._ports = {
            "8080": str(port_of(system.urls["gateway"])),
            "8081": str(free_port()),
            "9000": str(free_port()),
        }
        self._state = folder / ".state"
        self._groups: list[int] = []
        programs = folder / ".bin"
        programs.mkdir(parents=True)
        (programs / "client.py").write_text(CLIENT.format(path=str(warm)))
        python, client = shlex.quote(sys.executable), shlex.quote(str(programs / "client.py"))
        scripts = {
            "python3": f'exec {python} "$@"',
            # What stays is a process of the page's own, which ends with it.
            "quotagate": f'[ "$1" = up ] && exec {python} -m quotagate "$@"; exec {python} -I -S {client} "$@"',
        }
        for name, script in scripts.items():
            (programs / name).write_text(f"#!/bin/sh\n{script}\n")
            (programs / name).chmod(0o755)
        (folder / ".data").symlink_to(system.data)
        (folder / "examples").symlink_to(ROOT / "examples")
        self._environment = system.environment | {
            "KEY": system.admin_key,
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "LC_ALL": "C.UTF-8",
        }

    def save(self, name: str, text: str) -> None:
        (self.folder / name).write_text(self._with_our_ports(text), encoding="utf-8")

    def run(self, commands: str) -> tuple[int, str]:
        """Exit status and everything printed, of some lines of shell."""
        script = [
            f"set -a; [ -f {self._state} ] && . {self._state}",
            "set -e",
            self._with_our_ports(commands),
            f"{{ export -p; declare -f; }} > {self._state}",
        ]
        printed = self.folder / ".printed"
        with printed.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", "\n".join(script)],
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # what a block leaves running in the background is ended with the page
            )
            self._groups.append(process.pid)
            try:
                status = process.wait(BLOCK_AFTER_S)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                status = process.wait()
        return status, self._with_their_ports(printed.read_text(encoding="utf-8"))

    def close(self) -> None:
        """Ends what the page left running."""
        for group in self._groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)

    def _with_our_ports(self, text: str) -> str:
        for theirs, ours in self._ports.items():
            text = text.replace(f"127.0.0.1:{theirs}", f"127.0.0.1:{ours}")
            text = text.replace(f'"127.0.0.1", {theirs}', f'"127.0.0.1", {ours}').replace(
                f"-port {theirs}", f"-port {ours}"
            )
        return text

    def _with_their_ports(self, text: str) -> str:
        for theirs, ours in self._ports.items():
            text = text.replace(f"127.0.0.1:{ours}", f"127.0.0.1:{theirs}")
        return text


def steps(text: str) -> list[tuple[str, str]]:
    """The commands of a `console` block, each with what is shown below it; a line that ends in `\\` goes on."""
    found: list[tuple[str, str]] = []
    goes_on = False
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], ""))
        elif goes_on or line.startswith("> "):
            found[-1] = (f"{found[-1][0]}\n{line.removeprefix('> ')}", "")
        else:
            assert found, f"a console block begins with `$ `, not with {line!r}"
            found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
        goes_on = found[-1][1] == "" and found[-1][0].endswith("\\")
    return found


def _same_everywhere(text: str) -> str:
    for pattern, name in _VARYING:
        text = pattern.sub(name, text)
    return re.sub(r"\s+", "", text)  # pages break long lines


def is_as_shown(shown: str, printed: str) -> bool:
    """Whether it was printed; `…` stands for anything."""
    wanted = ".*".join(re.escape(part) for part in _same_everywhere(shown).split("…"))
    return re.fullmatch(wanted, _same_everywhere(printed), re.DOTALL) is not None


def mistakes_of(shell: Shell, block: Block) -> str:
    """What a shell block does otherwise than its page says; empty if nothing."""
    if block.language in {"sh", "unseen"}:
        status, printed = shell.run(block.text)
        return f"it ended with {status}:\n{printed}" if status else ""
    for command, shown in steps(block.text):
        _, printed = shell.run(command)
        if not is_as_shown(shown, printed):
            return f"$ {command}\nit printed\n{printed}\nand the page shows\n{shown}"
    return ""

"""A gateway that is replaced by a newer version while callers ask without a pause; every outcome is counted."""

import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import httpx

from tests.system import READY_AFTER_S, ROOT, System, eventually

ENDED_AFTER_S = 90.0
"""The newer one has to start beside all that asks."""
ROOMS = ("quotagate", "gateway", "workers", "ledger", "quota", "lua")
NEWER = '''"""A newer version has a table and columns more, in tables that an older one reads and writes."""

from alembic import op

revision = "9000"
down_revision = "{head}"

MORE = """
CREATE TABLE of_a_newer_version (id bigint PRIMARY KEY);
ALTER TABLE api_keys ADD COLUMN more text;
ALTER TABLE catalogs ADD COLUMN more integer NOT NULL DEFAULT 7;
ALTER TABLE subscriptions ADD COLUMN more text;
ALTER TABLE balances ADD COLUMN more text;
ALTER TABLE grants ADD COLUMN more text;
ALTER TABLE entries ADD COLUMN more text;
ALTER TABLE shards ADD COLUMN more text;
"""


def upgrade() -> None:
    op.execute(MORE)
'''


def newer_version(folder: Path) -> Path:
    """This very code with one more migration, in a folder of its own."""
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    versions = folder / "ledger/migrations/versions"
    head = max(path.name[:4] for path in versions.glob("[0-9]*.py"))
    (versions / "9000_a_newer_version.py").write_text(NEWER.format(head=head))
    return folder


class Replaceable:
    """`quotagate gateway` of one version or the other, on one address."""

    def __init__(self, system: System, port: int, **settings: str) -> None:
        self._system, self._port = system, port
        self._settings = settings
        self.url = f"http://127.0.0.1:{port}"

    def environment(self, **more: str) -> dict[str, str]:
        urls = self._system.urls
        own = {
            "port": str(self._port),
            "redis_url": urls["redis"],
            "database_url": urls["application_database"],
            "key_pepper": (self._system.data / "key.pepper").read_text().strip(),
            "deadline_ms": "10000",  # how fast Redis is on this machine is not looked at here
            "outage_dir": str(self._system.data / "outage-replaced"),
        }
        given = own | self._settings | more
        return self._system.environment | {f"QUOTAGATE_{name.upper()}": value for name, value in given.items()}

    def log(self, name: str) -> Path:
        return self._system.data / "logs" / f"{name}.log"

    def start(self, name: str, code: Path = ROOT) -> "subprocess.Popen[bytes]":
        """Starts one; it serves when its log says that it can be taken over in its turn."""
        with self.log(name).open("ab") as log:
            command = [sys.executable, "-m", "quotagate", "gateway"]
            return subprocess.Popen(command, cwd=code, env=self.environment(), stdout=log, stderr=log)

    def ready(self, name: str, process: "subprocess.Popen[bytes]") -> None:
        def is_ready() -> bool:
            assert process.poll() is None, self.log(name).read_text()[-4000:]
            with suppress(httpx.HTTPError):
                return httpx.get(f"{self.url}/health/ready", timeout=1).status_code == 200
            return False

        eventually(is_ready, f"{name} is ready", READY_AFTER_S)

    def migrate(self, code: Path) -> str:
        """As the owner, while others serve."""
        env = self.environment(owner_database_url=self._system.urls["database"])
        done = subprocess.run(
            [sys.executable, "-m", "quotagate", "migrate"],
            cwd=code, env=env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout


class Callers:
    """So many callers, each with one request under way: most over connections that they keep, some over a new one each
    time, and some who think a while between two. What comes of each request is counted."""

    def __init__(self, url: str, key: str, *, keeping: int = 2, anew: int = 1, thinking: int = 2) -> None:
        self.outcomes: Counter[str] = Counter()
        self._url, self._key = url, key
        self._lock, self._over = threading.Lock(), threading.Event()
        kinds = [(True, 0.01)] * keeping + [(False, 0.02)] * anew + [(True, 0.3)] * thinking
        self._threads = [threading.Thread(target=self._ask, args=kind) for kind in kinds]

    def __enter__(self) -> "Callers":
        for each in self._threads:
            each.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for each in self._threads:
            each.join(30)

    def asked(self) -> int:
        return self.outcomes.total()

    def _ask(self, keeps: bool, thinks_s: float) -> None:
        headers = {"authorization": f"Bearer {self._key}"} | ({} if keeps else {"connection": "close"})
        subject = f"u_{secrets.token_hex(4)}"
        with httpx.Client(base_url=self._url, headers=headers, timeout=10) as client:
            while not self._over.is_set():
                try:
                    answer = client.post("/v1/consume", json={"subject": subject, "metric": "calls"})
                    outcome = str(answer.status_code)
                except httpx.HTTPError as error:
                    outcome = type(error).__name__
                with self._lock:
                    self.outcomes[outcome] += 1
                self._over.wait(thinks_s)


def ended(process: "subprocess.Popen[bytes]") -> int:
    """Its exit status, once it is gone; killed if it does not go."""
    try:
        return process.wait(ENDED_AFTER_S)
    except subprocess.TimeoutExpired:
        process.kill()
        raise


def stopped(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        ended(process)

"""A Valkey and a PostgreSQL with an empty ledger, for what is measured without a gateway; and what they worked."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import structlog
from redis import Redis
from sqlalchemy import Engine, make_url

from bench.redis_load import work
from ledger.store import connect
from quotagate.data_folder import free_port
from quotagate.embedded import EmbeddedPostgres, valkey_part, valkey_url
from quotagate.parts import migrate
from quotagate.supervisor import Supervisor

SHARDS = 64
READY_AFTER_S = 30.0


@dataclass(frozen=True, slots=True)
class Spent:
    """CPU in seconds: of Redis's main thread, and of Postgres with all of its processes."""

    redis_s: float
    postgres_s: float

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.redis_s - other.redis_s, self.postgres_s - other.postgres_s)


@dataclass(frozen=True, slots=True)
class Stores:
    """`owner_url` is libpq's, `application_url` SQLAlchemy's."""

    redis_url: str
    owner_url: str
    application_url: str
    redis: "Redis"
    postgres: psutil.Process

    def engine(self) -> Engine:
        return connect(self.application_url, pool_size=2)

    def sql(self, *statements: str) -> None:
        """As the owner, each in a transaction of its own: VACUUM needs that."""
        with psycopg.connect(self.owner_url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    def spent(self) -> Spent:
        return Spent(work(self.redis).cpu_us / 1e6, _cpu_s_of_all(self.postgres))


def _cpu_s_of_all(server: psutil.Process) -> float:
    """With the processes that it has started, and those that have ended since."""
    own = server.cpu_times()
    spent: float = own.user + own.system + own.children_user + own.children_system
    for child in server.children():
        try:
            times = child.cpu_times()
        except psutil.NoSuchProcess:
            continue  # among those that have ended, the next time
        spent += times.user + times.system
    return spent


@contextmanager
def postgres(supervisor: Supervisor, folder: Path) -> Iterator[tuple[str, str]]:
    """An empty ledger: the owner's URL and the application's."""
    cluster = EmbeddedPostgres.prepare(folder / "postgres", folder / "postgres.log")
    port = free_port()
    supervisor.start(cluster.part(port))
    owner_url = cluster.owner_url(port)
    plain = owner_url.replace("+psycopg", "", 1)
    supervisor.wait_until("postgres", lambda: psycopg.connect(plain).close(), READY_AFTER_S)
    url = make_url(owner_url).set(username="application", password="measured")
    application_url = url.render_as_string(hide_password=False)
    migrate(owner_url, application_url, SHARDS)
    yield plain, application_url


@contextmanager
def stores() -> Iterator[Stores]:
    quieten()
    with tempfile.TemporaryDirectory(prefix="quotagate-bench-") as name, Supervisor() as supervisor:
        folder = Path(name)
        folder.chmod(0o711)  # Postgres may run as another user
        port = free_port()
        redis_url = valkey_url(port, "bench")
        supervisor.start(valkey_part(folder / "valkey", port, folder / "valkey.log", password="bench"))
        redis = Redis.from_url(redis_url)
        supervisor.wait_until("valkey", redis.ping, READY_AFTER_S)
        with postgres(supervisor, folder) as (owner_url, application_url):
            pid = supervisor.pid("postgres")
            assert pid is not None
            yield Stores(redis_url, owner_url, application_url, redis, psutil.Process(pid))
        redis.close()


def quieten() -> None:
    """No lines of log between the tables; warnings and errors are told."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))


@dataclass(frozen=True, slots=True)
class Worked:
    """What a job did in a process of its own: `count` entries or accounts, its own CPU, and the time that it rested."""

    count: int
    seconds: float
    cpu_s: float
    rested_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Measured:
    """A job with what it cost: microseconds of CPU an entry or account."""

    worked: Worked
    worker_us: float
    redis_us: float
    postgres_us: float

    @property
    def a_second(self) -> float:
        return self.worked.count / self.worked.seconds

    @property
    def a_second_without_rest(self) -> float:
        return self.worked.count / (self.worked.seconds - self.worked.rested_s)


def measured(found: Stores, job: Callable[[], Worked]) -> Measured:
    before = found.spent()
    worked = job()
    spent, each = found.spent() - before, 1e6 / worked.count
    return Measured(worked, worked.cpu_s * each, spent.redis_s * each, spent.postgres_s * each)

"""Jobs that people ask for and follow: what is to be done, how far it has come, and what came of it.

A worker claims a job for a while and says after every step how far it is; with each step the claim lasts anew. One that
was killed loses it, and another goes on at the job's cursor. Whoever has lost a claim is told at the next word.
"""

from typing import Any
from uuid import UUID

import msgspec
from sqlalchemy import Connection, insert, select, text

from ledger import acts
from ledger.acts import By
from ledger.job_table import jobs
from quota.errors import Conflict, NotFound, TooMany

CLAIM_LASTS_S = 30
"""Renewed every third of it while a step takes longer (workers/taking_up.py)."""
MAX_UNFINISHED_JOBS = 100
"""Of one tenant, of those that wait for workers. A job reads much of the ledger, and one at a time is done. What an
operator does is not counted: if its command is killed, nobody finishes it, and the next command has to work."""
MAX_CLAIMS = 10_000
"""A long job is laid down after some seconds, so that others have their turn. This is two days of work; one that was
taken up so often has killed its workers."""
FINISHED_ARE_KEPT_S = 30 * 86_400
MAX_FORGOTTEN = 1_000
MAX_ERROR_CHARACTERS = 1_000


class Job(msgspec.Struct, frozen=True):
    """`tenant` is that of the key which asked, ALL_TENANTS where an operator did. `claim` counts who took it up."""

    id: str
    tenant: str
    job: str
    arguments: dict[str, Any]
    state: str
    progress: float
    cursor: dict[str, Any] | None
    result: dict[str, Any] | None
    error: str | None
    claim: int

    def to_document(self) -> dict[str, Any]:
        """As `GET /v1/ops/jobs/{id}` shows it."""
        return {
            "id": self.id,
            "job": self.job,
            "state": self.state,
            "progress": self.progress,
            "result": self.result,
            "error": self.error,
        }


_COLUMNS = (
    *(jobs.c.id, jobs.c.tenant, jobs.c.job, jobs.c.arguments, jobs.c.state, jobs.c.progress),
    *(jobs.c.cursor, jobs.c.result, jobs.c.error, jobs.c.tries),
)


def _job(row: Any) -> Job:
    name, *others = row
    return Job(str(name), *others)


_waiting = text("SELECT count(*) FROM jobs WHERE tenant = :tenant AND finished_at IS NULL AND next_try_at < 'infinity'")


def add(connection: Connection, tenant: str, job: str, arguments: dict[str, Any], by: By) -> Job:
    """Queues a job for the workers. TooMany."""
    if connection.execute(_waiting, {"tenant": tenant}).scalar_one() >= MAX_UNFINISHED_JOBS:
        raise TooMany(f"{MAX_UNFINISHED_JOBS} jobs are not finished yet: ask again when some are")
    values = {"tenant": tenant, "job": job, "arguments": arguments, "requested_by": by.actor}
    made = _job(connection.execute(insert(jobs).values(values).returning(*_COLUMNS)).one())
    note_asked(connection, tenant, by, job, {"id": made.id} | arguments)
    return made


def note_asked(connection: Connection, tenant: str, by: By, job: str, arguments: dict[str, Any]) -> None:
    """Keeps in the audit log that a job was asked for: of the tenant that it is about, if it is about one. A catalog to
    be tried is left out: it is large, and the job has it."""
    told = {name: value for name, value in arguments.items() if name != "catalog"}
    about, subject = arguments.get("tenant", tenant), arguments.get("subject")
    acts.note(connection, about, by, "job.asked", subject=subject, object=job, after=told)


def read(connection: Connection, job_id: str) -> Job | None:
    """The job, None if there is none of that name in the scope of this transaction."""
    try:
        wanted = UUID(job_id)
    except ValueError:
        return None
    row = connection.execute(select(*_COLUMNS).where(jobs.c.id == wanted)).one_or_none()
    return None if row is None else _job(row)


_claim = text(
    """
    UPDATE jobs SET state = 'running', started_at = coalesce(started_at, now()), tries = tries + 1,
                    next_try_at = now() + make_interval(secs => :lasts_s)
    WHERE id = (
        SELECT id FROM jobs WHERE finished_at IS NULL AND next_try_at <= now()
        ORDER BY next_try_at LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING id, tenant, job, arguments, state, progress, cursor, result, error, tries
    """
)


def claim(connection: Connection) -> Job | None:
    """The job that has waited longest, for whoever asks; None if none waits."""
    row = connection.execute(_claim, {"lasts_s": CLAIM_LASTS_S}).one_or_none()
    return None if row is None else _job(row)


# What is an operator's own waits for no worker: its claim never ends.
_take = text(
    """
    UPDATE jobs SET state = 'running', started_at = coalesce(started_at, now()), tries = tries + 1,
                    next_try_at = 'infinity'
    WHERE id = CAST(:id AS uuid) AND finished_at IS NULL
      AND (state = 'queued' OR next_try_at <= now() OR next_try_at = 'infinity')
    RETURNING id, tenant, job, arguments, state, progress, cursor, result, error, tries
    """
)


def take(connection: Connection, job_id: str) -> Job:
    """One job, for an operator who does it in place of the workers; one that is finished is only read. NotFound;
    Conflict while a worker does it."""
    found = read(connection, job_id)
    if found is None:
        raise NotFound(f"there is no job {job_id}")
    if found.state in {"done", "failed"}:
        return found
    row = connection.execute(_take, {"id": job_id}).one_or_none()
    if row is None:
        raise Conflict(f"a worker does the job {job_id} now: look at it with GET /v1/ops/jobs/{job_id}")
    return _job(row)


_advance = text(
    """
    UPDATE jobs SET progress = :progress, cursor = CAST(:cursor AS jsonb),
                    next_try_at = greatest(next_try_at, now() + make_interval(secs => :lasts_s))
    WHERE id = CAST(:id AS uuid) AND tries = :claim AND finished_at IS NULL
    """
)


def advance(connection: Connection, job: Job, progress: float, cursor: dict[str, Any]) -> bool:
    """Says how far the job has come; False if somebody else has taken it up meanwhile."""
    document = msgspec.json.encode(cursor).decode()
    values = {"progress": progress, "cursor": document, "lasts_s": CLAIM_LASTS_S}
    return connection.execute(_advance, values | _claimed(job)).rowcount == 1


_renew = text(
    """
    UPDATE jobs SET next_try_at = greatest(next_try_at, now() + make_interval(secs => :lasts_s))
    WHERE id = CAST(:id AS uuid) AND tries = :claim AND finished_at IS NULL
    """
)


def renew(connection: Connection, job: Job) -> bool:
    """Lets the claim last anew; False if somebody else has it."""
    return connection.execute(_renew, {"lasts_s": CLAIM_LASTS_S} | _claimed(job)).rowcount == 1


_lay_down = text(
    """
    UPDATE jobs SET next_try_at = now()
    WHERE id = CAST(:id AS uuid) AND tries = :claim AND finished_at IS NULL AND next_try_at < 'infinity'
    """
)


def lay_down(connection: Connection, job: Job) -> None:
    """Gives the claim up, behind all jobs that wait by now."""
    connection.execute(_lay_down, _claimed(job))


_end = text(
    """
    UPDATE jobs SET state = :state, progress = CASE :state WHEN 'done' THEN 1 ELSE progress END, cursor = NULL,
                    result = CAST(:result AS jsonb), error = :error, finished_at = now()
    WHERE id = CAST(:id AS uuid) AND tries = :claim AND finished_at IS NULL
    """
)


def finish(connection: Connection, job: Job, result: dict[str, Any]) -> bool:
    """Keeps what came of it; False if somebody else has taken it up meanwhile."""
    document = msgspec.json.encode(result).decode()
    values = {"state": "done", "result": document, "error": None}
    return connection.execute(_end, values | _claimed(job)).rowcount == 1


def fail(connection: Connection, job: Job, error: str) -> bool:
    """Ends it with a sentence that says why; False if somebody else has taken it up meanwhile."""
    values = {"state": "failed", "result": None, "error": error[:MAX_ERROR_CHARACTERS]}
    return connection.execute(_end, values | _claimed(job)).rowcount == 1


def _claimed(job: Job) -> dict[str, Any]:
    return {"id": job.id, "claim": job.claim}


_forget = text(
    """
    DELETE FROM jobs WHERE id IN (
        SELECT id FROM jobs
        WHERE finished_at < now() - make_interval(secs => :age_s)
           OR (finished_at IS NULL AND next_try_at = 'infinity' AND started_at < now() - make_interval(secs => :age_s))
        LIMIT :most FOR UPDATE SKIP LOCKED
    )
    """
)


def forget(connection: Connection) -> int:
    """Deletes jobs that were finished long ago, and those that an operator left long ago; how many rows, at most
    MAX_FORGOTTEN."""
    return connection.execute(_forget, {"age_s": FINISHED_ARE_KEPT_S, "most": MAX_FORGOTTEN}).rowcount

"""From pending to an end: every change to a claimed job holds only while the claim does."""

import uuid
from collections.abc import Sequence

from speakeasyd.domain.job import Job, JobId, Signature, Suspect, Token
from speakeasyd.domain.options import Options
from speakeasyd.errors import NotYours
from speakeasyd.ledger.writer import Transaction

CLAIMABLE = """
    status = 'pending' AND available_at <= :now
    AND inbox IN (SELECT value FROM json_each(:inboxes))
    AND NOT EXISTS (SELECT 1 FROM jobs twin
        WHERE twin.sha256 = jobs.sha256 AND twin.status = 'processing' AND jobs.duplicates = 'reuse')
"""
NEXT_MODEL = f"SELECT model_wanted FROM jobs WHERE {CLAIMABLE} ORDER BY priority DESC, id LIMIT 1"  # noqa: S608 - no input
CANDIDATES = f"""
SELECT id, sha256 FROM jobs WHERE {CLAIMABLE} AND model_wanted = :model ORDER BY priority DESC, id LIMIT :limit
"""  # noqa: S608 - no input
CLAIM = """
UPDATE jobs SET status = 'processing', claim_token = :token, boot_id = :boot_id, attempts = attempts + 1,
    started_at = coalesce(started_at, :now), error_code = NULL, error = NULL
WHERE id = :id AND status = 'pending'
RETURNING id, inbox, path_raw, size, mtime_ns, inode, options, preset, language, transcribed_at, attempts, crashes,
    sha256, recipe, duplicates
"""
ATTEMPT = """
INSERT INTO attempts (job_id, claim_token, boot_id, started_at) VALUES (:id, :token, :boot_id, :now)
"""
CHUNKS = "SELECT idx, start_s, end_s, status, strikes FROM chunks WHERE job_id = :id ORDER BY idx"
MINE = "id = :id AND claim_token = :token AND status = 'processing'"


async def claim(tx: Transaction, limit: int, *, model: str, inboxes: str) -> list[Job]:
    found = await tx.execute(CANDIDATES, {"now": tx.now, "model": model, "inboxes": inboxes, "limit": limit})
    jobs, taken = [], set()
    for job_id, digest in found.all():
        if digest not in taken:  # its twin goes first and lends it the transcript
            taken.add(digest)
            jobs.append(await _claim(tx, job_id))
    return jobs


async def _claim(tx: Transaction, job_id: int) -> Job:
    token = Token(uuid.uuid4().hex)
    values = {"id": job_id, "token": token, "boot_id": tx.boot_id, "now": tx.now}
    row = (await tx.execute(CLAIM, values)).one()
    await tx.execute(ATTEMPT, values)
    transcribed = row.transcribed_at is not None
    if not transcribed and row.duplicates == "reuse":
        transcribed = await _borrow(tx, job_id, row.sha256, row.recipe)
    chunks = (await tx.execute(CHUNKS, {"id": job_id})).all()
    tx.tell("job.claimed", JobId(job_id), attempt=row.attempts)
    return Job(
        id=JobId(job_id),
        token=token,
        inbox=row.inbox,
        path=bytes(row.path_raw),
        signature=Signature(row.size, row.mtime_ns, row.inode),
        options=Options.model_validate_json(row.options),
        preset=row.preset,
        language=row.language,
        done=frozenset(chunk.idx for chunk in chunks if chunk.status != "suspect"),
        transcribed=transcribed,
        suspects=tuple(Suspect(c.idx, c.start_s, c.end_s, c.strikes) for c in chunks if c.status == "suspect"),
        attempts=row.attempts,
        crashes=row.crashes,
    )


LENDER = """
SELECT id, language, language_probability, model, device, audio_seconds, warning FROM jobs
WHERE sha256 = :sha256 AND recipe = :recipe AND status = 'completed' ORDER BY id LIMIT 1
"""
BORROW = (
    "DELETE FROM chunks WHERE job_id = :id",
    """
    INSERT INTO chunks (job_id, idx, channel, start_s, end_s, status, strikes, redone, compute_s, committed_at)
    SELECT :id, idx, channel, start_s, end_s, status, strikes, redone, 0, :now FROM chunks WHERE job_id = :lender
    """,
    """
    INSERT INTO segments (job_id, chunk_idx, channel, start_s, end_s, text, words,
        avg_logprob, compression_ratio, no_speech_prob)
    SELECT :id, chunk_idx, channel, start_s, end_s, text, words, avg_logprob, compression_ratio, no_speech_prob
    FROM segments WHERE job_id = :lender ORDER BY id
    """,
    """
    UPDATE jobs SET language = :language, language_probability = :language_probability, model = :model, device = :device,
        audio_seconds = :audio_seconds, warning = :warning, duplicate_of = :lender, transcribed_at = :now, progress = 1
    WHERE id = :id
    """,
)


async def _borrow(tx: Transaction, job_id: int, sha256: str, recipe: str) -> bool:
    """Take the transcript of a completed job over the same bytes with the same options, if there is one."""
    lender = (await tx.execute(LENDER, {"sha256": sha256, "recipe": recipe})).mappings().first()
    if lender is None:
        return False
    values = {**lender, "lender": lender["id"], "id": job_id, "now": tx.now}
    for statement in BORROW:
        await tx.execute(statement, values)
    return True


async def note(tx: Transaction, job_id: JobId, token: Token, **known: object) -> None:
    """Set what became known of a job in work; None leaves a column as it is."""
    values = {column: value for column, value in known.items() if value is not None}
    container = values.pop("container_seconds", None)
    if container is not None:
        values["audio_seconds"] = container
    if values:
        assignments = ", ".join(f"{column} = :{column}" for column in values)
        await _mine(tx, f"UPDATE jobs SET {assignments} WHERE {MINE}", {**values, "id": job_id, "token": token})
    if "model" in values:
        await tx.execute(
            "UPDATE attempts SET model = :model, device = :device WHERE claim_token = :token",
            {"model": values["model"], "device": values.get("device"), "token": token},
        )


async def strike(tx: Transaction, job_id: JobId, token: Token, index: int, start: float, end: float) -> int:
    await owned(tx, job_id, token)
    row = await tx.execute(
        """
        INSERT INTO chunks (job_id, idx, start_s, end_s, status, strikes, committed_at)
        VALUES (:id, :idx, :start, :end, 'suspect', 1, :now)
        ON CONFLICT (job_id, idx) DO UPDATE SET strikes = strikes + 1 RETURNING strikes
        """,
        {"id": job_id, "idx": index, "start": start, "end": end, "now": tx.now},
    )
    strikes: int = row.scalar_one()
    tx.tell("chunk.struck", job_id, chunk=index, strikes=strikes)
    return strikes


async def transcribed(
    tx: Transaction, job_id: JobId, token: Token, *, audio_seconds: float, warning: str | None
) -> None:
    await _mine(
        tx,
        f"UPDATE jobs SET transcribed_at = :now, progress = 1, audio_seconds = :audio_seconds, warning = :warning "
        f"WHERE {MINE}",
        {"id": job_id, "token": token, "now": tx.now, "audio_seconds": audio_seconds, "warning": warning},
    )
    tx.tell("job.transcribed", job_id)


async def release(
    tx: Transaction,
    job_id: JobId,
    token: Token,
    *,
    available_at: str | None = None,
    error_code: str | None = None,
    error: str | None = None,
    crash: bool = False,
    counts: bool = True,
) -> None:
    await _mine(
        tx,
        f"UPDATE jobs SET status = 'pending', claim_token = NULL, available_at = :at, error_code = :error_code, "
        f"error = :error, crashes = crashes + :crash, attempts = attempts - :back WHERE {MINE}",
        {
            "id": job_id,
            "token": token,
            "at": available_at or tx.now,
            "error_code": error_code,
            "error": error,
            "crash": int(crash),
            "back": int(not counts),
        },
    )
    await _end_attempt(tx, token, "crashed" if crash else "released", error_code, error)
    tx.tell("job.released", job_id, error_code=error_code, error=error, available_at=available_at)


async def fail(tx: Transaction, job_id: JobId, token: Token, *, code: str, error: str) -> None:
    await _mine(
        tx,
        f"UPDATE jobs SET status = 'failed', claim_token = NULL, finished_at = :now, error_code = :code, error = :error "
        f"WHERE {MINE}",
        {"id": job_id, "token": token, "now": tx.now, "code": code, "error": error},
    )
    await _end_attempt(tx, token, "failed", code, error)
    tx.tell("job.failed", job_id, error_code=code, error=error)


async def complete(tx: Transaction, job_id: JobId, token: Token) -> None:
    await _mine(
        tx,
        f"UPDATE jobs SET status = 'completed', claim_token = NULL, finished_at = :now, progress = 1 WHERE {MINE}",
        {"id": job_id, "token": token, "now": tx.now},
    )
    await _end_attempt(tx, token, "completed", None, None)
    tx.tell("job.completed", job_id)


async def owned(tx: Transaction, job_id: JobId, token: Token) -> None:
    if (await tx.execute(f"SELECT 1 FROM jobs WHERE {MINE}", {"id": job_id, "token": token})).first() is None:
        raise NotYours(f"job {job_id} is no longer claimed by {token}")


async def _mine(tx: Transaction, sql: str, values: dict[str, object]) -> None:
    if (await tx.execute(sql, values)).rowcount == 0:
        raise NotYours(f"job {values['id']} is no longer claimed by {values['token']}")


async def _end_attempt(tx: Transaction, token: Token, outcome: str, code: str | None, error: str | None) -> None:
    await tx.execute(
        "UPDATE attempts SET finished_at = :now, outcome = :outcome, error_code = :code, error = :error "
        "WHERE claim_token = :token",
        {"now": tx.now, "outcome": outcome, "code": code, "error": error, "token": token},
    )


async def recover(tx: Transaction) -> Sequence[int]:
    """Take back at once what an earlier life of the daemon had claimed. Committed chunks stay."""
    rows = await tx.execute(
        "UPDATE jobs SET status = 'pending', claim_token = NULL, available_at = :now "
        "WHERE status = 'processing' AND boot_id <> :boot_id RETURNING id",
        {"now": tx.now, "boot_id": tx.boot_id},
    )
    ids = [job_id for (job_id,) in rows.all()]
    await tx.execute(
        "UPDATE attempts SET finished_at = :now, outcome = 'interrupted' WHERE finished_at IS NULL AND boot_id <> :boot_id",
        {"now": tx.now, "boot_id": tx.boot_id},
    )
    for job_id in ids:
        tx.tell("job.recovered", job_id)
    return ids

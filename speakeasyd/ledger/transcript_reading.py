"""Reads whole transcripts for programs beside the daemon."""

from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.pool import StaticPool

from speakeasyd.domain.job import JobId
from speakeasyd.domain.transcript import Transcript
from speakeasyd.ledger.publication import load_transcript
from speakeasyd.ledger.readonly import open_snapshot


def read_transcript(path: Path, job_id: int) -> Transcript:
    """Return the transcript as `load_transcript` does. Blocks.

    Raises LedgerError for an unknown job, or if the ledger cannot be read.
    """
    with open_snapshot(path) as snapshot:
        engine = create_engine("sqlite://", creator=lambda: snapshot, poolclass=StaticPool)
        with engine.connect() as connection:
            return load_transcript(connection, JobId(job_id))

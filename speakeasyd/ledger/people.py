"""Known people and the samples of their voices: biometric data, changed only when a user asks for it."""

from dataclasses import asdict, dataclass, replace

from sqlalchemy import Connection, delete, func, insert, select, update

from speakeasyd.domain.diarization import MODEL
from speakeasyd.domain.job import JobId, Status
from speakeasyd.errors import SpeakeasyError
from speakeasyd.ledger.speakers import publish_again, store_speakers
from speakeasyd.ledger.tables import jobs, people, voice_samples
from speakeasyd.ledger.text_columns import parse_speakers
from speakeasyd.ledger.writer import Transaction

LONGEST_NAME = 100  # characters


@dataclass(frozen=True, slots=True)
class VoiceSample:
    """A sample of a person's voice."""

    source: str  # a file's name, or a job and its speaker
    seconds: float  # of speech
    embedding: bytes
    model: str = MODEL


@dataclass(frozen=True, slots=True)
class Person:
    """A known person."""

    id: int
    name: str
    created_at: str
    samples: tuple[VoiceSample, ...] = ()

    def describe(self) -> dict[str, object]:
        """Return what is known, without the embeddings, which say nothing to a reader."""
        return {
            "name": self.name,
            "created_at": self.created_at,
            "samples": [
                {"source": sample.source, "seconds": sample.seconds, "model": sample.model}
                for sample in self.samples
            ],
        }


def load_people(connection: Connection) -> list[Person]:
    """Return all known people by name, each with all samples."""
    samples: dict[int, list[VoiceSample]] = {}
    for row in connection.execute(select(voice_samples).order_by(voice_samples.c.id)):
        sample = VoiceSample(row.source, row.seconds, row.embedding, row.model)
        samples.setdefault(row.person_id, []).append(sample)
    rows = connection.execute(select(people).order_by(people.c.name))
    return [
        Person(row.id, row.name, row.created_at, tuple(samples.get(row.id, ()))) for row in rows
    ]


def add_voice_sample(
    tx: Transaction, name: str, sample: VoiceSample, *, speaker: tuple[JobId, int] | None = None
) -> int:
    """Add a sample to a person, who is created if needed. Returns the person's id.

    `speaker`: a job and the number of its speaker whose voice it is; if that speaker has this name,
    it is this person from now on.
    """
    name = check_name(name)
    person = tx.connection.scalar(select(people.c.id).where(people.c.name == name))
    if person is None:
        created = insert(people).values(name=name, created_at=tx.now).returning(people.c.id)
        person = tx.connection.execute(created).scalar_one()
    tx.connection.execute(
        insert(voice_samples).values(person_id=person, added_at=tx.now, **asdict(sample))
    )
    if speaker is not None:
        _link_speaker(tx, *speaker, name=name, person=int(person))
    return int(person)


def _link_speaker(tx: Transaction, job_id: JobId, number: int, *, name: str, person: int) -> None:
    speakers = parse_speakers(
        tx.connection.scalar(select(jobs.c.speakers).where(jobs.c.id == job_id))
    )
    linked = [
        replace(one, person=person) if (one.number, one.name) == (number, name) else one
        for one in speakers
    ]
    store_speakers(tx, job_id, linked)


def rename_person(tx: Transaction, name: str, new: str) -> list[int]:
    """Rename a person, also in the speakers of jobs. Returns the jobs.

    Raises SpeakeasyError for an unknown person, and if another one has the new name.
    """
    person = _find_person(tx.connection, name)
    new = check_name(new)
    if tx.connection.scalar(select(people.c.id).where(people.c.name == new, people.c.id != person)):
        raise SpeakeasyError(
            f"there is a person {new!r} already", hint="`speakeasyd people merge` joins two."
        )
    tx.connection.execute(update(people).where(people.c.id == person).values(name=new))
    return _update_speakers(tx, person, person, new)


def merge_people(tx: Transaction, name: str, into: str) -> list[int]:
    """Give the samples of one person to another one, and forget the first. Returns the changed jobs.

    Raises SpeakeasyError for an unknown person.
    """
    gone, kept = _find_person(tx.connection, name), _find_person(tx.connection, into)
    if gone == kept:
        raise SpeakeasyError("a person cannot be merged with itself")
    tx.connection.execute(
        update(voice_samples).where(voice_samples.c.person_id == gone).values(person_id=kept)
    )
    tx.connection.execute(delete(people).where(people.c.id == gone))
    return _update_speakers(tx, gone, kept, into)


def forget_person(tx: Transaction, name: str) -> int:
    """Delete a person with all samples. Names in transcripts stay. Returns how many samples.

    Raises SpeakeasyError for an unknown person.
    """
    person = _find_person(tx.connection, name)
    count = tx.connection.scalar(select(func.count()).where(voice_samples.c.person_id == person))
    # Else the samples would stay readable in free pages of the file.
    tx.connection.exec_driver_sql("PRAGMA secure_delete = ON")
    try:
        tx.connection.execute(delete(people).where(people.c.id == person))
    finally:
        tx.connection.exec_driver_sql("PRAGMA secure_delete = OFF")
    _update_speakers(tx, person, None, name)
    return int(count or 0)


def check_name(name: str) -> str:
    """Return the name without white space around it. Raises SpeakeasyError if it cannot be one."""
    name = " ".join(name.split())
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise SpeakeasyError(
            f"{name[:LONGEST_NAME]!r} cannot be a name",
            hint=f"A name has 1 to {LONGEST_NAME} printable characters.",
        )
    return name


def _find_person(connection: Connection, name: str) -> int:
    person = connection.scalar(select(people.c.id).where(people.c.name == name))
    if person is None:
        raise SpeakeasyError(
            f"there is no person {name!r}", hint="`speakeasyd people list` lists them."
        )
    return int(person)


def _update_speakers(tx: Transaction, person: int, becomes: int | None, name: str) -> list[int]:
    """Change a person's name and id in the speakers of all jobs. Returns the changed jobs.

    Transcripts in which the name changes are published again.
    """
    columns = select(jobs.c.id, jobs.c.status, jobs.c.superseded_by, jobs.c.speakers).where(
        jobs.c.speakers.contains('"person": ')
    )
    changed: list[int] = []
    for job in tx.connection.execute(columns).all():
        speakers = parse_speakers(job.speakers)
        if all(speaker.person != person for speaker in speakers):
            continue
        new = [
            replace(speaker, person=becomes, name=name) if speaker.person == person else speaker
            for speaker in speakers
        ]
        is_renamed = [one.name for one in new] != [one.name for one in speakers]
        if is_renamed and job.status == Status.COMPLETED and job.superseded_by is None:
            publish_again(tx, job.id, new)
        else:
            store_speakers(tx, job.id, new)
        changed.append(int(job.id))
    return changed

"""Recognises known people by the embeddings of their voices. Pure.

Imported when needed, because numpy is large.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from speakeasyd.domain.diarization import MODEL, ChunkSpeakers, LocalKey, Speaker
from speakeasyd.domain.speaker_clustering import Array, decode_embedding

CERTAIN = 0.62  # cosine similarity from which a speaker gets a person's name
POSSIBLE = 0.52  # cosine similarity from which a person is suggested
MARGIN = 0.05  # by which a person must be more similar than the next one


@dataclass(frozen=True, slots=True)
class KnownPerson:
    """A person whose voice was stored."""

    id: int
    name: str
    samples: tuple[bytes, ...]  # embeddings of `diarization.MODEL`


def average_speakers(
    chunks: Sequence[tuple[int, ChunkSpeakers]], numbers: Mapping[LocalKey, int]
) -> dict[int, Array]:
    """Return the mean embedding of each speaker, by number, of unit length."""
    sums: dict[int, Array] = {}
    for index, found in chunks:
        if found.model != MODEL:
            continue
        for local, speaker in enumerate(found.speakers):
            if number := numbers.get(LocalKey(index, local)):
                weighted = decode_embedding(speaker.embedding) * np.float32(speaker.seconds + 1e-3)
                sums[number] = sums[number] + weighted if number in sums else weighted
    return {number: total / np.linalg.norm(total) for number, total in sums.items()}


def measure_similarity(embedding: Array, person: KnownPerson) -> float:
    """Return the cosine similarity to the best sample of a person, or to their mean."""
    samples = np.stack([decode_embedding(sample) for sample in person.samples])
    mean = samples.mean(0)
    return max(float((samples @ embedding).max()), float(embedding @ mean / np.linalg.norm(mean)))


def recognise_speakers(
    embeddings: Mapping[int, Array], people: Sequence[KnownPerson]
) -> dict[int, Speaker]:
    """Return the speakers, by number, that are or may be known people.

    The most similar pair is named first, and each person is given once. A speaker who is similar to
    two people is not named.
    """
    scores = {
        number: sorted(
            ((measure_similarity(embedding, person), -person.id, person) for person in people),
            key=lambda score: score[:2],
            reverse=True,
        )
        for number, embedding in embeddings.items()
        if people
    }
    found: dict[int, Speaker] = {}
    taken: set[int] = set()
    for number in sorted(scores, key=lambda number: (-scores[number][0][0], number)):
        free = [score for score in scores[number] if score[2].id not in taken]
        if not free:
            continue
        similarity, _, person = free[0]
        is_clear = len(free) < 2 or similarity - free[1][0] >= MARGIN
        speaker = Speaker(number, similarity=round(similarity, 4))
        if similarity >= CERTAIN and is_clear:
            found[number] = replace(speaker, name=person.name, person=person.id)
            taken.add(person.id)
        elif similarity >= POSSIBLE:
            found[number] = replace(speaker, suggestion=person.name)
    return found

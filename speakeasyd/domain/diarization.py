"""Diarization (who spoke when): what is known about the speakers of a chunk and of a file.

A local speaker is a speaker within one chunk, numbered from 0. A speaker belongs to a whole file
and is numbered from 1.
"""

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

MODEL = "campplus-zh-en"
"""Of the embeddings. Embeddings of different models are never compared."""
CHANNEL = "channel:"
"""In place of a model, before a channel's name: the channel is one speaker without an embedding."""


@dataclass(frozen=True, slots=True)
class SpeakerTurn:
    """A stretch in which one speaker talks."""

    start: float  # seconds in the file
    end: float  # seconds in the file
    speaker: int  # of a chunk: the local speaker; of a file: the speaker's number
    overlap: bool = False  # spoken while another speaker has the floor
    track: int | None = None  # audio track, from 1; None unless several are transcribed apart


@dataclass(frozen=True, slots=True)
class LocalSpeaker:
    """A speaker of one chunk."""

    seconds: float  # of speech
    embedding: bytes  # float16, little-endian, of unit length; empty if each channel is a speaker


@dataclass(frozen=True, slots=True)
class ChunkSpeakers:
    """The speakers of a chunk. It depends on the chunk's samples alone."""

    model: str  # of the embeddings
    speakers: tuple[LocalSpeaker, ...] = ()
    turns: tuple[SpeakerTurn, ...] = ()  # in order of time
    error: str = ""  # why the speakers could not be told apart

    def to_json(self) -> dict[str, object]:
        return {
            "model": self.model,
            "speakers": [
                {
                    "seconds": speaker.seconds,
                    "embedding": base64.b64encode(speaker.embedding).decode(),
                }
                for speaker in self.speakers
            ],
            "turns": [[turn.start, turn.end, turn.speaker, turn.overlap] for turn in self.turns],
            "error": self.error,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "ChunkSpeakers":
        return cls(
            value["model"],
            tuple(
                LocalSpeaker(one["seconds"], base64.b64decode(one["embedding"]))
                for one in value["speakers"]
            ),
            tuple(SpeakerTurn(*turn) for turn in value["turns"]),
            value["error"],
        )


@dataclass(frozen=True, slots=True)
class LocalKey:
    """Names a local speaker within a file."""

    chunk: int  # index
    speaker: int  # local


@dataclass(frozen=True, slots=True)
class Speaker:
    """A speaker of a file."""

    number: int  # from 1; at first by the order in which they begin to speak
    seconds: float = 0.0  # of speech
    words: int = 0
    name: str = ""  # empty: not known
    person: int | None = None  # the known person that the name belongs to
    similarity: float | None = None  # to that person's voice; None: named by a user
    suggestion: str = ""  # a known person who it may be

    @property
    def label(self) -> str:
        """The name to show."""
        return self.name or f"Speaker {self.number}"


def describe_channel(
    name: str, start: float, voiced: Iterable[tuple[float, float]]
) -> ChunkSpeakers:
    """Return the only speaker of a chunk whose channel is one speaker with this name.

    `start`: of the chunk, in seconds in the file. `voiced`: its runs of speech, in seconds of the
    chunk.
    """
    turns = tuple(
        SpeakerTurn(round(start + begin, 3), round(start + end, 3), 0) for begin, end in voiced
    )
    seconds = round(sum(turn.end - turn.start for turn in turns), 3)
    return ChunkSpeakers(CHANNEL + name, (LocalSpeaker(seconds, b""),), turns)


def join_turns(
    turns: Sequence[SpeakerTurn], *, gap_s: float = 0.3, shortest_s: float = 0.15
) -> list[SpeakerTurn]:
    """Join turns of the same speaker that follow each other within `gap_s` seconds.

    Turns that stay shorter than `shortest_s` seconds are left out. Ordered by time.
    """
    by_speaker: dict[tuple[int, int], list[SpeakerTurn]] = {}
    for turn in sorted(turns, key=order_turns):
        own = by_speaker.setdefault((turn.speaker, turn.track or 0), [])
        if own and turn.start - own[-1].end < gap_s:
            last = own[-1]
            own[-1] = replace(
                last, end=max(last.end, turn.end), overlap=last.overlap and turn.overlap
            )
        else:
            own.append(turn)
    joined = [turn for own in by_speaker.values() for turn in own]
    return sorted((turn for turn in joined if turn.end - turn.start >= shortest_s), key=order_turns)


def order_turns(turn: SpeakerTurn) -> tuple[float, float, int, int]:
    """Return the key that orders turns by time."""
    return turn.start, turn.end, turn.speaker, turn.track or 0

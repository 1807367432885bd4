"""The speakers of a file: their numbers, names and shares, and a user's changes of them. Pure."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from speakeasyd.domain.diarization import CHANNEL, ChunkSpeakers, LocalKey, Speaker

Chunks = Sequence[tuple[int, ChunkSpeakers]]
"""Index and speakers of each chunk."""


@dataclass(frozen=True, slots=True)
class FileSpeakers:
    """The speakers of a file, and which local speaker is which of them."""

    speakers: tuple[Speaker, ...] = ()  # by number
    numbers: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    """Of each local speaker, by chunk index; 0 for one without a number."""


def number_speakers(chunks: Chunks, found: Mapping[LocalKey, int]) -> dict[LocalKey, int]:
    """Return the number of each local speaker, from 1 in the order in which speakers begin to speak.

    `found`: any number of each. Channels keep their order.
    """
    if any(speakers.model.startswith(CHANNEL) for _, speakers in chunks):
        return {key: speaker + 1 for key, speaker in found.items()}
    turns = sorted(
        (turn.overlap, turn.start, found[key])
        for index, speakers in chunks
        for turn in speakers.turns
        if (key := LocalKey(index, turn.speaker)) in found
    )
    order = list(dict.fromkeys([*(speaker for _, _, speaker in turns), *sorted(found.values())]))
    return {key: order.index(speaker) + 1 for key, speaker in found.items()}


def build_file_speakers(
    chunks: Chunks,
    numbers: Mapping[LocalKey, int],
    words: Mapping[LocalKey, int],
    known: Mapping[int, Speaker] = {},
) -> FileSpeakers:
    """Return the table of speakers.

    `numbers`: of each local speaker. `words`: how many each local speaker says. `known`: speakers
    with names, by number.
    """
    seconds: defaultdict[int, float] = defaultdict(float)
    spoken: Counter[int] = Counter()
    names: dict[int, str] = {}
    for index, speakers in chunks:
        for turn in speakers.turns:
            if number := numbers.get(LocalKey(index, turn.speaker)):
                seconds[number] += turn.end - turn.start
                if speakers.model.startswith(CHANNEL):
                    names[number] = speakers.model.removeprefix(CHANNEL)
    for key, number in numbers.items():
        spoken[number] += words.get(key, 0)
    table = [
        replace(
            known.get(number, Speaker(number, name=names.get(number, ""))),
            number=number,
            seconds=round(seconds[number], 3),
            words=spoken[number],
        )
        for number in sorted(set(numbers.values()))
    ]
    by_chunk = {
        index: tuple(
            numbers.get(LocalKey(index, local), 0) for local in range(len(speakers.speakers))
        )
        for index, speakers in chunks
    }
    return FileSpeakers(tuple(table), by_chunk)


def number_by_key(found: FileSpeakers) -> dict[LocalKey, int]:
    """Return the number of each local speaker that has one."""
    return {
        LocalKey(chunk, local): number
        for chunk, numbers in found.numbers.items()
        for local, number in enumerate(numbers)
        if number
    }


def merge_numbers(numbers: Mapping[LocalKey, int], merged: Iterable[int]) -> dict[LocalKey, int]:
    """Return the numbers after these speakers became the one with the lowest number."""
    same = frozenset(merged)
    lowest = min(same, default=0)
    return {key: lowest if number in same else number for key, number in numbers.items()}


def transfer_names(
    chunks: Chunks,
    old: FileSpeakers,
    numbers: Mapping[LocalKey, int],
) -> dict[int, Speaker]:
    """Return the named speakers by their new numbers: where they share most of the speech.

    Each name is given once. `numbers`: the new number of each local speaker.
    """
    earlier = number_by_key(old)
    named = {speaker.number: speaker for speaker in old.speakers if speaker.name}
    shared: defaultdict[tuple[int, int], float] = defaultdict(float)
    for index, speakers in chunks:
        for turn in speakers.turns:
            key = LocalKey(index, turn.speaker)
            if key in numbers and earlier.get(key) in named:
                shared[earlier[key], numbers[key]] += turn.end - turn.start
    taken: dict[int, Speaker] = {}
    given: set[int] = set()
    for before, after in sorted(shared, key=lambda pair: (-shared[pair], pair)):
        if before not in given and after not in taken:
            taken[after] = replace(named[before], number=after)
            given.add(before)
    return taken

"""Speakers without a model: clustering, numbers, names, words and recognition on synthetic
embeddings.
"""

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speakeasyd.domain.diarization import (
    MODEL,
    ChunkSpeakers,
    LocalKey,
    LocalSpeaker,
    Speaker,
    SpeakerTurn,
    describe_channel,
    join_turns,
)
from speakeasyd.domain.file_speakers import (
    FileSpeakers,
    build_file_speakers,
    merge_numbers,
    number_by_key,
    number_speakers,
    transfer_names,
)
from speakeasyd.domain.options import Options
from speakeasyd.domain.speaker_clustering import (
    Array,
    cluster_embeddings,
    encode_embedding,
    find_speakers,
    split_speaker,
)
from speakeasyd.domain.speaker_labels import find_speaker, label_segments
from speakeasyd.domain.speaker_recognition import KnownPerson, recognise_speakers
from speakeasyd.domain.transcript import Segment, Word
from speakeasyd.ledger.people import Person, VoiceSample
from speakeasyd.ledger.speakers import JobSpeakers
from speakeasyd.services.speakers import SpeakerChange, apply_change, find_file_speakers

SIZE = 192


def build_voice(number: int) -> Array:
    """Return the voice of a speaker. Different voices are almost orthogonal."""
    vector = np.random.default_rng(number).standard_normal(SIZE).astype(np.float32)
    return vector / np.linalg.norm(vector)


def build_embedding(speaker: int, seed: int, noise: float = 0.3) -> bytes:
    """Return an embedding of this speaker with noise."""
    other = build_voice(10_000 + seed)
    return encode_embedding(build_voice(speaker) + noise * other)


def build_speaker_chunk(start: float, *turns: tuple[int, float], seed: int = 0) -> ChunkSpeakers:
    """Return a chunk in which these speakers take turns of some seconds."""
    order = list(dict.fromkeys(speaker for speaker, _ in turns))
    at, stretches = start, []
    for speaker, seconds in turns:
        stretches.append(SpeakerTurn(at, at + seconds, order.index(speaker)))
        at += seconds
    spoken = [sum(s for who, s in turns if who == speaker) for speaker in order]
    speakers = tuple(
        LocalSpeaker(seconds, build_embedding(speaker, seed * 100 + speaker))
        for speaker, seconds in zip(order, spoken, strict=True)
    )
    return ChunkSpeakers(MODEL, speakers, tuple(stretches))


CONVERSATION = [
    (0, build_speaker_chunk(0.0, (7, 6.0), (3, 8.0), seed=1)),
    (1, build_speaker_chunk(30.0, (3, 5.0), (5, 9.0), (7, 4.0), seed=2)),
    (2, build_speaker_chunk(60.0, (5, 12.0), seed=3)),
]
WORDS = {LocalKey(0, 0): 10, LocalKey(0, 1): 20, LocalKey(1, 0): 5, LocalKey(2, 0): 30}


def build_known_people(speakers: FileSpeakers | None = None, **options: object) -> JobSpeakers:
    return JobSpeakers(
        Options.model_validate({"speakers": "auto"} | options),
        speakers.speakers if speakers else None,
        speakers.numbers if speakers else {},
        tuple(CONVERSATION),
        WORDS,
    )


# --- clustering


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.randoms(use_true_random=False),
)
@settings(max_examples=60, deadline=None)
def test_clusters_are_the_speakers_in_any_order(speakers: list[int], rng: random.Random) -> None:
    embeddings = np.stack(
        [build_voice(who) + 0.2 * build_voice(500 + i) for i, who in enumerate(speakers)]
    )
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    seconds = np.array([1.0 + i % 5 for i in range(len(speakers))], np.float32)
    labels = cluster_embeddings(embeddings, seconds, 0.3)
    order = list(range(len(speakers)))
    rng.shuffle(order)
    shuffled = cluster_embeddings(embeddings[order], seconds[order], 0.3)
    for one in range(len(speakers)):
        for other in range(len(speakers)):
            same = labels[one] == labels[other]
            assert same == (speakers[one] == speakers[other])
            assert same == (shuffled[order.index(one)] == shuffled[order.index(other)])
    assert labels[0] == 0
    assert set(labels) == set(range(len(set(speakers))))


@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 6), st.floats(1.0, 9.0)), min_size=1, max_size=4),
        min_size=1,
        max_size=8,
    ),
    st.integers(1, 6),
    st.integers(0, 4),
)
@settings(max_examples=60, deadline=None)
def test_the_number_of_speakers_is_within_its_limits(
    talk: list[list[tuple[int, float]]], low: int, more: int
) -> None:
    chunks = [(i, build_speaker_chunk(i * 40.0, *turns, seed=i)) for i, turns in enumerate(talk)]
    found = find_speakers(chunks, low=low, high=low + more)
    leaves = sum(len(chunk.speakers) for _, chunk in chunks)
    assert len(found) == leaves
    assert len(set(found.values())) <= low + more
    assert find_speakers(chunks[::-1], low=low, high=low + more) == found


def test_speakers_are_found_across_chunks() -> None:
    numbers = number_speakers(CONVERSATION, find_speakers(CONVERSATION, low=1, high=30))
    assert numbers == {
        LocalKey(0, 0): 1,
        LocalKey(0, 1): 2,
        LocalKey(1, 0): 2,
        LocalKey(1, 1): 3,
        LocalKey(1, 2): 1,
        LocalKey(2, 0): 3,
    }


def test_one_or_two_words_make_no_speaker() -> None:
    chunks = [*CONVERSATION, (3, build_speaker_chunk(90.0, (9, 0.8), seed=4))]
    assert len(set(find_speakers(chunks, low=1, high=30).values())) == 3


def test_embeddings_of_another_model_are_not_compared() -> None:
    other = replace(build_speaker_chunk(90.0, (9, 20.0)), model="older")
    assert LocalKey(3, 0) not in find_speakers([*CONVERSATION, (3, other)], low=1, high=30)


def test_a_long_file_is_clustered_in_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = [
        (i, build_speaker_chunk(i * 30.0, (i % 4, 8.0), ((i + 1) % 4, 6.0), seed=i))
        for i in range(60)
    ]
    whole = find_speakers(chunks, low=1, high=30)
    monkeypatch.setattr("speakeasyd.domain.speaker_clustering.MOST_LEAVES", 20)
    assert number_speakers(chunks, find_speakers(chunks, low=1, high=30)) == number_speakers(
        chunks, whole
    )


def test_a_channel_is_a_speaker() -> None:
    chunks = [
        (0, describe_channel("Left", 0.0, [(1.0, 3.0), (4.0, 5.0)])),
        (1, describe_channel("Right", 0.0, [(0.0, 1.0)])),
        (2, describe_channel("Left", 30.0, [(0.0, 2.0)])),
    ]
    found = find_file_speakers(replace(build_known_people(), chunks=tuple(chunks)), [])
    assert [(one.number, one.label, one.seconds) for one in found.speakers] == [
        (1, "Left", 5.0),
        (2, "Right", 1.0),
    ]
    assert found.numbers == {0: (1,), 1: (2,), 2: (1,)}


def test_stored_speakers_are_read_equal() -> None:
    for _, chunk in CONVERSATION:
        assert ChunkSpeakers.from_json(chunk.to_json()) == chunk


# --- changes by users


def test_a_table_of_speakers() -> None:
    found = find_file_speakers(build_known_people(), [])
    assert [(one.number, one.seconds, one.words) for one in found.speakers] == [
        (1, 10.0, 10),
        (2, 13.0, 25),
        (3, 21.0, 30),
    ]
    assert found == find_file_speakers(build_known_people(), [])


def test_changes_by_a_user() -> None:
    found = find_file_speakers(build_known_people(), [])
    named = apply_change(
        build_known_people(found), SpeakerChange(names={2: " Anna  Berg", 3: "Bob"})
    )
    assert [one.label for one in named.speakers] == ["Speaker 1", "Anna Berg", "Bob"]
    assert named.numbers == found.numbers
    merged = apply_change(build_known_people(named), SpeakerChange(merge=(1, 3)))
    assert [(one.number, one.seconds) for one in merged.speakers] == [(1, 31.0), (2, 13.0)]
    assert apply_change(build_known_people(merged), SpeakerChange(merge=(1, 1))) == merged
    again = apply_change(build_known_people(merged), SpeakerChange(count=3))
    assert again.numbers == found.numbers
    assert again.speakers[1].name == "Anna Berg"
    two = apply_change(build_known_people(again), SpeakerChange(count=2))
    assert len(two.speakers) == 2
    assert (
        apply_change(build_known_people(two), SpeakerChange(count="auto")).numbers == found.numbers
    )


@given(st.sets(st.integers(1, 3)), st.dictionaries(st.integers(1, 3), st.sampled_from("ABC")))
@settings(max_examples=60, deadline=None)
def test_a_repeated_change_changes_nothing(merge: set[int], names: dict[int, str]) -> None:
    found = find_file_speakers(build_known_people(), [])
    kept = {
        number: name
        for number, name in names.items()
        if number not in merge - {min(merge, default=0)}
    }
    once = apply_change(build_known_people(found), SpeakerChange(merge=tuple(merge), names=kept))
    rest = {one.number for one in once.speakers}
    again = SpeakerChange(merge=tuple(merge & rest), names=kept)
    assert apply_change(build_known_people(once), again) == once
    assert rest == {1, 2, 3} - (merge - {min(merge, default=0)})
    assert sum(one.words for one in once.speakers) == sum(one.words for one in found.speakers)


def test_a_merged_speaker_can_be_split() -> None:
    found = find_file_speakers(build_known_people(), [])
    merged = apply_change(build_known_people(found), SpeakerChange(merge=(1, 3)))
    split = apply_change(build_known_people(merged), SpeakerChange(split=1))
    assert sorted(one.seconds for one in split.speakers) == [10.0, 13.0, 21.0]
    assert split_speaker(CONVERSATION, [LocalKey(0, 0)]) == frozenset()


def test_names_follow_the_speech() -> None:
    numbers = number_by_key(find_file_speakers(build_known_people(), []))
    old = build_file_speakers(
        CONVERSATION, numbers, WORDS, {3: Speaker(3, name="Bob"), 1: Speaker(1, name="Eve")}
    )
    all_one = merge_numbers(numbers, [1, 2, 3])
    assert transfer_names(CONVERSATION, old, all_one)[1].name == "Bob"


# --- words


def draw_words(*spans: tuple[float, float, str]) -> tuple[Word, ...]:
    return tuple(Word(start, end, text, 0.9) for start, end, text in spans)


def build_segment(*spans: tuple[float, float, str]) -> Segment:
    text = "".join(text for _, _, text in spans)
    return Segment(spans[0][0], spans[-1][1], text, -0.2, 1.0, 0.0, words=draw_words(*spans))


def test_a_segment_is_split_where_the_speaker_changes() -> None:
    segment = build_segment((0.0, 1.0, " Are"), (1.0, 2.0, " you?"), (2.1, 3.0, " Yes."))
    turns = [SpeakerTurn(0.0, 2.05, 1), SpeakerTurn(2.05, 3.2, 0)]
    first, second = label_segments([segment], turns, keep_words=True)
    assert (first.text, first.local_speaker, first.start, first.end) == (" Are you?", 1, 0.0, 2.0)
    assert (second.text, second.local_speaker, second.start, second.end) == (" Yes.", 0, 2.1, 3.0)
    assert second.words == segment.words[2:]
    assert all(part.words == () for part in label_segments([segment], turns, keep_words=False))


def test_the_main_turn_counts_more_than_an_overlap() -> None:
    turns = [SpeakerTurn(0.0, 1.0, 0), SpeakerTurn(0.0, 1.0, 1, overlap=True)]
    assert find_speaker(0.0, 1.0, turns) == 0
    assert find_speaker(1.5, 1.6, turns) == 0
    assert find_speaker(2.5, 2.6, turns) is None


SPANS = st.lists(st.tuples(st.floats(0, 30), st.floats(0, 3)), max_size=12)


@given(SPANS, st.lists(st.tuples(st.floats(0, 30), st.floats(0.1, 8), st.integers(0, 3))))
@settings(max_examples=150, deadline=None)
def test_no_word_is_lost_or_moved(
    spans: list[tuple[float, float]], speech: list[tuple[float, float, int]]
) -> None:
    spoken = sorted(spans)
    segments = [
        Segment(
            start,
            start + length,
            f" a{i} b{i}",
            -0.2,
            1.0,
            0.0,
            words=draw_words(
                (start, start + length / 2, f" a{i}"),
                (start + length / 2, start + length, f" b{i}"),
            ),
        )
        for i, (start, length) in enumerate(spoken)
    ]
    turns = [SpeakerTurn(start, start + length, who) for start, length, who in speech]
    labelled = label_segments(segments, turns, keep_words=True)
    assert "".join(one.text for one in labelled) == "".join(one.text for one in segments)
    assert [word for one in labelled for word in one.words] == [
        w for one in segments for w in one.words
    ]
    assert {one.local_speaker for one in labelled} <= {turn.speaker for turn in turns} | {None}
    assert all(one.start <= one.end for one in labelled)
    assert label_segments(labelled, turns, keep_words=True) == labelled


@given(st.lists(st.tuples(st.floats(0, 60), st.floats(0.05, 5), st.integers(1, 3), st.booleans())))
def test_joined_turns_keep_speakers_apart(raw: list[tuple[float, float, int, bool]]) -> None:
    turns = [SpeakerTurn(s, s + length, who, overlap=over) for s, length, who, over in raw]
    joined = join_turns(turns)
    assert joined == join_turns(joined) == join_turns(turns[::-1])
    assert {turn.speaker for turn in joined} <= {turn.speaker for turn in turns}
    assert all(
        any(one.speaker == turn.speaker and one.start <= turn.start <= one.end for one in joined)
        for turn in turns
        if turn.end - turn.start >= 0.15
    )


# --- known people


def build_people(*numbers: int) -> list[KnownPerson]:
    return [
        KnownPerson(n, f"person {n}", (build_embedding(n, 900 + n), build_embedding(n, 950 + n)))
        for n in numbers
    ]


@given(st.permutations([1, 2, 3]), st.permutations([1, 2, 3, 4]))
@settings(max_examples=40, deadline=None)
def test_each_known_person_is_named_once_in_any_order(
    order: list[int], speakers: list[int]
) -> None:
    embeddings = {place: build_voice(who) for place, who in enumerate(speakers, 1)}
    found = recognise_speakers(embeddings, build_people(*order))
    names = {place: found[place].name for place in found}
    assert names == {place: f"person {who}" for place, who in enumerate(speakers, 1) if who != 4}


def test_a_similar_voice_is_only_suggested() -> None:
    between = build_voice(1) * 0.7 + build_voice(2) * 0.7
    near = {1: (between / np.linalg.norm(between)).astype(np.float32)}
    found = recognise_speakers(near, build_people(1, 2))
    assert found[1].name == ""
    assert found[1].suggestion in {"person 1", "person 2"}
    assert recognise_speakers({1: build_voice(8)}, build_people(1, 2)) == {}
    assert recognise_speakers({1: build_voice(8)}, []) == {}


def test_known_people_are_named_in_a_file() -> None:
    anna = Person(4, "Anna", "2026", (VoiceSample("a.wav", 9.0, build_embedding(5, 77)),))
    other = Person(
        5, "Old", "2026", (VoiceSample("b.wav", 9.0, build_embedding(7, 78), model="older"),)
    )
    found = find_file_speakers(build_known_people(), [anna, other])
    assert [(one.name, one.person) for one in found.speakers] == [
        ("", None),
        ("", None),
        ("Anna", 4),
    ]
    assert found.speakers[2].similarity is not None
    assert found.speakers[2].similarity > 0.9


# --- options


def test_options_for_speakers() -> None:
    assert Options(speakers="auto").speaker_limits == (1, 30)
    assert Options.model_validate({"speakers": "3"}).speaker_limits == (3, 3)
    assert Options(speakers="auto", speakers_min=2, speakers_max=4).speaker_limits == (2, 4)
    assert Options(speakers="auto", channels="split").channels_are_speakers
    assert not Options(speakers=3, channels="split").channels_are_speakers
    for wrong in ({"speakers": 0}, {"speakers": "some"}, {"speakers_min": 3, "speakers_max": 2}):
        with pytest.raises(ValueError, match="speakers"):
            Options.model_validate(wrong)

"""Which audio tracks of a container are transcribed, and which of them together."""

import re
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

from speakeasyd.domain.language_codes import find_code
from speakeasyd.domain.readable_text import join_lines
from speakeasyd.domain.transcript import (
    MediaWarning,
    Segment,
    TranscribedTrack,
    Transcript,
    WarningKind,
)

AUTO = "auto"
ALL = "all"
_LARGEST_NUMBER = 999  # of a track; no container has as many
_NO_LANGUAGE = frozenset({"", "und", "zxx", "mul", "mis"})  # ISO 639-2 codes that name none
_LONGEST_TITLE = 60  # characters of a title in a warning


class TrackSound(IntEnum):
    """What samples from all over a track have in them; more is preferred."""

    UNDECODABLE = 0
    """Nothing can be decoded."""
    SILENT = 1
    """Nothing can be heard."""
    AUDIBLE = 2
    """Something can be heard, but no speech was found."""
    SPEECH = 3
    """Speech was found."""


_SOUND_TEXTS = {
    TrackSound.UNDECODABLE: "cannot be decoded",
    TrackSound.SILENT: "silent",
    TrackSound.AUDIBLE: "sound, no speech found",
    TrackSound.SPEECH: "speech",
}


@dataclass(frozen=True, slots=True)
class AudioTrack:
    """An audio track as its container describes it."""

    number: int  # from 1, among the audio tracks
    language: str = ""  # as the container writes it; empty if it names none
    title: str = ""
    channels: int = 1
    is_default: bool = False
    is_auxiliary: bool = False  # a commentary or a description for the blind
    sound: TrackSound | None = None  # None: not measured

    @property
    def code(self) -> str | None:
        """Whisper's code of its language."""
        return find_code(self.language) if self.language else None

    @property
    def description(self) -> str:
        """For warnings: `2 (jpn, "Stereo", silent)`."""
        title = join_lines(self.title)[:_LONGEST_TITLE]
        details = [self.language, f'"{title}"' if title else ""]
        details.append(_SOUND_TEXTS[self.sound] if self.sound is not None else "")
        known = ", ".join(detail for detail in details if detail)
        return f"{self.number} ({known})" if known else str(self.number)


@dataclass(frozen=True, slots=True)
class TrackRequest:
    """The parsed option `audio`. Without entries the choice is automatic."""

    entries: tuple[int | str, ...] = ()  # numbers of tracks, and languages
    everything: bool = False

    @property
    def is_automatic(self) -> bool:
        return not self.entries and not self.everything


@dataclass(frozen=True, slots=True)
class TrackChoice:
    """Each group of tracks has a transcript of its own; the tracks of a group are mixed."""

    groups: tuple[tuple[AudioTrack, ...], ...]
    warnings: tuple[MediaWarning, ...] = ()


def parse_request(text: str) -> TrackRequest:
    """Raises ValueError, in words for people, where the option makes no sense."""
    words = [word.strip().lower() for word in text.split(",")]
    if words in ([AUTO], [ALL]):
        return TrackRequest(everything=words == [ALL])
    return TrackRequest(tuple(dict.fromkeys(map(_parse_entry, words))))


def _parse_entry(word: str) -> int | str:
    if re.fullmatch(r"[0-9]+", word) and 1 <= int(word) <= _LARGEST_NUMBER:
        return int(word)
    code = find_code(word)
    is_code = re.fullmatch(r"[a-z]{2,3}", word) and word != ALL
    if code is None and not is_code:
        raise ValueError(
            f"{word[:80]!r} is no audio track: give `auto`, `all`, a number from 1, "
            "a language such as `deu`, or several with commas between"
        )
    return code or word


def clean_language_tag(tag: str) -> str:
    """The tag as it is written, or empty where it names no language."""
    stripped = tag.strip()
    return "" if stripped.lower() in _NO_LANGUAGE else stripped


def must_measure(tracks: Sequence[AudioTrack], request: TrackRequest, *, from_camera: bool) -> bool:
    """Whether the choice depends on what can be heard in the tracks."""
    if len(tracks) < 2 or request.everything:
        return False
    if request.is_automatic:
        return len(_find_joint_tracks(tracks[0], tracks, from_camera=from_camera)) < len(tracks)
    found = [_find_matches(entry, tracks) for entry in request.entries]
    return any(len(matches) > 1 for matches in found) or not any(found)


def choose_tracks(
    tracks: Sequence[AudioTrack],
    request: TrackRequest,
    *,
    languages: Collection[str],
    from_camera: bool,
) -> TrackChoice:
    """The tracks to transcribe. `languages`: codes of those that are asked for, if any is.

    `from_camera`: the container is one of those in which cameras keep each microphone as a track.
    """
    if request.everything:
        return _choose_all(tracks)
    if request.is_automatic:
        return _choose_automatically(tracks, languages, from_camera=from_camera)
    chosen: list[AudioTrack] = []
    missing: list[int | str] = []
    for entry in request.entries:
        if matches := _find_matches(entry, tracks):
            chosen.append(_find_best(matches))
        elif not _may_be_meant(entry, tracks):
            missing.append(entry)
    if not chosen:
        choice = _choose_automatically(tracks, languages, from_camera=from_camera)
        text = f"{_format_missing(missing)}: track {_list_numbers(choice.groups[0])} was taken"
        warning = MediaWarning(WarningKind.OTHER, text)
        return replace(choice, warnings=(*((warning,) if missing else ()), *choice.warnings))
    groups = tuple((track,) for track in dict.fromkeys(chosen))
    warning = MediaWarning(WarningKind.OTHER, _format_missing(missing))
    return TrackChoice(groups, (warning,) if missing else ())


def label_tracks(tracks: Sequence[TranscribedTrack]) -> list[str]:
    """A different part of a file name for each track: its language, else its number."""
    labels: list[str] = []
    for track in tracks:
        language = re.sub(r"[^A-Za-z0-9-]", "", track.language)[:16]
        label = language or str(track.number)
        taken = {one.lower() for one in labels}
        labels.append(f"{label}.{track.number}" if label.lower() in taken else label)
    return labels


def split_transcript(transcript: Transcript) -> dict[str, Transcript]:
    """A transcript for each track that is transcribed apart, by label; one without a label if none is.

    Which track a stretch belongs to that was given up is not known: all of them show it.
    """
    if not transcript.tracks:
        return {"": transcript}
    labels = label_tracks(transcript.tracks)
    return {
        label: _take_track(transcript, track)
        for label, track in zip(labels, transcript.tracks, strict=True)
    }


def _take_track(transcript: Transcript, track: TranscribedTrack) -> Transcript:
    segments = [segment for segment in transcript.segments if segment.track == track.number]
    language = _find_main_language(segments) or find_code(track.language)
    turns = [turn for turn in transcript.turns if turn.track == track.number]
    heard = {turn.speaker for turn in turns}
    return replace(
        transcript,
        language=language or transcript.language,
        segments=tuple(replace(segment, track=None) for segment in segments),
        tracks=(),
        track=track,
        speakers=tuple(one for one in transcript.speakers if one.number in heard),
        turns=tuple(replace(turn, track=None) for turn in turns),
    )


def _find_main_language(segments: Sequence[Segment]) -> str | None:
    """The one that most of the time is spoken in."""
    seconds: Counter[str] = Counter()
    for segment in segments:
        if segment.language:
            seconds[segment.language] += segment.end - segment.start  # type: ignore[assignment]  # Counter takes floats as well
    return max(seconds, key=lambda code: (seconds[code], code), default=None)


def _choose_all(tracks: Sequence[AudioTrack]) -> TrackChoice:
    good = [track for track in tracks if track.sound is not TrackSound.UNDECODABLE] or tracks
    return TrackChoice(tuple((track,) for track in good), _warn_of_others(tracks, good))


def _choose_automatically(
    tracks: Sequence[AudioTrack], languages: Collection[str], *, from_camera: bool
) -> TrackChoice:
    decodable = [track for track in tracks if track.sound is not TrackSound.UNDECODABLE] or tracks
    main = [track for track in decodable if not track.is_auxiliary] or decodable
    asked = [track for track in main if track.code in languages]
    if asked and all(track.sound is TrackSound.SILENT for track in asked):
        asked += [track for track in main if not track.language]  # one of these may be meant
    best = _find_best(asked or main)
    group = _find_joint_tracks(best, decodable, from_camera=from_camera)
    return TrackChoice((tuple(group),), _warn_of_others(tracks, group))


def _find_best(tracks: Sequence[AudioTrack]) -> AudioTrack:
    """The one with the most to hear; of equals the default one, then the first."""

    def rank(track: AudioTrack) -> tuple[int, bool, bool, int]:
        sound = TrackSound.UNDECODABLE if track.sound is None else track.sound
        return sound, not track.is_auxiliary, track.is_default, -track.number

    return max(tracks, key=rank)


def _find_joint_tracks(
    track: AudioTrack, tracks: Sequence[AudioTrack], *, from_camera: bool
) -> list[AudioTrack]:
    """The track, and those that are other microphones of the same camera."""
    if not from_camera or track.channels != 1:
        return [track]
    return [
        other
        for other in tracks
        if other.channels == 1
        and (other.language, other.title) == (track.language, track.title)
        and other.is_auxiliary == track.is_auxiliary
    ]


def _find_matches(entry: int | str, tracks: Sequence[AudioTrack]) -> list[AudioTrack]:
    if isinstance(entry, int):
        return [track for track in tracks if track.number == entry]
    return [track for track in tracks if entry in {track.code, track.language.lower()}]


def _may_be_meant(entry: int | str, tracks: Sequence[AudioTrack]) -> bool:
    """Whether the only track can be in the language: it says nothing else."""
    return isinstance(entry, str) and len(tracks) == 1 and not tracks[0].language


def _warn_of_others(
    tracks: Sequence[AudioTrack], heard: Sequence[AudioTrack]
) -> tuple[MediaWarning, ...]:
    others = ", ".join(track.description for track in tracks if track not in heard)
    if not others:
        return ()
    text = f"track {_list_numbers(heard)} is transcribed; left out: track {others}"
    return (MediaWarning(WarningKind.LEFT_OUT, text),)


def _list_numbers(tracks: Sequence[AudioTrack]) -> str:
    return ", ".join(str(track.number) for track in tracks)


def _format_missing(entries: Sequence[int | str]) -> str:
    texts = (
        f"there is no audio track {entry}"
        if isinstance(entry, int)
        else f"no audio track is tagged as {entry}"
        for entry in entries
    )
    return ", ".join(texts)

"""The audio tracks of an open container, as it describes them."""

from typing import Any

import av

from speakeasyd.domain.tracks import AudioTrack, TrackChoice, TrackSound, clean_language_tag

_AUXILIARY = (
    av.stream.Disposition.comment
    | av.stream.Disposition.visual_impaired
    | av.stream.Disposition.descriptions
)


def choose_first_track(container: Any) -> TrackChoice:
    """The default audio track, else the first one."""
    tracks = describe_tracks(container)
    return TrackChoice(((next((t for t in tracks if t.is_default), tracks[0]),),))


def describe_tracks(container: Any) -> list[AudioTrack]:
    return [_describe_track(number, one) for number, one in enumerate(container.streams.audio, 1)]


def _describe_track(number: int, stream: Any) -> AudioTrack:
    tags = {key.lower(): value for key, value in stream.metadata.items()}
    decodable = stream.codec_context is not None
    return AudioTrack(
        number,
        language=clean_language_tag(tags.get("language", "")),
        title=tags.get("title", ""),
        channels=stream.codec_context.channels if decodable else 0,
        is_default=bool(stream.disposition & av.stream.Disposition.default),
        is_auxiliary=bool(stream.disposition & _AUXILIARY),
        sound=None if decodable else TrackSound.UNDECODABLE,
    )

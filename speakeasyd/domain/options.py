"""Transcription options of a job, set by the configuration, a preset or a sidecar."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)

from speakeasyd.domain.formats import FORMATS
from speakeasyd.domain.naming import check_template
from speakeasyd.domain.tracks import parse_request
from speakeasyd.errors import ConfigError

MOST_SPEAKERS = 30  # in one file
Code = Annotated[str, Field(pattern=r"^[a-z]{2,3}$")]


def _check_format(name: str) -> str:
    if name not in FORMATS:
        known = ", ".join(map(repr, FORMATS))
        raise ValueError(f"unknown format {name!r}; allowed are {known}")
    return name


def _describe_format(schema: dict[str, Any]) -> None:
    schema["enum"] = list(FORMATS)


Format = Annotated[str, AfterValidator(_check_format), Field(json_schema_extra=_describe_format)]
"""The name of a registered output format."""


def _read_number(value: object) -> object:
    """Forms and the command line give numbers as text."""
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def _check_speakers(value: object, check: ValidatorFunctionWrapHandler) -> object:
    """Say once what is allowed, rather than once for each kind of value."""
    try:
        return check(_read_number(value))
    except ValidationError as error:
        allowed = f"'off', 'auto' or a number from 1 to {MOST_SPEAKERS}"
        raise ValueError(f"it must be {allowed}, not {value!r:.80}") from error


SpeakerCount = Annotated[int, Field(ge=1, le=MOST_SPEAKERS)]
Speakers = Annotated[Literal["off", "auto"] | SpeakerCount, WrapValidator(_check_speakers)]


def _join_tracks(audio: object) -> object:
    """A track may be given as a number, and several as a list."""
    entries = audio if isinstance(audio, list | tuple) else [audio]
    if any(isinstance(one, bool) or not isinstance(one, int | str) for one in entries):
        return audio  # pydantic refuses it
    return ",".join(str(one).strip() for one in entries)


class Options(BaseModel):
    """The options of one job.

    A copy is stored with the job when it is created: later changes of the configuration do not
    affect existing jobs.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        protected_namespaces=(),
        use_attribute_docstrings=True,
        defer_build=True,  # at the first validation: workers have none
    )

    model: str = Field("auto", min_length=1)
    """`auto`, `bundled`, a model directory, a size such as `small`, or a Hugging Face id."""
    language: Annotated[str, Field(pattern=r"^(auto|[a-z]{2,3})$")] = "auto"
    """`auto` detects it throughout the file, which may have several languages; otherwise a code such as `en`."""
    languages: tuple[Code, ...] = ()
    """With `language = "auto"`, the allowed codes, such as `["en", "de"]`; empty: all languages of the model."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """`translate` gives English text for every language."""
    accuracy: Literal["fast", "balanced", "exact"] = "balanced"
    """`fast`: greedy search; `balanced`: beam search with fallbacks; `exact`: full windows for every chunk."""
    beam_size: int = Field(5, ge=1, le=20)
    """Width of the beam search. `accuracy = "fast"` starts with 1; `"exact"` and fallbacks use at least 5."""
    initial_prompt: str = Field("", max_length=2000)
    """Text in the desired style: spelling, punctuation, names."""
    hotwords: str = Field("", max_length=2000)
    """Names and terms to prefer, separated by spaces or commas."""
    word_timestamps: bool = False
    """Compute start, end and probability of every word."""
    vad: bool = True
    """Skip parts without speech (voice activity detection)."""
    audio: Annotated[str, BeforeValidator(_join_tracks)] = "auto"
    """The audio tracks: `auto`, a number from 1, a language such as `deu`, several (`eng,jpn`), or `all`."""
    channels: Literal["mix", "split"] = "mix"
    """`mix` mixes all channels; `split` transcribes each channel separately, for stereo calls."""
    speakers: Speakers = "off"
    """Who speaks: `auto` finds out how many there are, a number says it; with split channels, each is a speaker."""
    speakers_min: SpeakerCount | None = Field(None, examples=[2])
    """With `speakers = "auto"`, how many speakers there are at least."""
    speakers_max: SpeakerCount | None = Field(None, examples=[6])
    """With `speakers = "auto"`, how many speakers there are at most."""
    fallback: bool = True
    """Decode a doubtful chunk again with other settings and keep the best text."""
    formats: tuple[Format, ...] = Field(
        ("txt", "srt"),
        min_length=1,
        description=f"The artifacts to write, any of {', '.join(f'`{name}`' for name in FORMATS)}.",
    )
    name: str = Field("{stem}", min_length=1, max_length=200)
    """Naming template of the artifacts, without the extension."""
    priority: int = Field(0, ge=-100, le=100)
    """Jobs with a higher priority run first."""

    @property
    def fixed_language(self) -> str | None:
        """The language if exactly one is allowed; None if it has to be detected."""
        possible = self.possible_languages
        return possible[0] if len(possible) == 1 else None

    @property
    def possible_languages(self) -> tuple[str, ...]:
        """The codes of the allowed languages; empty: all of the model."""
        return self.languages if self.language == "auto" else (self.language,)

    @property
    def speaker_limits(self) -> tuple[int, int]:
        """How many speakers there are, at least and at most."""
        if isinstance(self.speakers, int):
            return self.speakers, self.speakers
        return self.speakers_min or 1, self.speakers_max or MOST_SPEAKERS

    @property
    def channels_are_speakers(self) -> bool:
        """Whether each channel is one speaker: unless somebody says how many there are."""
        says_count = isinstance(self.speakers, int) or self.speakers_min or self.speakers_max
        return self.channels == "split" and not says_count

    @model_validator(mode="after")
    def _limits_are_ordered(self) -> Self:
        if self.speakers_min and self.speakers_max and self.speakers_min > self.speakers_max:
            raise ValueError("speakers_min is larger than speakers_max")
        return self

    @field_validator("audio")
    @classmethod
    def _names_tracks(cls, audio: str) -> str:
        parse_request(audio)
        return audio

    @field_validator("name")
    @classmethod
    def _is_a_template(cls, name: str) -> str:
        try:
            check_template(name)
        except ConfigError as error:
            raise ValueError(f"{error}. {error.hint}") from error
        return name

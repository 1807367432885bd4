"""The messages between daemon and worker processes. All of them are pickled through one pipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from speakeasyd.domain.fault import Phase
from speakeasyd.domain.job import JobId, Signature, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.transcript import Chunk, MediaWarning, TranscribedTrack, WarningKind


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """The settings of a worker, which are kept for every restart."""

    device: str  # "cpu" or "cuda:0"
    compute_type: str  # CTranslate2's name, or "auto"
    replicas: int  # calls of the model in parallel; 0: one for each CPU core, or 2 on a GPU
    # Chunks of 30 s in one call, or more if they are shorter; 0: as many as fit the device
    batch_size: int
    state_dir: str  # for downloaded models and the worker's logs
    offline: bool = False  # never contact the model hub
    # Of the sources: the absolute path of each `SourceRef.folder` on the worker's machine
    folders: Mapping[str, str] = field(default_factory=dict, hash=False)
    preload: str = ""  # a model to load before the first task, as `options.model` names it
    hash_model: bool = False  # report the hash of the model, to compare it with other machines'


@dataclass(frozen=True, slots=True)
class SourceRef:
    """A source, named in the same way on every machine.

    `WorkerSpec.folders` says where its folder is on the machine of a worker. Others may write to
    the folder, so no link is followed below it.
    """

    folder: str  # the name of an inbox
    path: bytes  # relative to the folder, as os.fsencode gives it, '/' between parts
    signature: Signature | None = None  # of the version that is meant; None: any version
    sha256: str = ""  # hex, of its bytes: equal bytes may have different signatures


# --- daemon to worker ---


@dataclass(frozen=True, slots=True)
class Task:
    """A job for a worker.

    Chunks in `skip` are committed or given up. If `only` is given, only those chunks are done.
    """

    job_id: JobId
    token: Token
    source: SourceRef
    options: Options
    language: str | None
    skip: frozenset[int] = frozenset()
    only: frozenset[int] | None = None
    max_seconds: float = 0.0  # refuse longer audio; 0: no limit
    texts: Mapping[int, str] = field(default_factory=dict)
    """Text of the committed chunks, by index: the context in which later chunks are decoded.

    A chunk in `skip` but not here was given up. Of a chunk in several languages, this is the text
    in its language in `languages`.
    """
    languages: Mapping[int, str] = field(default_factory=dict)
    """Language at the end of the committed chunks, by index."""
    added_at: float = 0.0  # seconds since the epoch; see domain/queue_order.py
    expected_seconds: float = 0.0  # length of the audio, by the size of the file


@dataclass(frozen=True, slots=True)
class Drop:
    """Stop work on a job: it was cancelled or its claim was released."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class Drain:
    """Finish the chunks in flight, start no more, then exit with status 0."""


Request = Task | Drop | Drain

# --- worker to daemon ---


@dataclass(frozen=True, slots=True)
class Hello:
    """The worker is running. It loads the model with the first task, or before by `preload`."""

    pid: int


@dataclass(frozen=True, slots=True)
class Loading:
    """A model is being loaded: no other report may follow for a while."""

    model: str


@dataclass(frozen=True, slots=True)
class Downloading:
    """A model is being downloaded. Sent every few seconds while bytes arrive."""

    model: str
    done: int  # bytes
    total: int | None  # bytes; None: not known
    bytes_per_s: float

    @property
    def text(self) -> str:
        """A message for users: `120 of 484 MB, 8.1 MB/s`."""
        size = f"{self.done / 1e6:.0f} MB"
        if self.total:
            size = f"{self.done / 1e6:.0f} of {self.total / 1e6:.0f} MB"
        return f"{size}, {self.bytes_per_s / 1e6:.1f} MB/s"


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model is loaded and its canary passed."""

    requested: str  # as the options name it
    model: str  # the model that was loaded
    device: str
    compute_type: str
    seconds: float
    warning: str | None = None  # a fallback model was loaded: shown with every result
    sha256: str = ""  # hex, of the model's files; only if `WorkerSpec.hash_model`
    network: str = ""  # what computes the model, for people, such as "CTranslate2"

    def add_warning(self, warnings: tuple[MediaWarning, ...]) -> tuple[MediaWarning, ...]:
        """Return the warnings of a file, with the one about the model before them."""
        if self.warning is None:
            return warnings
        return (MediaWarning(WarningKind.OTHER, self.warning), *warnings)


@dataclass(frozen=True, slots=True)
class Opened:
    """The file was opened and decoding has begun."""

    job_id: JobId
    token: Token
    container_seconds: float | None  # duration in the container's header; None: not given


@dataclass(frozen=True, slots=True)
class Progress:
    """Decoding has reached this position.

    Sent at most about once a second, as a sign of life also where there is no speech.
    """

    job_id: JobId
    token: Token
    decoded_seconds: float


@dataclass(frozen=True, slots=True)
class LanguageFound:
    """The language was detected. Always sent before the first chunk of the job."""

    job_id: JobId
    token: Token
    language: str
    probability: float


@dataclass(frozen=True, slots=True)
class ChunkStarted:
    """The device works on this chunk. It is a suspect if the worker dies now."""

    job_id: JobId
    token: Token
    index: int
    start: float  # seconds in the file
    end: float  # seconds in the file


@dataclass(frozen=True, slots=True)
class ChunkDone:
    """The text of a chunk."""

    job_id: JobId
    token: Token
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class TaskDone:
    """Every requested chunk was sent. The ledger decides whether the job is completed."""

    job_id: JobId
    token: Token
    audio_seconds: float  # on the file's timeline, missing parts included
    warnings: tuple[MediaWarning, ...] = ()
    tracks: tuple[TranscribedTrack, ...] = ()  # if several are transcribed apart


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """The job failed because of its file."""

    job_id: JobId
    token: Token
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Fault:
    """A failure that is not a file's. Sent before any clean-up, which may end the process."""

    phase: Phase
    error: str  # type and text of the exception
    in_flight: tuple[tuple[JobId, int], ...]  # (job, chunk index) on the device at that moment
    soft: bool = False  # the worker tries a soft restart; else it exits at once
    traceback: str = ""  # for the log


@dataclass(frozen=True, slots=True)
class Drained:
    """The last message: all finished chunks were sent."""


Report = (
    Hello
    | Loading
    | Downloading
    | Loaded
    | Opened
    | Progress
    | LanguageFound
    | ChunkStarted
    | ChunkDone
    | TaskDone
    | TaskFailed
    | Fault
    | Drained
)

"""What the daemon and its worker processes say to each other. Everything here is pickled through one pipe."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from speakeasyd.domain.job import JobId, Signature, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.transcript import Chunk, MediaWarning


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """How to start a worker: settled once, kept for every restart."""

    device: str  # "cpu" or "cuda:0"
    compute_type: str  # CTranslate2's name, or "auto"
    replicas: int  # models that compute side by side; 0: as many as fit the device
    batch_size: int  # chunks of 30 s in one call, or as many more as are shorter; 0: as many as fit the device
    state_dir: str  # for downloaded models and the worker's last words
    offline: bool = False  # never ask the hub


# --- daemon to worker -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Task:
    """A job for a worker. Chunks in `skip` are committed or given up; if `only` is given, nothing else is done."""

    job_id: JobId
    token: Token
    path: str  # absolute
    options: Options
    language: str | None
    skip: frozenset[int] = frozenset()
    only: frozenset[int] | None = None
    max_seconds: float = 0.0  # refuse longer audio; 0: no limit
    # Of the version that the task is about; None: whichever is there
    signature: Signature | None = None
    sha256: str = ""  # hex, of its bytes: they may be the same although the signature is not
    said: Mapping[int, str] = field(default_factory=dict)
    """Text of the committed chunks, by index: later chunks lean on it. One in `skip` but not here was given up.

    Of a chunk in several languages, the text in `languages`.
    """
    languages: Mapping[int, str] = field(default_factory=dict)
    """Language at the end of the committed chunks, by index."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget a job: it was cancelled or taken back."""

    job_id: JobId


@dataclass(frozen=True, slots=True)
class Unload:
    """Free the model; the next task loads it again."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Finish the chunks in flight, start no more, then leave with exit status 0."""


Request = Task | Drop | Unload | Drain

# --- worker to daemon -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """The worker is up. The model loads with the first task."""

    pid: int


@dataclass(frozen=True, slots=True)
class Loading:
    """A model is being loaded; silence is to be expected for a while."""

    model: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The model is loaded and its canary came out right."""

    requested: str  # as the options name it
    model: str  # what was really loaded
    device: str
    compute_type: str
    seconds: float
    warning: str | None = None  # a stand-in was taken: say so everywhere


@dataclass(frozen=True, slots=True)
class Unloaded:
    pass


@dataclass(frozen=True, slots=True)
class Opened:
    """The file could be opened and decoding has begun."""

    job_id: JobId
    token: Token
    container_seconds: float | None  # what the container says, None when it says nothing


@dataclass(frozen=True, slots=True)
class Progress:
    """Decoding got this far, at most about once a second: a sign of life where there is no speech."""

    job_id: JobId
    token: Token
    decoded_seconds: float


@dataclass(frozen=True, slots=True)
class LanguageFound:
    """Always sent before the first chunk of the job."""

    job_id: JobId
    token: Token
    language: str
    probability: float


@dataclass(frozen=True, slots=True)
class ChunkStarted:
    """The device works on this chunk: the suspect, should the worker die now."""

    job_id: JobId
    token: Token
    index: int
    start: float  # seconds in the file
    end: float  # seconds in the file


@dataclass(frozen=True, slots=True)
class ChunkDone:
    job_id: JobId
    token: Token
    chunk: Chunk


@dataclass(frozen=True, slots=True)
class TaskDone:
    """Every chunk asked for was sent. Not the same as completed: that is for the ledger to say."""

    job_id: JobId
    token: Token
    audio_seconds: float  # on the file's clock, holes included
    warnings: tuple[MediaWarning, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskFailed:
    """The file is at fault."""

    job_id: JobId
    token: Token
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Fault:
    """Something else than a file failed. Sent before any clean-up, since the clean-up may kill the process."""

    phase: Literal["load", "canary", "encode", "generate", "align", "vad", "decode", "host"]
    error: str  # type and text, verbatim
    in_flight: tuple[tuple[JobId, int], ...]  # (job, chunk index) on the device at that moment
    soft: bool = False  # the worker tries a soft restart by itself; else it leaves at once
    traceback: str = ""  # for the log


@dataclass(frozen=True, slots=True)
class Drained:
    """The last message: everything finished was sent."""


Report = (
    Hello
    | Loading
    | Loaded
    | Unloaded
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

"""Test kit: a manual clock, a scripted engine with injected faults and the real protocol, and a
scripted recognizer.

No production code imports this. A test passes `target=SCRIPTED` to the pool and writes a script
into the state folder. The worker is then a real process, spawned, supervised and killed like any
other.
"""

import ctypes
import hashlib
import json
import math
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from speakeasyd.domain.fault import Phase
from speakeasyd.domain.job import JobId
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import (
    ChunkDone,
    ChunkStarted,
    Drain,
    Drained,
    Drop,
    Fault,
    Hello,
    LanguageFound,
    Loaded,
    Loading,
    Opened,
    Report,
    Request,
    SourceRef,
    Task,
    TaskDone,
    TaskFailed,
    WorkerSpec,
)
from speakeasyd.domain.recognition import Capabilities, LanguageProbabilities, RecognizedText
from speakeasyd.domain.transcript import Chunk, MediaWarning, Segment, WarningKind, Word
from speakeasyd.domain.worker_exit import EXIT_FAULT
from speakeasyd.errors import ErrorCode
from speakeasyd.safe_open import LinkRefused, open_below

if TYPE_CHECKING:
    from speakeasyd.engine.clips import Clip

SCRIPTED = "speakeasyd.testing:serve_script"
PIECE = 64  # bytes of a file for one chunk
CHUNK_S = 10.0  # seconds of audio that a chunk represents
_SCRIPT = "script.json"
# A log with a line of JSON for every started chunk: its file's path, its index
_STARTED_LOG = "script-played"


class ManualClock:
    """A clock that changes only by `advance` and `set_wall`."""

    def __init__(self, start: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> None:
        self._now, self._elapsed = start, 0.0

    def utc(self) -> datetime:
        return self._now

    def monotonic(self) -> float:
        return self._elapsed

    def set_wall(self, seconds: float) -> None:
        """Set the wall clock forward, or back if negative; monotonic time does not change."""
        self._now += timedelta(seconds=seconds)

    def advance(self, seconds: float) -> None:
        self._now += timedelta(seconds=seconds)
        self._elapsed += seconds


# --- the script ---

FaultAction = Literal[
    "fault",  # report `text` with `phase`, then exit
    "soft_fault",  # report it as soft, load the model again, continue
    "abort",
    "last_words",  # write `text` to stderr like native code, then abort
    "segfault",
    "exit",  # with `status`, without a report
    "hang",
    "stop",  # send SIGSTOP to itself; on Windows, hang
    "eat_memory",  # allocate up to a limit of the address space; not on Windows
    "half_message",  # send an incomplete message; not on Windows
    "garbage",  # send a message that is no pickle, then hang
    "deliver_and_abort",  # send the chunk, then abort
    "refuse",  # report TaskFailed
    "odd_report",  # instead of the chunk, send the invalid report `text` of ODD_REPORTS
    "no_word",  # compute the chunk but do not report it
]


@dataclass(frozen=True, slots=True)
class InjectedFault:
    """A fault and its trigger: loading a model, opening a file, or a chunk before it is sent."""

    action: FaultAction
    at: Literal["load", "open", "chunk"] = "chunk"
    file: str = ""  # only files whose path contains this
    chunk: int | None = None  # only the chunk with this index
    device: str = ""  # only on devices that begin with this
    after: FaultAction | None = None  # only after another fault of this kind was injected
    times: int = 1  # how often, over all worker processes; 0: always
    text: str = ""
    phase: Phase = Phase.GENERATE
    status: int = 0


@dataclass(frozen=True, slots=True)
class FaultScript:
    """The faults to inject, and the simulated durations."""

    faults: tuple[InjectedFault, ...] = ()
    chunk_s: float = 0.0  # simulated seconds of compute for each batch of chunks
    load_s: float = 0.0  # simulated seconds to load a model

    def write_to(self, state_dir: Path) -> None:
        (state_dir / _SCRIPT).write_text(json.dumps(asdict(self)), "utf-8")

    @classmethod
    def read_from(cls, state_dir: Path) -> "FaultScript":
        try:
            found = json.loads((state_dir / _SCRIPT).read_text("utf-8"))
        except FileNotFoundError:
            return cls()
        return cls(
            tuple(InjectedFault(**fault) for fault in found["faults"]),
            found["chunk_s"],
            found["load_s"],
        )


class _FaultInjector:
    """Selects the faults that are due. Their counts are kept in files for the next worker."""

    def __init__(self, script: FaultScript, spec: WorkerSpec) -> None:
        self._script = script
        self._device = spec.device
        self._done = Path(spec.state_dir) / "script-done"
        self._done.mkdir(exist_ok=True)
        self._started_log = os.open(
            Path(spec.state_dir) / _STARTED_LOG, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640
        )

    def record_chunk_start(self, path: str, chunk: int) -> None:
        with suppress(OSError):  # tests of a full disk concern the daemon only
            os.write(self._started_log, json.dumps([path, chunk]).encode() + b"\n")

    def find_due_fault(
        self, at: str, path: str = "", chunk: int | None = None
    ) -> InjectedFault | None:
        for number, fault in enumerate(self._script.faults):
            fits = fault.at == at and fault.file in path and self._device.startswith(fault.device)
            is_enabled = fault.after is None or self._was_injected(fault.after)
            if (
                fits
                and is_enabled
                and fault.chunk in (None, chunk)
                and self._count_use(number, fault.times)
            ):
                return fault
        return None

    def _was_injected(self, action: str) -> bool:
        numbers = (n for n, fault in enumerate(self._script.faults) if fault.action == action)
        return any((self._done / f"{number}-0").exists() for number in numbers)

    def _count_use(self, number: int, times: int) -> bool:
        """Count one use of a fault. Returns False if its number of uses is reached."""
        if times == 0:
            return True
        for turn in range(times):
            try:
                (self._done / f"{number}-{turn}").touch(exist_ok=False)
            except FileExistsError:
                continue
            return True
        return False


def read_started_chunks(state_dir: Path, offset: int = 0) -> tuple[list[tuple[str, int]], int]:
    """Return started chunks, as path and index, after an offset in bytes, and the next offset."""
    try:
        with (state_dir / _STARTED_LOG).open("rb") as file:
            file.seek(offset)
            lines = file.read()
    except FileNotFoundError:
        return [], offset
    whole = lines[: lines.rfind(b"\n") + 1]
    pairs = map(json.loads, whole.splitlines())
    return [(path, index) for path, index in pairs], offset + len(whole)


# --- the engine ---


_MAGIC = b"[script "
_HEADER = re.compile(rb"\[script (\d{9})\]")
HEADER_BYTES = 18


def with_header(data: bytes) -> bytes:
    """Return the data as a container of the scripted engine, with a header that has its length.

    A file with fewer bytes counts as cut.
    """
    return b"%s%09d]%s" % (_MAGIC, HEADER_BYTES + len(data), data)


def is_container(data: bytes) -> bool:
    return _MAGIC.startswith(data[: len(_MAGIC)])


def missing_bytes(data: bytes) -> int | None:
    """Return how many bytes a container lacks; None if its header is incomplete."""
    if not is_container(data):
        return 0
    header = _HEADER.match(data)
    return max(0, int(header[1]) - len(data)) if header else None


def build_scripted_chunks(data: bytes) -> list[Chunk]:
    """Return the chunks of a file with these bytes; injected faults do not change them."""
    pieces = [data[start : start + PIECE] for start in range(0, len(data), PIECE)]
    return [_build_chunk(index, piece) for index, piece in enumerate(pieces)]


def build_scripted_text(data: bytes) -> str:
    """Return the transcript of a file with these bytes."""
    chunks = build_scripted_chunks(data)
    return "".join(segment.text for chunk in chunks for segment in chunk.segments).strip()


def _build_chunk(index: int, piece: bytes) -> Chunk:
    start = index * CHUNK_S
    digest = hashlib.sha256(piece).hexdigest()
    text = "".join(f" {digest[at : at + 4]}" for at in range(0, 16, 4))
    segment = Segment(
        start,
        start + CHUNK_S,
        text,
        avg_logprob=-0.1,
        compression_ratio=1.0,
        no_speech_prob=0.0,
        confidence=0.9,
    )
    return Chunk(index, start, start + CHUNK_S, (segment,))


def _with_chunk(done: ChunkDone, **values: Any) -> ChunkDone:
    return replace(done, chunk=replace(done.chunk, **values))


def _with_segment(done: ChunkDone, **values: Any) -> ChunkDone:
    [segment] = done.chunk.segments
    return _with_chunk(done, segments=(replace(segment, **values),))


ODD_REPORTS: Mapping[str, Callable[[ChunkDone], Any]] = {
    "nan": lambda done: _with_segment(done, avg_logprob=math.nan),
    "infinite": lambda done: _with_chunk(done, end=math.inf),
    "no time": lambda done: _with_chunk(done, start=None),
    "huge index": lambda done: _with_chunk(done, index=2**80),
    "huge end": lambda done: _with_chunk(done, end=10**400),
    "no segments": lambda done: _with_chunk(done, segments=None),
    "bytes": lambda done: _with_segment(done, text=b"bytes"),
    "no chunk": lambda done: replace(done, chunk=None),  # type: ignore[arg-type]
    "nan in a word": lambda done: _with_segment(done, words=(Word(math.nan, 1.0, " a", 0.5),)),
    "unknown code": lambda done: TaskFailed(done.job_id, done.token, "no such code", "it failed"),
    "nan at the end": lambda done: TaskDone(done.job_id, done.token, math.nan),
    "no warnings": lambda done: TaskDone(done.job_id, done.token, 1.0, None),  # type: ignore[arg-type]
    "surrogate": lambda done: _with_segment(
        done, text=" a\udcff b", words=(Word(0.0, 1.0, "\ud800", 0.5),)
    ),
    "nul": lambda done: _with_segment(done, text=" a\0 b"),
    "long": lambda done: _with_segment(done, text=" long" * 20_000),
    "before the file": lambda done: _with_segment(done, start=-5.0, end=-1.0),
    "backwards": lambda done: _with_chunk(done, start=20.0, end=10.0),
    "twice the same index": lambda done: _with_chunk(done, index=0),
}
"""Invalid reports that a defective engine could send instead of a chunk, by name."""


def serve_script(conn: Connection, spec: WorkerSpec) -> int:
    """Serve requests like `speakeasyd.engine.worker_host.serve_requests`."""
    return ScriptedHost(conn=conn, spec=spec).run()


def _name_source(task: Task) -> str:
    """Return the path of a task's source relative to its folder, as fault scripts name it."""
    return os.fsdecode(task.source.path)


@dataclass(eq=False, slots=True)
class _ScriptedTask:
    """The state of a task."""

    task: Task
    waiting: deque[Chunk] = field(default_factory=deque)
    seconds: float = 0.0  # of audio
    warnings: tuple[MediaWarning, ...] = ()
    silent: bool = False  # no more reports are sent about it


class ScriptedHost:
    """A worker with a scripted engine.

    One thread reads the pipe; the main thread processes batches with chunks of several files.
    """

    def __init__(self, *, conn: Connection, spec: WorkerSpec) -> None:
        self._conn, self._spec = conn, spec
        self._script = FaultScript.read_from(Path(spec.state_dir))
        self._faults = _FaultInjector(self._script, spec)
        self._changed = threading.Condition()
        self._inbound: deque[Request] = deque()
        self._tasks: dict[JobId, _ScriptedTask] = {}
        self._model: str | None = None

    def run(self) -> int:
        threading.Thread(target=self._read_requests, daemon=True).start()
        self._send(Hello(os.getpid()))
        while True:
            with self._changed:
                while not self._inbound and not self._tasks:
                    self._changed.wait()
                requests = list(self._inbound)
                self._inbound.clear()
            for request in requests:
                if isinstance(request, Drain):
                    self._send(Drained())
                    return 0
                self._accept_request(request)
            self._process_batch()

    def _accept_request(self, request: Request) -> None:
        match request:
            case Task() as task:
                self._open_task(task)
            case Drop(job_id):
                self._tasks.pop(job_id, None)
            case _:
                pass

    def _open_task(self, task: Task) -> None:
        if self._model != task.options.model:
            self._load_model(task.options.model)
        try:
            data = self._read_source(task.source)
        except LinkRefused as error:
            self._send(TaskFailed(task.job_id, task.token, ErrorCode.SOURCE_LINKED, str(error)))
            return
        except OSError as error:
            self._send(TaskFailed(task.job_id, task.token, ErrorCode.SOURCE_MISSING, str(error)))
            return
        missing = missing_bytes(data)
        if is_container(data) and hashlib.sha256(data).hexdigest() != task.source.sha256:
            self._send(
                TaskFailed(
                    task.job_id, task.token, ErrorCode.SOURCE_REPLACED, "the file has changed"
                )
            )
            return
        if missing is None:
            self._send(TaskFailed(task.job_id, task.token, ErrorCode.NOT_MEDIA, "half a header"))
            return
        chunks = build_scripted_chunks(data)
        self._send(Opened(task.job_id, task.token, len(chunks) * CHUNK_S))
        fault = self._faults.find_due_fault("open", _name_source(task))
        if fault and fault.action == "refuse":
            self._send(TaskFailed(task.job_id, task.token, ErrorCode.NOT_MEDIA, fault.text))
            return
        if fault:
            self._inject_fault(fault)
        self._send(LanguageFound(task.job_id, task.token, task.language or "en", 1.0))
        wanted = (
            c
            for c in chunks
            if c.index not in task.skip and (task.only is None or c.index in task.only)
        )
        warnings = (
            (MediaWarning(WarningKind.CUT, f"cut: {missing} bytes are missing"),) if missing else ()
        )
        self._tasks[task.job_id] = _ScriptedTask(
            task, deque(wanted), len(chunks) * CHUNK_S, warnings
        )

    def _read_source(self, source: SourceRef) -> bytes:
        """Read a source without following links, as the real engine does."""
        with open_below(Path(self._spec.folders[source.folder]), source.path) as file:
            return file.read()

    def _load_model(self, model: str) -> None:
        self._send(Loading(model))
        _wait_seconds(self._script.load_s)
        if fault := self._faults.find_due_fault("load"):
            self._inject_fault(fault)
        self._model = model
        self._send(
            Loaded(model, f"scripted {model}", self._spec.device, "int8", self._script.load_s)
        )

    def _process_batch(self) -> None:
        batch = list(self._next_batch())
        for scripted, chunk in batch:
            self._faults.record_chunk_start(_name_source(scripted.task), chunk.index)
            self._send(
                ChunkStarted(
                    scripted.task.job_id, scripted.task.token, chunk.index, chunk.start, chunk.end
                )
            )
        if batch:
            _wait_seconds(self._script.chunk_s)
        for scripted, chunk in batch:
            done = ChunkDone(scripted.task.job_id, scripted.task.token, chunk)
            fault = self._faults.find_due_fault("chunk", _name_source(scripted.task), chunk.index)
            if fault and fault.action == "no_word":
                scripted.silent = True
                continue
            if fault and fault.action == "odd_report":
                self._send(ODD_REPORTS[fault.text](done))
                continue
            if fault:
                in_flight = tuple((scripted.task.job_id, chunk.index) for scripted, chunk in batch)
                self._inject_fault(fault, in_flight, done)
            self._send(done)
        for scripted in [scripted for scripted in self._tasks.values() if not scripted.waiting]:
            del self._tasks[scripted.task.job_id]
            if not scripted.silent:
                self._send(
                    TaskDone(
                        scripted.task.job_id,
                        scripted.task.token,
                        scripted.seconds,
                        scripted.warnings,
                    )
                )

    def _next_batch(self) -> Iterator[tuple[_ScriptedTask, Chunk]]:
        """Yield one chunk of each of the first tasks."""
        for scripted in list(self._tasks.values())[: max(1, self._spec.batch_size)]:
            if scripted.waiting:
                yield scripted, scripted.waiting.popleft()

    def _inject_fault(
        self,
        fault: InjectedFault,
        in_flight: Sequence[tuple[JobId, int]] = (),
        done: ChunkDone | None = None,
    ) -> None:
        """Inject a fault. Returns only if the process survives it."""
        if end := _FATAL_ACTIONS.get(fault.action):
            end(fault)
        match fault.action:
            case "fault" | "soft_fault":
                soft = fault.action == "soft_fault"
                self._send(Fault(Phase(fault.phase), fault.text, tuple(in_flight), soft))
                if not soft:
                    os._exit(EXIT_FAULT)
                self._load_model(self._model or "auto")
            case "eat_memory":
                self._exhaust_memory(tuple(in_flight))
            case "half_message":
                os.write(self._conn.fileno(), b"\0\0\1\0half of it")  # its length says 256 bytes
                os._exit(0)
            case "garbage":
                self._conn.send_bytes(b"no pickle")
                _hang_forever()
            case "deliver_and_abort" if done:
                self._send(done)
                os.abort()
            case _:
                raise ValueError(f"{fault.action!r} is not possible at {fault.at!r}")

    def _exhaust_memory(self, in_flight: tuple[tuple[JobId, int], ...]) -> None:
        limit_memory(200_000_000)
        blocks: list[bytes] = []
        try:
            while True:
                blocks.append(bytes(10_000_000))
        except MemoryError as error:
            blocks.clear()
            self._send(Fault(Phase.GENERATE, f"MemoryError: {error}", in_flight))
            os._exit(EXIT_FAULT)

    def _send(self, report: Report) -> None:
        try:
            self._conn.send(report)
        except OSError:
            os._exit(71)

    def _read_requests(self) -> None:
        try:
            while True:
                request = self._conn.recv()
                with self._changed:
                    self._inbound.append(request)
                    self._changed.notify()
        except (EOFError, OSError):
            os._exit(71)


def _hang_forever() -> None:
    threading.Event().wait()


def _stop_process() -> None:
    if sys.platform != "win32":
        os.kill(os.getpid(), signal.SIGSTOP)
    _hang_forever()


def _print_and_abort(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
    os.abort()


_FATAL_ACTIONS: Mapping[FaultAction, Callable[[InjectedFault], object]] = {
    "abort": lambda _: os.abort(),
    "last_words": lambda fault: _print_and_abort(fault.text),
    "segfault": lambda _: ctypes.string_at(0),
    "exit": lambda fault: os._exit(fault.status),
    "hang": lambda _: _hang_forever(),
    "stop": lambda _: _stop_process(),
}
"""Faults that end or block the process without using the engine."""


def limit_memory(more: int) -> None:
    """Limit the address space to its current size plus this many bytes."""
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - there is none on Windows

        import psutil  # noqa: PLC0415

        limit = psutil.Process().memory_info().vms + more
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


# --- the recognizer ---

_WORDS_PER_SEGMENT = 4
_LIKELY = 0.9  # probability of the language that a stretch is said to have


@dataclass(frozen=True, slots=True)
class ScriptedRequest:
    clip: "Clip"
    language: str | None
    context: str
    words: bool

    @property
    def batch_key(self) -> int:
        """Clips of about the same length share a call."""
        return math.ceil(self.clip.seconds / CHUNK_S)

    @property
    def batch_seconds(self) -> float:
        return self.batch_key * CHUNK_S


@dataclass(frozen=True, slots=True)
class ScriptedHypothesis:
    request: ScriptedRequest

    def settle_doubts(self) -> RecognizedText:
        """Return words made from the samples; none for digital silence."""
        clip, language = self.request.clip, self.request.language
        if not clip.samples.any():
            return RecognizedText()
        digest = hashlib.sha256(clip.samples.tobytes()).hexdigest()
        step = clip.seconds / _WORDS_PER_SEGMENT
        words = tuple(
            Word(
                round(clip.start + number * step, 3),
                round(clip.start + (number + 1) * step, 3),
                f" {digest[4 * number : 4 * number + 4]}",
                probability=0.5,
            )
            for number in range(_WORDS_PER_SEGMENT)
        )
        segment = Segment(
            round(clip.start, 3),
            round(clip.end, 3),
            "".join(word.text for word in words),
            confidence=0.5,
            channel=clip.channel,
            track=clip.track,
            language=language,
            words=words if self.request.words else (),
        )
        return RecognizedText((segment,))


class ScriptedRecognizer:
    """A `Recognizer` whose text is a function of the samples; it needs no model."""

    def __init__(self, languages: Sequence[str] = ("en",)) -> None:
        self._languages = sorted(languages)
        self.capabilities = Capabilities(
            languages=frozenset(languages),
            detects_languages=len(languages) > 1,
            word_times=True,
        )

    def prepare(
        self, clip: "Clip", options: Options, language: str | None, context: str = ""
    ) -> ScriptedRequest:
        words = options.word_timestamps or clip.has_several_speakers
        return ScriptedRequest(clip, language, context, words)

    def encode(self, requests: Sequence[ScriptedRequest]) -> list["Clip"]:
        return [request.clip for request in requests]

    def rate_languages(
        self, encoded: "Clip", stretches: Sequence[tuple[float, float]] | None = None
    ) -> list[LanguageProbabilities]:
        spans = [(0.0, encoded.seconds)] if stretches is None else stretches
        return [self._rate_part(encoded.cut_part(start, end)) for start, end in spans]

    def _rate_part(self, part: "Clip") -> LanguageProbabilities:
        """Return one language as likely, by the loudness of the part."""
        if not part.samples.size:
            return {}
        loudness = round(10 * float(abs(part.samples).max()))
        likely = self._languages[loudness % len(self._languages)]
        rest = (1 - _LIKELY) / max(1, len(self._languages) - 1)
        return {code: _LIKELY if code == likely else rest for code in self._languages}

    def recognize_batch(
        self, requests: Sequence[ScriptedRequest], encoded: Sequence["Clip"] | None = None
    ) -> list[ScriptedHypothesis]:
        if encoded is not None and list(encoded) != [request.clip for request in requests]:
            raise ValueError("these are the encodings of other clips")
        return [ScriptedHypothesis(request) for request in requests]

    def free(self) -> None:
        self._languages = []


def _wait_seconds(seconds: float) -> None:
    if seconds:
        time.sleep(seconds)

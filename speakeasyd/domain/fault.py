"""Fault classification by phase, error text, exit status and lack of progress.

Exception types are not enough: CTranslate2 raises RuntimeError and ValueError for everything, and
PyAV's InvalidDataError is a ValueError too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from speakeasyd.domain.devices import CPU
from speakeasyd.errors import ErrorCode


class FaultKind(StrEnum):
    FILE = "file"
    """The audio file itself; other files are not affected."""
    OUT_OF_MEMORY = "out_of_memory"
    """The device's memory."""
    HOST_MEMORY = "host_memory"
    """The machine's memory."""
    CONFIGURATION = "configuration"
    """A library, driver, model or setting: the fault repeats until a person fixes it."""
    DEFECT = "defect"
    """A defect of speakeasyd or of its installation, such as libraries that do not fit together."""
    CONTEXT_LOST = "context_lost"
    """The CUDA context is lost: this process cannot compute any more, but a new one can."""
    DEVICE_GONE = "device_gone"
    """The device does not answer: it is asleep, lost, or in use by another program."""
    KILLED = "killed"
    """Ended by a person or another program; neither the work nor the device is the cause."""
    HANG = "hang"
    """The worker made no progress for too long."""
    UNKNOWN = "unknown"
    """No pattern matches: handled like a lost context."""


class Phase(StrEnum):
    """What was being done when a fault occurred. The value is stored in the ledger."""

    LOAD = "load"
    """A worker loads a model."""
    CANARY = "canary"
    """The loaded model transcribes the canary."""
    DECODE = "decode"
    """A file is decoded to samples."""
    VAD = "vad"
    """Voice activity is detected."""
    ENCODE = "encode"
    """The model encodes the audio of a batch."""
    GENERATE = "generate"
    """The model generates text, or detects the language."""
    ALIGN = "align"
    """Words get their times."""
    HOST = "host"
    """The worker's own code, between the others."""
    TRANSCRIPTION = "transcription"
    """A job between its claim and its last chunk: the stall watchdog knows no more."""
    PUBLICATION = "publication"
    """The artifacts of a job are written."""
    UNKNOWN = ""
    """A worker ended without a report."""


LOADING = frozenset({Phase.LOAD, Phase.CANARY})
"""Phases in which no work is on the device."""
READING = frozenset({Phase.DECODE, Phase.VAD})
"""Phases that concern the files being read, not the chunks on the device."""


@dataclass(frozen=True, slots=True)
class Nature:
    """What a kind of fault implies."""

    context_survives: bool  # the process can continue
    again_helps: bool  # a retry of the same work may succeed
    blames_work: bool  # the chunks on the device are suspects


NATURES: Mapping[FaultKind, Nature] = {
    FaultKind.FILE: Nature(context_survives=True, again_helps=False, blames_work=True),
    FaultKind.OUT_OF_MEMORY: Nature(context_survives=True, again_helps=True, blames_work=True),
    FaultKind.HOST_MEMORY: Nature(context_survives=False, again_helps=True, blames_work=True),
    FaultKind.CONFIGURATION: Nature(context_survives=True, again_helps=False, blames_work=False),
    FaultKind.DEFECT: Nature(context_survives=False, again_helps=False, blames_work=True),
    FaultKind.CONTEXT_LOST: Nature(context_survives=False, again_helps=True, blames_work=True),
    FaultKind.DEVICE_GONE: Nature(context_survives=False, again_helps=True, blames_work=False),
    FaultKind.KILLED: Nature(context_survives=False, again_helps=True, blames_work=False),
    FaultKind.HANG: Nature(context_survives=False, again_helps=True, blames_work=True),
    FaultKind.UNKNOWN: Nature(context_survives=False, again_helps=True, blames_work=True),
}


class Remedy(StrEnum):
    STEP_DOWN = "step_down"
    """Soft restart with smaller batches, then with a smaller compute type."""
    OTHER_TYPE = "other_type"
    """Soft restart with the next compute type."""
    FRESH_PROCESS = "fresh_process"
    """Hard restart: end the process and start another."""
    OTHER_MODEL = "other_model"
    """Hard restart. The device is not the cause: only work for this model is refused."""
    PROBE = "probe"
    """Hard restart, after a disposable process could use the device."""
    PERSON = "person"
    """Hard restart, after a person has fixed the cause; a slow probe notices when it is fixed."""
    REINSTALL = "reinstall"
    """Hard restart, a few times; then none until the daemon is started again."""
    CPU_FOR_GOOD = "cpu_for_good"
    """The device can never do the work; it is not probed."""
    OTHER_DEVICE = "other_device"
    """The device has left for good: others do its work."""


SOFT = frozenset({Remedy.STEP_DOWN, Remedy.OTHER_TYPE})


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A classified fault: kind, remedy, error code, and messages for users.

    `what` says what happened, `hint` what to do.
    """

    kind: FaultKind
    remedy: Remedy
    code: ErrorCode
    what: str
    hint: str = ""

    @property
    def soft(self) -> bool:
        """Whether a soft restart, without a new process, is enough."""
        return self.remedy in SOFT

    @property
    def blames_work(self) -> bool:
        """Whether the chunks on the device are suspects."""
        return NATURES[self.kind].blames_work


@dataclass(frozen=True, slots=True)
class _FaultPattern:
    """A regular expression that identifies a fault by its text.

    `phases`: the phases in which it applies; all if empty.
    """

    pattern: str
    diagnosis: Diagnosis
    phases: frozenset[Phase] = frozenset()

    def matches_error(self, phase: Phase, text: str) -> bool:
        return (not self.phases or phase in self.phases) and re.search(
            self.pattern, text, re.IGNORECASE
        ) is not None


_SICK = Diagnosis(
    FaultKind.CONTEXT_LOST,
    Remedy.FRESH_PROCESS,
    ErrorCode.DEVICE_FAILED,
    "the GPU's context was lost",
    "no action is needed if it happens once; if it repeats, check the driver, the temperature and "
    "the power supply",
)
_WORN = Diagnosis(
    FaultKind.CONTEXT_LOST,
    Remedy.FRESH_PROCESS,
    ErrorCode.DEVICE_FAILED,
    "the GPU found an error in its memory that it cannot correct",
    "check `nvidia-smi -q -d ECC,PAGE_RETIREMENT`; replace the card if this repeats",
)
_FULL = Diagnosis(
    FaultKind.OUT_OF_MEMORY,
    Remedy.STEP_DOWN,
    ErrorCode.OUT_OF_MEMORY,
    "the GPU's memory is full",
    "stop other programs that use the GPU, or choose a smaller model, batch_size or compute_type",
)
_HOST_FULL = Diagnosis(
    FaultKind.HOST_MEMORY,
    Remedy.FRESH_PROCESS,
    ErrorCode.OUT_OF_MEMORY,
    "the machine's memory is full",
    "choose a smaller model or fewer replicas, or give the service more memory",
)
_NO_LIBRARY = Diagnosis(
    FaultKind.CONFIGURATION,
    Remedy.PERSON,
    ErrorCode.LIBRARY_MISSING,
    "a library that the GPU needs is not installed",
    "pip install 'speakeasyd[gpu]', which brings cuBLAS 12",
)
_BROKEN_INSTALL = Diagnosis(
    FaultKind.DEFECT,
    Remedy.REINSTALL,
    ErrorCode.LIBRARY_MISSING,
    "a library of the engine cannot be loaded",
    "install speakeasyd again (pip install --force-reinstall speakeasyd), on Windows also the "
    "Microsoft Visual C++ Redistributable; then start the service again",
)
_DEFECT = Diagnosis(
    FaultKind.DEFECT,
    Remedy.REINSTALL,
    ErrorCode.INTERNAL,
    "a defect of speakeasyd, or of its installation",
    "install speakeasyd again (pip install --force-reinstall speakeasyd) and start the service "
    "again; if it repeats, please report it with the log, which has the traceback",
)
_OLD_DRIVER = Diagnosis(
    FaultKind.CONFIGURATION,
    Remedy.PERSON,
    ErrorCode.LIBRARY_MISSING,
    "the NVIDIA driver is missing, or too old for CUDA 12",
    "install a current NVIDIA driver, or set device = 'cpu'",
)
_OLD_CARD = Diagnosis(
    FaultKind.CONFIGURATION,
    Remedy.CPU_FOR_GOOD,
    ErrorCode.DEVICE_FAILED,
    "this GPU's architecture is not supported by the installed CTranslate2",
    "install another version of ctranslate2, or set device = 'cpu'",
)
_WRONG_TYPE = Diagnosis(
    FaultKind.CONFIGURATION,
    Remedy.OTHER_TYPE,
    ErrorCode.DEVICE_FAILED,
    "the device cannot compute in the chosen compute type",
    "set compute_type = 'auto'",
)
_NO_MODEL = Diagnosis(
    FaultKind.CONFIGURATION,
    Remedy.OTHER_MODEL,
    ErrorCode.MODEL_UNAVAILABLE,
    "the model cannot be found, fetched or loaded",
    "check the model's name or folder; delete a damaged download so that it is fetched again",
)
_GONE = Diagnosis(
    FaultKind.DEVICE_GONE,
    Remedy.PROBE,
    ErrorCode.DEVICE_FAILED,
    "the GPU does not answer",
    "after a sleep of the machine it may need a restart or "
    "`sudo rmmod nvidia_uvm; sudo modprobe nvidia_uvm`",
)
MACHINE_LOST = Diagnosis(
    FaultKind.KILLED,
    Remedy.OTHER_DEVICE,
    ErrorCode.WORKER_CRASHED,
    "the worker's machine, or the connection to it, was lost",
    "its work is done elsewhere; if that was not planned, check the machine, its Ray and the network",
)
_REFUSED = Diagnosis(
    FaultKind.CONFIGURATION,
    Remedy.PERSON,
    ErrorCode.LIBRARY_MISSING,
    "the machine cannot take part in the cluster",
    "install the same versions of speakeasyd, Python and Ray, and the same model, on each machine",
)
_BAD_FILE = Diagnosis(
    FaultKind.FILE,
    Remedy.FRESH_PROCESS,
    ErrorCode.DECODE_FAILED,
    "the file holds no audio that can be read",
)
_CRASHED = Diagnosis(
    FaultKind.CONTEXT_LOST,
    Remedy.FRESH_PROCESS,
    ErrorCode.WORKER_CRASHED,
    "the worker process crashed",
    "the worker's last output is in its log, in the folder `workers` of the state folder",
)
_HUNG = Diagnosis(
    FaultKind.HANG,
    Remedy.FRESH_PROCESS,
    ErrorCode.WORKER_CRASHED,
    "the worker showed no progress and was ended",
    "if it was only slow, raise stall_s; on Windows, a full GPU memory slows down all work",
)
_HUNG_ON_CPU = replace(_HUNG, hint="if it was only slow, raise stall_s")
_STARVED = Diagnosis(
    FaultKind.HOST_MEMORY,
    Remedy.FRESH_PROCESS,
    ErrorCode.WORKER_CRASHED,
    "the system ended the worker because the machine's memory was full",
    _HOST_FULL.hint,
)
_ENDED = Diagnosis(
    FaultKind.KILLED,
    Remedy.FRESH_PROCESS,
    ErrorCode.WORKER_CRASHED,
    "the worker was killed by a person or a program",
)
_UNKNOWN = Diagnosis(
    FaultKind.UNKNOWN,
    Remedy.FRESH_PROCESS,
    ErrorCode.WORKER_CRASHED,
    "the worker failed for an unknown reason",
    _CRASHED.hint,
)

_AFTER_LOADING = frozenset(
    {
        Phase.CANARY,
        Phase.ENCODE,
        Phase.GENERATE,
        Phase.ALIGN,
        Phase.VAD,
        Phase.DECODE,
        Phase.HOST,
    }
)
"""Phases in which such errors are our defects; while loading, a damaged model raises them too."""

_PATTERNS = (
    _FaultPattern(r"^NodeRefused:", _REFUSED),
    _FaultPattern(r"no kernel image|NoKernelImage|invalid device function", _OLD_CARD),
    _FaultPattern(r"driver version is insufficient|driver is a stub|libcuda\S* .*cannot open", _OLD_DRIVER),
    _FaultPattern(r"Library \S+ is not found or cannot be loaded", _NO_LIBRARY),
    _FaultPattern(r"do not support efficient \S+ computation|CUBLAS_STATUS_(NOT_SUPPORTED|ARCH_MISMATCH)", _WRONG_TYPE),
    _FaultPattern(r"uncorrectable (ECC|NVLink) error", _WORN),
    _FaultPattern(r"CUDA failed with error out of memory|CUDA out of memory|CUDA error: out of memory|"
          r"CUBLAS_STATUS_ALLOC_FAILED|\bOutOfMemoryError\b", _FULL),
    _FaultPattern(r"mkl_malloc: failed|std::bad_alloc|\bMemoryError\b|Cannot allocate memory|"
          r"Unable to allocate \S+ \w+ for an array|can't start new thread", _HOST_FULL),
    _FaultPattern(r"CUDA (failed with error|error:) (unknown error|no CUDA-capable device|initialization error|"
          r"(all )?CUDA-capable device(s|\(s\)) (is/)?are busy|invalid device ordinal|system not yet initialized)|"
          r"GPU is lost|fallen off the bus", _GONE),
    _FaultPattern(r"illegal (memory access|address|instruction)|launch fail|launch timed out|misaligned address|"
          r"hardware stack|invalid program counter|device-side assert|AcceleratorError|CUDA failed with error|"
          r"CUDA error|cuBLAS failed|CUBLAS_STATUS|CUDNN_STATUS|parallel_for failed", _SICK),
    _FaultPattern(r"InvalidDataError|tuple index out of range", _BAD_FILE, frozenset({Phase.DECODE})),
    _FaultPattern(r"^ModelUnavailable|Unable to open file '|has an invalid payload size|File \S+ is incomplete|"
          r"Unsupported model binary version|RepositoryNotFound|LocalEntryNotFound", _NO_MODEL),
    _FaultPattern(r"^(ImportError|ModuleNotFoundError|PackageNotFoundError)|"
          r"cannot open shared object file|DLL load failed|"
          r"symbol lookup error|undefined symbol|version `\S+' not found|"
          r"binary incompatibility|compiled (against|using) (ABI|API|NumPy)", _BROKEN_INSTALL),
    _FaultPattern(r"^(TypeError|AttributeError|NameError|UnboundLocalError|NotImplementedError|SyntaxError|IndentationError|"
          r"RecursionError|PicklingError|UnpicklingError)\b", _DEFECT),
    _FaultPattern(r"^(KeyError|IndexError|LookupError|AssertionError|ZeroDivisionError)\b", _DEFECT, _AFTER_LOADING),
)  # fmt: skip
"""The first match counts: specific patterns come before general ones."""

_ON_CPU: Mapping[Diagnosis, Diagnosis] = {
    _SICK: _UNKNOWN,
    _WORN: _UNKNOWN,
    _GONE: _UNKNOWN,
    _OLD_DRIVER: _UNKNOWN,
    _OLD_CARD: _UNKNOWN,
    _FULL: _HOST_FULL,
    _NO_LIBRARY: _BROKEN_INSTALL,
    _HUNG: _HUNG_ON_CPU,
}
"""What a diagnosis of a GPU fault means for a worker on the CPU."""

_BY_PHASE: Mapping[Phase, Diagnosis] = {
    # Device errors match patterns of their own; errors about damaged files vary too much for that
    Phase.LOAD: _NO_MODEL,
    Phase.CANARY: _SICK,
}
"""The diagnosis by phase of an error that matches no pattern."""

_STATUSES: Mapping[int, Diagnosis] = {
    -9: _ENDED,  # SIGKILL that we did not send; the OOM killer is recognised by its counter
    -15: _ENDED,  # SIGTERM
    -4: _CRASHED,  # SIGILL
    -6: _CRASHED,  # SIGABRT: `terminate called after throwing`
    -7: _CRASHED,  # SIGBUS
    -8: _CRASHED,  # SIGFPE
    -11: _CRASHED,  # SIGSEGV
    3: _CRASHED,  # abort() on Windows
    0xC0000005: _CRASHED,  # access violation
    0xC0000409: _CRASHED,  # stack buffer overrun: how Windows reports "terminate called"
    0xC000001D: _CRASHED,  # illegal instruction
    0xC00000FD: _CRASHED,  # stack overflow
    0xC0000017: _HOST_FULL,  # no memory
    0xC000012D: _HOST_FULL,  # commitment limit
    0xC0000135: _BROKEN_INSTALL,  # a DLL was not found
}


def classify_fault(
    *,
    phase: Phase = Phase.UNKNOWN,
    error: str = "",
    last_words: str = "",
    exit_status: int | None = None,
    silent: bool = False,
    short_of_memory: bool = False,
    device: str = "cuda",
) -> Diagnosis:
    """Return the diagnosis of a fault, with messages that fit the worker's `device`.

    In this order: a missed liveness deadline (`silent`), the reported `error`, the end of the
    process's stderr (`last_words`), its `exit_status`. The status is as in `Process.exitcode`:
    negative for signals, None while the process lives. `short_of_memory`: the system's
    out-of-memory killer ended programs during the worker's life.
    """
    if silent:
        diagnosis = _HUNG
    else:
        diagnosis = (
            _diagnose_text(phase, error)
            or _diagnose_text(phase, last_words)
            or (_BY_PHASE.get(phase) if error else None)
            or _diagnose_exit(exit_status, short_of_memory=short_of_memory)
        )
    return _ON_CPU.get(diagnosis, diagnosis) if device == CPU else diagnosis


def _diagnose_text(phase: Phase, text: str) -> Diagnosis | None:
    return next(
        (pattern.diagnosis for pattern in _PATTERNS if pattern.matches_error(phase, text)), None
    )


def _diagnose_exit(status: int | None, *, short_of_memory: bool) -> Diagnosis:
    if status is None:
        return _UNKNOWN
    if status == -9 and short_of_memory:
        return _STARVED
    return _STATUSES.get(status if status > -1000 else status & 0xFFFFFFFF, _UNKNOWN)

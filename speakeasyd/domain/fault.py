"""What failed, told from where it happened, what it said, how the process ended, and silence.

Types tell little: CTranslate2 raises RuntimeError and ValueError for everything, and PyAV's InvalidDataError is a
ValueError too.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from speakeasyd.errors import ErrorCode


class FaultKind(StrEnum):
    FILE = "file"
    """The audio itself: other files go on."""
    OUT_OF_MEMORY = "out_of_memory"
    """The device's memory."""
    HOST_MEMORY = "host_memory"
    """The machine's memory."""
    CONFIGURATION = "configuration"
    """A library, driver, model or setting: the same again until a person mends it."""
    DEFECT = "defect"
    """A defect of speakeasyd or of its installation, such as libraries that do not fit together."""
    CONTEXT_LOST = "context_lost"
    """The process can compute no more; a fresh one can."""
    DEVICE_GONE = "device_gone"
    """The device does not answer: asleep, lost, or taken by another."""
    KILLED = "killed"
    """Ended from outside, by a person or a program: neither the work nor the device had a part in it."""
    HANG = "hang"
    """No sign of progress for too long."""
    UNKNOWN = "unknown"
    """Nothing in the table: taken for a lost context."""


@dataclass(frozen=True, slots=True)
class Nature:
    context_survives: bool  # the process may go on
    again_helps: bool  # the same work, tried again, may come through
    blames_work: bool  # what was on the device is suspect


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
    """Soft: load again in the same process, with smaller batches, then a smaller compute type."""
    OTHER_TYPE = "other_type"
    """Soft: load again in the same process, with the next compute type."""
    FRESH_PROCESS = "fresh_process"
    """Hard: end the process and start another."""
    OTHER_MODEL = "other_model"
    """Hard, and the device is innocent: only work for this model is refused."""
    PROBE = "probe"
    """Hard, and no new worker until a disposable process has found the device well."""
    PERSON = "person"
    """Hard, and somebody must mend something first; a slow probe notices when it is mended."""
    REINSTALL = "reinstall"
    """Hard. A few fresh processes are tried; then no more until the daemon is started again."""
    CPU_FOR_GOOD = "cpu_for_good"
    """This device can never do the work."""


SOFT = frozenset({Remedy.STEP_DOWN, Remedy.OTHER_TYPE})


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A fault by name, in words for users (`what`, and in `hint` how to mend it), and what helps."""

    kind: FaultKind
    remedy: Remedy
    code: ErrorCode
    what: str
    hint: str = ""

    @property
    def soft(self) -> bool:
        """Whether the worker may mend itself without a new process."""
        return self.remedy in SOFT

    @property
    def blames_work(self) -> bool:
        return NATURES[self.kind].blames_work


@dataclass(frozen=True, slots=True)
class _FaultPattern:
    """A fault's mark in the text. `phases`: where it means that; everywhere if empty."""

    pattern: str
    diagnosis: Diagnosis
    phases: frozenset[str] = frozenset()

    def matches_error(self, phase: str | None, text: str) -> bool:
        return (not self.phases or phase in self.phases) and re.search(
            self.pattern, text, re.IGNORECASE
        ) is not None


_SICK = Diagnosis(
    FaultKind.CONTEXT_LOST,
    Remedy.FRESH_PROCESS,
    ErrorCode.DEVICE_FAILED,
    "the GPU's context was lost",
    "nothing to do once; if it comes often, look at the driver, the temperature and the power supply",
)
_WORN = Diagnosis(
    FaultKind.CONTEXT_LOST,
    Remedy.FRESH_PROCESS,
    ErrorCode.DEVICE_FAILED,
    "the GPU found an error in its memory that it cannot correct",
    "look at `nvidia-smi -q -d ECC,PAGE_RETIREMENT`; a card that repeats this needs replacement",
)
_FULL = Diagnosis(
    FaultKind.OUT_OF_MEMORY,
    Remedy.STEP_DOWN,
    ErrorCode.OUT_OF_MEMORY,
    "the GPU's memory is full",
    "free the GPU from other programs, or choose a smaller model, batch_size or compute_type",
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
    "install speakeasyd again (pip install --force-reinstall speakeasyd), on Windows also the Microsoft Visual C++ "
    "Redistributable; then start the service again",
)
_DEFECT = Diagnosis(
    FaultKind.DEFECT,
    Remedy.REINSTALL,
    ErrorCode.INTERNAL,
    "a defect of speakeasyd, or of its installation",
    "install speakeasyd again (pip install --force-reinstall speakeasyd) and start the service again; "
    "if it comes back, please report it with the log, which has the traceback",
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
    "look at the model's name or folder; delete a damaged download so that it is fetched again",
)
_GONE = Diagnosis(
    FaultKind.DEVICE_GONE,
    Remedy.PROBE,
    ErrorCode.DEVICE_FAILED,
    "the GPU does not answer",
    "after a sleep of the machine it may need a restart or `sudo rmmod nvidia_uvm; sudo modprobe nvidia_uvm`",
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
    "the worker's last words are in its log, in the folder `workers` of the state folder",
)
_HUNG = Diagnosis(
    FaultKind.HANG,
    Remedy.FRESH_PROCESS,
    ErrorCode.WORKER_CRASHED,
    "the worker showed no progress and was ended",
    "if it only was slow, raise stall_s; on Windows, a full GPU memory makes everything crawl",
)
_HUNG_ON_CPU = replace(_HUNG, hint="if it only was slow, raise stall_s")
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
    "the worker failed in a way that is not known",
    _CRASHED.hint,
)

_AFTER_LOADING = frozenset({"canary", "encode", "generate", "align", "vad", "decode", "host"})
"""A damaged model can raise such errors while it is loaded; elsewhere they are defects of ours."""

_SIGNS = (
    _FaultPattern(r"no kernel image|NoKernelImage|invalid device function", _OLD_CARD),
    _FaultPattern(r"driver version is insufficient|driver is a stub|libcuda\S* .*cannot open", _OLD_DRIVER),
    _FaultPattern(r"Library \S+ is not found or cannot be loaded", _NO_LIBRARY),
    _FaultPattern(r"do not support efficient \S+ computation|CUBLAS_STATUS_(NOT_SUPPORTED|ARCH_MISMATCH)", _WRONG_TYPE),
    _FaultPattern(r"uncorrectable (ECC|NVLink) error", _WORN),
    _FaultPattern(r"CUDA failed with error out of memory|CUDA out of memory|CUDA error: out of memory|"
          r"CUBLAS_STATUS_ALLOC_FAILED|\bOutOfMemoryError\b", _FULL),
    _FaultPattern(r"mkl_malloc: failed|std::bad_alloc|\bMemoryError\b|Cannot allocate memory|"
          r"Unable to allocate \S+ \w+ for an array", _HOST_FULL),
    _FaultPattern(r"CUDA (failed with error|error:) (unknown error|no CUDA-capable device|initialization error|"
          r"(all )?CUDA-capable device(s|\(s\)) (is/)?are busy|invalid device ordinal|system not yet initialized)|"
          r"GPU is lost|fallen off the bus", _GONE),
    _FaultPattern(r"illegal (memory access|address|instruction)|launch fail|launch timed out|misaligned address|"
          r"hardware stack|invalid program counter|device-side assert|AcceleratorError|CUDA failed with error|"
          r"CUDA error|cuBLAS failed|CUBLAS_STATUS|CUDNN_STATUS|parallel_for failed", _SICK),
    _FaultPattern(r"InvalidDataError|tuple index out of range", _BAD_FILE, frozenset({"decode"})),
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
"""The first that fits counts: the particular before the general."""

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
"""What a diagnosis of a GPU means for a worker on the CPU, which has none."""

_UNTOLD: Mapping[str | None, Diagnosis] = {
    "load": _NO_MODEL,  # a device has its words for what it lacks; damaged files are complained of in a hundred ways
    "canary": _SICK,
}
"""What a text that no sign fits means where it came up."""

_STATUSES: Mapping[int, Diagnosis] = {
    -9: _ENDED,  # SIGKILL that we did not send; Linux's out-of-memory killer is told by its counter
    -15: _ENDED,  # SIGTERM
    -4: _CRASHED,  # SIGILL
    -6: _CRASHED,  # SIGABRT: `terminate called after throwing`
    -7: _CRASHED,  # SIGBUS
    -8: _CRASHED,  # SIGFPE
    -11: _CRASHED,  # SIGSEGV
    3: _CRASHED,  # abort() on Windows
    0xC0000005: _CRASHED,  # access violation
    0xC0000409: _CRASHED,  # stack buffer overrun, which is how Windows spells "terminate called"
    0xC000001D: _CRASHED,  # illegal instruction
    0xC00000FD: _CRASHED,  # stack overflow
    0xC0000017: _HOST_FULL,  # no memory
    0xC000012D: _HOST_FULL,  # commitment limit
    0xC0000135: _BROKEN_INSTALL,  # a DLL was not found
}


def classify_fault(
    *,
    phase: str | None = None,
    error: str = "",
    last_words: str = "",
    exit_status: int | None = None,
    silent: bool = False,
    short_of_memory: bool = False,
    device: str = "cuda",
) -> Diagnosis:
    """What a fault is, in words that fit the worker's `device`.

    Silence counts before everything, then what was reported, then what the dying process wrote, then its exit status:
    as `Process.exitcode` has it, negative for signals, None while the process lives. `short_of_memory`: the system
    ended programs for want of memory while the worker lived.
    """
    if silent:
        diagnosis = _HUNG
    else:
        diagnosis = (
            _diagnose_text(phase, error)
            or _diagnose_text(phase, last_words)
            or (_UNTOLD.get(phase) if error else None)
            or _diagnose_exit(exit_status, short_of_memory=short_of_memory)
        )
    return _ON_CPU.get(diagnosis, diagnosis) if device == "cpu" else diagnosis


def _diagnose_text(phase: str | None, text: str) -> Diagnosis | None:
    return next((sign.diagnosis for sign in _SIGNS if sign.matches_error(phase, text)), None)


def _diagnose_exit(status: int | None, *, short_of_memory: bool) -> Diagnosis:
    if status is None:
        return _UNKNOWN
    if status == -9 and short_of_memory:
        return _STARVED
    return _STATUSES.get(status if status > -1000 else status & 0xFFFFFFFF, _UNKNOWN)

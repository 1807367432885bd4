"""Known error messages and exit statuses are classified correctly."""

import re

import pytest

from speakeasyd.domain.fault import NATURES, FaultKind, Remedy, classify_fault
from speakeasyd.errors import ErrorCode

GPU_WORDS = r"\bGPU|CUDA|cuBLAS|NVIDIA|driver|card\b|temperature|power supply"

TEXTS = [
    # a lost context
    (
        "generate",
        "RuntimeError: CUDA failed with error an illegal memory access was encountered",
        "context_lost",
    ),
    ("generate", "RuntimeError: CUDA failed with error unspecified launch failure", "context_lost"),
    ("encode", "RuntimeError: CUDA failed with error misaligned address", "context_lost"),
    (
        "encode",
        "RuntimeError: CUDA failed with error the launch timed out and was terminated",
        "context_lost",
    ),
    (
        "encode",
        "RuntimeError: CUDA failed with error an illegal instruction was encountered",
        "context_lost",
    ),
    ("encode", "RuntimeError: CUDA failed with error invalid program counter", "context_lost"),
    ("encode", "RuntimeError: CUDA failed with error hardware stack error", "context_lost"),
    (
        "generate",
        "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
        "context_lost",
    ),
    ("generate", "RuntimeError: CUDA error: device-side assert triggered", "context_lost"),
    (
        "encode",
        "RuntimeError: CUDA failed with error uncorrectable ECC error encountered",
        "context_lost",
    ),
    (
        "encode",
        "RuntimeError: cuBLAS failed with status CUBLAS_STATUS_NOT_INITIALIZED",
        "context_lost",
    ),
    (
        "encode",
        "RuntimeError: cuBLAS failed with status CUBLAS_STATUS_INTERNAL_ERROR",
        "context_lost",
    ),
    (
        "encode",
        "RuntimeError: cuBLAS failed with status CUBLAS_STATUS_EXECUTION_FAILED",
        "context_lost",
    ),
    ("canary", "CanaryFailed: the canary was transcribed as 'la la la'", "context_lost"),
    # memory
    ("generate", "RuntimeError: CUDA failed with error out of memory", "out_of_memory"),
    ("load", "RuntimeError: CUDA failed with error out of memory", "out_of_memory"),
    (
        "encode",
        "RuntimeError: cuBLAS failed with status CUBLAS_STATUS_ALLOC_FAILED",
        "out_of_memory",
    ),
    (
        "generate",
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB",
        "out_of_memory",
    ),
    ("load", "RuntimeError: mkl_malloc: failed to allocate memory", "host_memory"),
    ("decode", "MemoryError: ", "host_memory"),
    ("generate", "MemoryError: std::bad_alloc", "host_memory"),
    (
        "vad",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 3.2 GiB for an array",
        "host_memory",
    ),
    ("decode", "OSError: [Errno 12] Cannot allocate memory", "host_memory"),
    # the device does not respond
    ("load", "RuntimeError: CUDA failed with error unknown error", "device_gone"),
    (
        "load",
        "RuntimeError: CUDA failed with error no CUDA-capable device is detected",
        "device_gone",
    ),
    (
        "load",
        "RuntimeError: CUDA failed with error all CUDA-capable devices are busy or unavailable",
        "device_gone",
    ),
    (
        "load",
        "RuntimeError: CUDA failed with error CUDA-capable device(s) is/are busy or unavailable",
        "device_gone",
    ),
    ("load", "RuntimeError: CUDA failed with error initialization error", "device_gone"),
    # needs a person
    (
        "encode",
        "RuntimeError: Library libcublas.so.12 is not found or cannot be loaded",
        "configuration",
    ),
    (
        "encode",
        "RuntimeError: Library cublas64_12.dll is not found or cannot be loaded",
        "configuration",
    ),
    (
        "load",
        "RuntimeError: CUDA failed with error CUDA driver version is insufficient for CUDA runtime version",
        "configuration",
    ),
    (
        "encode",
        (
            "RuntimeError: parallel_for failed: cudaErrorNoKernelImageForDevice: "
            "no kernel image is available for execution on the device"
        ),
        "configuration",
    ),
    (
        "encode",
        "RuntimeError: cuBLAS failed with status CUBLAS_STATUS_NOT_SUPPORTED",
        "configuration",
    ),
    (
        "load",
        (
            "ValueError: Requested float16 compute type, but the target device or backend "
            "do not support efficient float16 computation."
        ),
        "configuration",
    ),
    (
        "load",
        "RuntimeError: Unable to open file 'model.bin' in model '/models/small'",
        "configuration",
    ),
    ("load", "RuntimeError: Model file has an invalid payload size", "configuration"),
    ("load", "ModelUnavailable: no model 'tiny.xx'", "configuration"),
    (
        "load",
        "RuntimeError: File model.bin is incomplete: failed to read a value of size 4 at position 0",
        "configuration",
    ),
    ("load", "RuntimeError: Cannot load the vocabulary from the model directory", "configuration"),
    (
        "load",
        "UnicodeDecodeError: 'utf-8' codec can't decode byte 0x91 in position 34",
        "configuration",
    ),
    (
        "canary",
        "ModelUnavailable: /models/a is damaged: the canary was transcribed as 'la la la'",
        "configuration",
    ),
    # a defect of speakeasyd or its installation
    ("host", "ModuleNotFoundError: No module named 'ctranslate2'", "defect"),
    ("host", "ImportError: DLL load failed while importing _ext", "defect"),
    ("canary", "TypeError: open() got an unexpected keyword argument 'metadata_errors'", "defect"),
    ("load", "TypeError: __init__() got an unexpected keyword argument 'hop_length'", "defect"),
    ("load", "AttributeError: module 'ctranslate2' has no attribute 'models'", "defect"),
    ("load", "ValueError: numpy.dtype size changed, may indicate binary incompatibility", "defect"),
    (
        "load",
        "OSError: libgomp.so.1: cannot open shared object file: No such file or directory",
        "defect",
    ),
    ("decode", "AttributeError: 'NoneType' object has no attribute 'layout'", "defect"),
    ("align", "NameError: name 'np' is not defined", "defect"),
    ("vad", "KeyError: 'onnx::input'", "defect"),
    ("canary", "AssertionError: ", "defect"),
    ("load", "KeyError: 'alignment_heads'", "configuration"),  # a damaged model
    # the file
    ("decode", "av.error.InvalidDataError: [Errno 1094995529] Invalid data found", "file"),
    ("decode", "IndexError: tuple index out of range", "file"),
    # elsewhere the same messages are defects
    ("generate", "IndexError: tuple index out of range", "defect"),
    ("generate", "RuntimeError: nobody has seen this yet", "unknown"),
    ("host", "", "unknown"),
]


@pytest.mark.parametrize(("phase", "text", "kind"), TEXTS)
def test_messages_are_classified(phase: str, text: str, kind: str) -> None:
    assert classify_fault(phase=phase, error=text).kind == kind


@pytest.mark.parametrize(
    ("phase", "text", "kind"), [*TEXTS, ("encode", "OutOfMemoryError: no", "host_memory")]
)
def test_errors_on_the_cpu_do_not_mention_a_gpu(phase: str, text: str, kind: str) -> None:
    diagnosis = classify_fault(phase=phase, error=text, device="cpu")
    assert not re.search(GPU_WORDS, f"{diagnosis.what} {diagnosis.hint}", re.IGNORECASE)
    on_gpu = classify_fault(phase=phase, error=text)
    if not re.search(GPU_WORDS, f"{on_gpu.what} {on_gpu.hint}", re.IGNORECASE):
        assert diagnosis == on_gpu


@pytest.mark.parametrize("status", [*range(-31, 130), 0xC0000005, 0xC0000135, 0xC000012D])
def test_exit_statuses_on_the_cpu_do_not_mention_a_gpu(status: int) -> None:
    for silent in (False, True):
        diagnosis = classify_fault(exit_status=status, silent=silent, device="cpu")
        assert not re.search(GPU_WORDS, f"{diagnosis.what} {diagnosis.hint}", re.IGNORECASE)


@pytest.mark.parametrize("phase", ["load", "canary", "host", "generate"])
def test_a_defect_has_a_hint_about_installation_and_report(phase: str) -> None:
    diagnosis = classify_fault(
        phase=phase, error="TypeError: f() takes 1 positional argument but 2 were given"
    )
    assert (diagnosis.remedy, diagnosis.code) == (Remedy.REINSTALL, ErrorCode.INTERNAL)
    assert "install speakeasyd again" in diagnosis.hint
    assert "log" in diagnosis.hint
    assert not diagnosis.soft


@pytest.mark.parametrize(
    ("text", "remedy", "code"),
    [
        ("CUDA failed with error out of memory", Remedy.STEP_DOWN, ErrorCode.OUT_OF_MEMORY),
        ("CUBLAS_STATUS_NOT_SUPPORTED", Remedy.OTHER_TYPE, ErrorCode.DEVICE_FAILED),
        ("do not support efficient int8 computation", Remedy.OTHER_TYPE, ErrorCode.DEVICE_FAILED),
        ("an illegal memory access was encountered", Remedy.FRESH_PROCESS, ErrorCode.DEVICE_FAILED),
        ("mkl_malloc: failed to allocate memory", Remedy.FRESH_PROCESS, ErrorCode.OUT_OF_MEMORY),
        (
            "Library libcublas.so.12 is not found or cannot be loaded",
            Remedy.PERSON,
            ErrorCode.LIBRARY_MISSING,
        ),
        (
            "CUDA driver version is insufficient for CUDA runtime",
            Remedy.PERSON,
            ErrorCode.LIBRARY_MISSING,
        ),
        ("cudaErrorNoKernelImageForDevice", Remedy.CPU_FOR_GOOD, ErrorCode.DEVICE_FAILED),
        ("CUDA failed with error unknown error", Remedy.PROBE, ErrorCode.DEVICE_FAILED),
        ("model.bin has an invalid payload size", Remedy.OTHER_MODEL, ErrorCode.MODEL_UNAVAILABLE),
    ],
)
def test_remedies(text: str, remedy: Remedy, code: ErrorCode) -> None:
    diagnosis = classify_fault(phase="load", error=text)
    assert (diagnosis.remedy, diagnosis.code) == (remedy, code)
    assert diagnosis.hint
    if diagnosis.soft:  # a soft restart needs a working process
        assert NATURES[diagnosis.kind].context_survives


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (-6, "context_lost"),  # SIGABRT
        (-11, "context_lost"),  # SIGSEGV
        (-4, "context_lost"),
        (-7, "context_lost"),
        (-9, "killed"),
        (3, "context_lost"),
        (0xC0000409, "context_lost"),
        (0xC0000409 - (1 << 32), "context_lost"),  # the same as a signed number
        (0xC0000005, "context_lost"),
        (0xC0000017, "host_memory"),
        (0xC0000135, "defect"),
        (0, "unknown"),  # exit status 0 during work
        (70, "unknown"),
        (-15, "killed"),
    ],
)
def test_exit_statuses_are_classified(status: int, kind: str) -> None:
    assert classify_fault(exit_status=status).kind == kind


def test_a_kill_counts_as_out_of_memory_only_with_a_counted_event() -> None:
    assert classify_fault(exit_status=-9, short_of_memory=True).kind is FaultKind.HOST_MEMORY
    assert classify_fault(exit_status=-11, short_of_memory=True).kind is FaultKind.CONTEXT_LOST


def test_precedence_of_evidence() -> None:
    abort = "terminate called after throwing an instance of 'std::runtime_error'\n  what():  "
    full, lost = (
        "CUDA failed with error out of memory",
        "CUDA failed with error an illegal memory access was encountered",
    )
    assert classify_fault(exit_status=-6, last_words=abort + full).kind is FaultKind.OUT_OF_MEMORY
    assert (
        classify_fault(exit_status=-6, error=lost, last_words=abort + full).kind
        is FaultKind.CONTEXT_LOST
    )
    assert classify_fault(exit_status=-9, last_words=lost, silent=True).kind is FaultKind.HANG
    assert (
        classify_fault(exit_status=70, error="RuntimeError: never seen").kind is FaultKind.UNKNOWN
    )


def test_an_unknown_error_counts_as_a_lost_context() -> None:
    assert NATURES[FaultKind.UNKNOWN] == NATURES[FaultKind.CONTEXT_LOST]
    assert set(NATURES) == set(FaultKind)

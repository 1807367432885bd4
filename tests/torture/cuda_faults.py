"""Injects real CUDA faults to learn how CTranslate2 fails and what a reload repairs.

    python -m tests.torture.cuda_faults MODEL_DIR [--out results.jsonl]

Needs an NVIDIA GPU. Each case runs in its own process: load the model, transcribe once (the golden
tokens), transcribe in a loop in a thread, inject the fault into the same primary context through
libcuda, record what the thread raised, then try the in-process remedy: drop the model, collect
garbage, empty torch's cache, load again, compare with the golden tokens. Every line is printed at
once, so an abort loses none. Cases that need all of the memory run alone, the others in parallel.
docs/cuda-recovery.md has the results of a run.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path

import numpy as np

PTX = b"""
.version 6.0
.target sm_50
.address_size 64

.visible .entry illegal_access() {
    .reg .u64 %a; .reg .u32 %v;
    mov.u64 %a, 0; mov.u32 %v, 1;
    st.global.u32 [%a], %v;
    ret;
}
.visible .entry misaligned(.param .u64 p) {
    .reg .u64 %a; .reg .u32 %v;
    ld.param.u64 %a, [p];
    add.u64 %a, %a, 1;
    ld.global.u32 %v, [%a];
    st.global.u32 [%a], %v;
    ret;
}
.visible .entry trapped() { trap; ret; }
.visible .entry endless(.param .u64 p) {
    .reg .u64 %a; .reg .u32 %v; .reg .pred %q;
    ld.param.u64 %a, [p];
LOOP:
    ld.volatile.global.u32 %v, [%a];
    setp.ne.u32 %q, %v, 77;
    @%q bra LOOP;
    ret;
}
"""
KERNELS = ("illegal_access", "misaligned", "trapped", "endless")
NEED_ALL_MEMORY = ("out_of_memory_at_load", "out_of_memory_at_generate")
PROCESSES = 4  # cases at once, of those that share the memory
CANARY = files("speakeasyd") / "data" / "canary.flac"
PATIENCE_S = 10.0


class CudaDriver:
    """The few calls of libcuda that poison the primary context, which CTranslate2 and torch share."""

    def __init__(self) -> None:
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._check("cuInit", self._cuda.cuInit(0))
        context = ctypes.c_void_p()
        self._check("retain", self._cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0))
        self._check("current", self._cuda.cuCtxSetCurrent(context))
        self._module = ctypes.c_void_p()
        self._check("module", self._cuda.cuModuleLoadData(ctypes.byref(self._module), PTX))

    @staticmethod
    def _check(what: str, status: int) -> None:
        if status:
            raise RuntimeError(f"{what}: CUDA status {status}")

    def free_bytes(self) -> int:
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._check("meminfo", self._cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total)))
        return free.value

    def allocate(self, size: int) -> ctypes.c_uint64:
        pointer = ctypes.c_uint64()
        self._check("alloc", self._cuda.cuMemAlloc_v2(ctypes.byref(pointer), ctypes.c_size_t(size)))
        return pointer

    def launch(self, name: str) -> None:
        function = ctypes.c_void_p()
        self._check(
            "function",
            self._cuda.cuModuleGetFunction(ctypes.byref(function), self._module, name.encode()),
        )
        pointer = self.allocate(256)
        arguments = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.byref(pointer), ctypes.c_void_p))
        takes = arguments if name in ("misaligned", "endless") else None
        self._check(
            "launch", self._cuda.cuLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, None, takes, None)
        )


def print_fact(**fact: object) -> None:
    print(json.dumps(fact), flush=True)


class Model:
    def __init__(self, folder: str) -> None:
        import ctranslate2
        from faster_whisper import decode_audio
        from faster_whisper.feature_extractor import FeatureExtractor

        self._storage = ctranslate2.StorageView
        self._model = ctranslate2.models.Whisper(folder, device="cuda", compute_type="float16")
        speech = FeatureExtractor(feature_size=self._model.n_mels)(decode_audio(str(CANARY)))
        self._features = np.zeros((1, self._model.n_mels, 3000), np.float32)
        self._features[0, :, : speech.shape[1]] = speech[:, :3000]

    def generate(self) -> list[int]:
        features = self._storage.from_array(self._features)
        out = self._model.generate(features, [[50257, 50362]], beam_size=5, max_length=60)
        return list(out[0].sequences_ids[0])


def _describe_error(error: BaseException) -> str:
    return f"{type(error).__module__}.{type(error).__name__}: {error}"


def run_step(what: str, function):  # type: ignore[no-untyped-def]
    began = time.monotonic()
    try:
        value = function()
    except BaseException as error:  # any exception is a result
        print_fact(step=what, raised=_describe_error(error), s=round(time.monotonic() - began, 3))
        return None
    print_fact(step=what, ok=True, s=round(time.monotonic() - began, 3))
    return value


def run_child(case: str, folder: str) -> None:
    memory_filler = None
    if os.environ.get("WITH_TORCH"):
        import torch

        torch.zeros(1, device="cuda")  # torch now uses the same primary context
    if case == "out_of_memory_at_load":
        memory_filler = start_memory_filler()
    model = run_step("load", lambda: Model(folder))
    golden = run_step("golden", model.generate) if model else None
    if case == "out_of_memory_at_generate":
        memory_filler = start_memory_filler()
        model and run_step(
            "generate beside the memory filler", lambda: [model.generate() for _ in range(3)]
        )
    if case in KERNELS:
        inject_kernel_fault(model, case)
    if memory_filler:
        memory_filler.kill()
        memory_filler.wait()
    print_fact(step="in-process remedy begins")
    model = None
    gc.collect()
    print_fact(step="model dropped")
    if "torch" in sys.modules:
        run_step("torch.cuda.synchronize", torch.cuda.synchronize)
        run_step("torch.cuda.empty_cache", torch.cuda.empty_cache)
    time.sleep(1)  # the remedy waits for the driver
    again = run_step("load again", lambda: Model(folder))
    tokens = run_step("generate again", again.generate) if again else None
    print_fact(
        step="remedy done",
        same_tokens=golden is not None and tokens == golden if golden else bool(tokens),
    )
    os._exit(0)


def inject_kernel_fault(model: Model, case: str) -> None:
    failed = threading.Event()

    def work() -> None:
        try:
            while not failed.is_set():
                model.generate()
        except BaseException as error:
            print_fact(step="in flight", raised=_describe_error(error))
        failed.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    driver = CudaDriver()
    time.sleep(0.3)  # the thread is inside `generate` now
    driver.launch(case)
    print_fact(step="injected")
    if not failed.wait(PATIENCE_S):
        print_fact(step="in flight", hung_for_s=PATIENCE_S)
        if case == "endless":
            os._exit(99)  # a parent would kill it now


def start_memory_filler() -> subprocess.Popen[bytes]:
    """Start a process that takes all but a few MB of the device's memory."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.torture.cuda_faults", "--fill-memory"], stdout=subprocess.PIPE
    )
    assert process.stdout
    print_fact(step="memory filler", output=process.stdout.readline().decode().strip())
    return process


def fill_memory() -> None:
    driver, size = CudaDriver(), 0
    for step in (1 << 30, 1 << 26, 1 << 22):
        while True:
            try:
                driver.allocate(step)
            except RuntimeError:
                break
            size += step
    print(f"holds {size >> 20} MB, {driver.free_bytes() >> 20} MB left", flush=True)
    sys.stdin.read()
    time.sleep(600)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", nargs="?")
    parser.add_argument("--case")
    parser.add_argument("--fill-memory", action="store_true")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if arguments.fill_memory:
        fill_memory()
    if arguments.case:
        run_child(arguments.case, arguments.model)
        return
    facts = []
    for cases, processes in (((*KERNELS, "none"), PROCESSES), (NEED_ALL_MEMORY, 1)):
        runs = [(case, torch, arguments.model) for torch in ("", "1") for case in cases]
        with ThreadPoolExecutor(processes) as pool:
            facts.extend(pool.map(run_case, *zip(*runs, strict=True)))
    for fact in facts:
        print(json.dumps(fact, indent=1))
    if arguments.out:
        arguments.out.write_text("".join(json.dumps(fact) + "\n" for fact in facts), "utf-8")


def run_case(case: str, torch: str, folder: str) -> dict[str, object]:
    """Run a case in its own process and return what it printed."""
    command = [sys.executable, "-m", "tests.torture.cuda_faults", folder, "--case", case]
    environment = {**os.environ, "WITH_TORCH": torch}
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        output, errors, status = done.stdout, done.stderr, done.returncode
    except subprocess.TimeoutExpired as late:
        output, errors = str(late.stdout or b"", "utf8"), str(late.stderr or b"", "utf8")
        status = "killed after 120 s"
    return {
        "case": case,
        "torch": bool(torch),
        "exit_status": status,
        "seconds": round(time.monotonic() - began, 1),
        "steps": [json.loads(line) for line in output.splitlines()],
        "errors": errors[-600:],
    }


if __name__ == "__main__":
    main()

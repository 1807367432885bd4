"""Parts of the workers package that need no process: suspects, liveness, wear and devices."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from speakeasyd.config import WorkerSettings
from speakeasyd.domain.fault import Phase
from speakeasyd.domain.job import JobId, Token
from speakeasyd.domain.options import Options
from speakeasyd.domain.protocol import (
    ChunkDone,
    ChunkStarted,
    Fault,
    Hello,
    Loaded,
    Loading,
    Opened,
    Progress,
    Report,
    SourceRef,
    Task,
    TaskDone,
    WorkerSpec,
)
from speakeasyd.domain.stepdown import GPU_BATCH, GPU_REPLICAS
from speakeasyd.domain.transcript import Chunk
from speakeasyd.domain.worker_pool import LostTask
from speakeasyd.workers.assigned_tasks import AssignedTasks, collect_suspects
from speakeasyd.workers.child import restrict_visible_devices, set_compute_environment
from speakeasyd.workers.devices import ProbeResult, check_device, discover_workers, probe_devices
from speakeasyd.workers.liveness import ASLEEP_S, START_S, LivenessTracker, RecycleTracker
from speakeasyd.workers.supervised_pool import estimate_slots

# --- suspects

A, B, C = JobId(1), JobId(2), JobId(3)
TOKEN = Token("mine")


def build_chunk_started(job: JobId, index: int, token: Token = TOKEN) -> ChunkStarted:
    return ChunkStarted(job, token, index, index * 10.0, index * 10.0 + 10)


def build_chunk_done(job: JobId, index: int) -> ChunkDone:
    return ChunkDone(job, TOKEN, Chunk(index, 0.0, 10.0))


def build_fault(phase: str) -> Fault:
    return Fault(Phase(phase), "RuntimeError: something", ())


@pytest.fixture
def in_flight() -> AssignedTasks:
    """A has two chunks on the device, B was opened, C waits."""
    in_flight = AssignedTasks()
    for job in (A, B, C):
        in_flight.add_task(
            Task(job, TOKEN, SourceRef("in", b"%d" % job), Options(), None), alone=False
        )
    for report in (
        Opened(A, TOKEN, 30.0),
        build_chunk_started(A, 0),
        build_chunk_started(A, 1),
        build_chunk_started(A, 2),
        build_chunk_done(A, 1),
        Opened(B, TOKEN, 9.0),
    ):
        in_flight.record_report(report, 0.0)
    return in_flight


@pytest.mark.parametrize("phase", ["encode", "generate", "align", "host"])
def test_chunks_on_the_device_are_suspect(in_flight: AssignedTasks, phase: str) -> None:
    assert in_flight.take_all(build_fault(phase), blame=True) == (
        LostTask(A, TOKEN, suspects=(build_chunk_started(A, 0), build_chunk_started(A, 2))),
        LostTask(B, TOKEN),
        LostTask(C, TOKEN),
    )
    assert not in_flight


def test_an_exit_without_a_report_suspects_the_chunks_on_the_device(
    in_flight: AssignedTasks,
) -> None:
    assert collect_suspects(in_flight.take_all(None, blame=True)) == {A}


def test_a_fault_in_decoding_suspects_the_open_files(in_flight: AssignedTasks) -> None:
    lost = in_flight.take_all(build_fault("decode"), blame=True)
    assert lost == (
        LostTask(A, TOKEN, opened=True),
        LostTask(B, TOKEN, opened=True),
        LostTask(C, TOKEN),
    )


def test_with_an_idle_device_the_open_files_are_suspect(in_flight: AssignedTasks) -> None:
    in_flight.record_report(build_chunk_done(A, 0), 0.0)
    in_flight.record_report(build_chunk_done(A, 2), 0.0)
    assert [task.opened for task in in_flight.take_all(None, blame=True)] == [True, True, False]


@pytest.mark.parametrize(
    ("phase", "blame"), [("load", True), ("canary", True), ("generate", False)]
)
def test_faults_unrelated_to_work_have_no_suspects(
    in_flight: AssignedTasks, phase: str, blame: bool
) -> None:
    assert collect_suspects(in_flight.take_all(build_fault(phase), blame=blame)) == frozenset()


def test_late_reports_of_an_earlier_claim_are_ignored(in_flight: AssignedTasks) -> None:
    in_flight.record_report(build_chunk_started(C, 5, Token("earlier")), 0.0)
    in_flight.record_report(TaskDone(C, Token("earlier"), 9.0), 0.0)
    assert len(in_flight) == 3
    assert not any(
        task.suspects for task in in_flight.take_all(None, blame=True) if task.job_id == C
    )


def test_done_and_dropped_tasks_are_not_in_flight(in_flight: AssignedTasks) -> None:
    in_flight.record_report(TaskDone(A, TOKEN, 30.0), 0.0)
    assert in_flight.drop_job(B)
    assert not in_flight.drop_job(B)
    assert [task.job_id for task in in_flight.take_all(None, blame=True)] == [C]


# --- liveness

LOADED = Loaded("auto", "tiny", "cuda:0", "int8", 1.0)


def measure_patience(life: LivenessTracker, since: float) -> float:
    """Return the seconds of silence after which the worker is overdue."""
    now = since
    while not life.is_overdue(now):
        now += 1.0
        assert now < since + 10_000
    return now - since


@pytest.mark.parametrize(
    ("reports", "device", "allowed"),
    [
        ([], "cuda:0", START_S),
        ([Hello(1), Loading("large")], "cuda:0", 200),
        ([Hello(1), Loading("large"), LOADED], "cuda:0", 100),
        ([Hello(1), LOADED, build_chunk_done(A, 0)], "cuda:0", 20),
        ([Hello(1), LOADED, build_chunk_done(A, 0), build_fault("generate")], "cuda:0", 200),
        ([Hello(1), LOADED, build_chunk_done(A, 0)], "cpu", 30),
        ([Hello(1), LOADED, build_chunk_done(A, 0), Loading("small")], "cpu", 600),
    ],
)
def test_the_liveness_deadline_depends_on_the_phase(
    reports: list[Report], device: str, allowed: float
) -> None:
    life = LivenessTracker(stall_s=20.0, device=device, now=0.0)
    for report in reports:
        life.record_report(report, 0.0)
    assert measure_patience(life, 0.0) == allowed + 1


def test_the_liveness_deadline_follows_the_measured_pace() -> None:
    life = LivenessTracker(stall_s=100.0, device="cpu", now=0.0)
    life.record_report(build_chunk_done(A, 0), 0.0)
    life.record_report(build_chunk_done(A, 1), 0.1)
    assert measure_patience(life, 0.1) == 31
    life.record_report(build_chunk_done(A, 2), 5.1)
    assert measure_patience(life, 5.1) == 51
    life.record_report(build_chunk_done(A, 3), 95.1)
    assert measure_patience(life, 95.1) == 301


def test_any_report_restarts_the_deadline() -> None:
    life = LivenessTracker(stall_s=20.0, device="cuda:0", now=0.0)
    life.record_report(build_chunk_done(A, 0), 0.0)
    for now in range(0, 300, 5):
        life.record_report(Progress(A, TOKEN, float(now)), float(now))
        assert not life.is_overdue(float(now))


def test_a_sleep_of_the_machine_does_not_count() -> None:
    life = LivenessTracker(stall_s=20.0, device="cuda:0", now=0.0)
    life.record_report(build_chunk_done(A, 0), 0.0)
    assert not life.is_overdue(1.0)
    assert not life.is_overdue(1.0 + ASLEEP_S + 3600)
    assert measure_patience(life, 3611.0) == 21


# --- recycling


def test_a_worker_is_recycled_after_hours_of_audio() -> None:
    wear = RecycleTracker(hours=25 / 3600, growth_mb=0)
    for index in range(3):
        assert not wear.is_due
        wear.record_report(build_chunk_done(A, index))
    assert wear.is_due


def test_memory_growth_is_measured_after_the_first_work() -> None:
    wear = RecycleTracker(hours=0, growth_mb=100)
    wear.record_memory(10_000_000)
    wear.record_report(LOADED)
    wear.record_memory(900_000_000)  # the model
    assert not wear.is_due
    wear.record_report(build_chunk_done(A, 0))
    wear.record_memory(1_000_000_000)
    wear.record_memory(1_099_000_000)
    assert not wear.is_due
    wear.record_memory(1_100_000_000)
    assert wear.is_due


def test_a_model_that_is_loaded_later_is_no_growth() -> None:
    wear = RecycleTracker(hours=0, growth_mb=100)
    wear.record_report(build_chunk_done(A, 0))
    wear.record_memory(1_000_000_000)
    wear.record_report(Loading("large"))
    wear.record_memory(3_000_000_000)
    assert not wear.is_due
    wear.record_report(build_chunk_done(A, 1))
    wear.record_memory(3_100_000_000)
    wear.record_memory(3_150_000_000)
    assert not wear.is_due
    wear.record_memory(3_200_000_000)
    assert wear.is_due


def test_recycling_can_be_disabled() -> None:
    wear = RecycleTracker(hours=0, growth_mb=0)
    wear.record_report(ChunkDone(A, TOKEN, Chunk(0, 0.0, 1e9)))
    wear.record_memory(1)
    wear.record_memory(1 << 50)
    assert not wear.is_due


# --- devices


@pytest.mark.parametrize(
    ("device", "given", "shown"),
    [
        ("cpu", None, "-1"),
        ("cpu", "0,1", "-1"),
        ("cuda", None, "0"),
        ("cuda:1", None, "1"),
        ("cuda:1", "3,GPU-8f3a", "GPU-8f3a"),
        ("cuda:0", "MIG-77", "MIG-77"),
        ("cuda:2", "", "2"),
    ],
)
def test_a_worker_sees_one_device(device: str, given: str | None, shown: str) -> None:
    environ = {} if given is None else {"CUDA_VISIBLE_DEVICES": given}
    restrict_visible_devices(device, "state", environ)
    assert environ["CUDA_VISIBLE_DEVICES"] == shown
    assert ("CUDA_CACHE_PATH" in environ) == device.startswith("cuda")


async def found(device: str, findings: ProbeResult, *, driver: Path) -> tuple[list[str], str]:
    async def list_probed() -> ProbeResult:
        return findings

    settings = WorkerSettings(device=device, compute_type="int8", replicas=3, batch_size=5)
    discovery = await discover_workers(
        settings, state_dir=Path("state"), look=list_probed, traces=(str(driver),)
    )
    assert all(spec == replace(discovery.specs[0], device=spec.device) for spec in discovery.specs)
    assert (
        discovery.specs[0].compute_type,
        discovery.specs[0].replicas,
        discovery.specs[0].batch_size,
    ) == (
        "int8",
        3,
        5,
    )
    return [spec.device for spec in discovery.specs], discovery.warning or ""


LIBRARY = "RuntimeError: Library libcublas.so.12 is not found or cannot be loaded"


async def test_devices_by_setting(tmp_path: Path) -> None:
    nothing = ProbeResult(0)
    assert await found("cpu", ProbeResult(2), driver=tmp_path) == (["cpu"], "")
    assert await found("cuda:1", nothing, driver=tmp_path) == (["cuda:1"], "")
    assert await found("cuda", ProbeResult(2), driver=tmp_path) == (["cuda:0", "cuda:1"], "")
    assert await found("cuda", nothing, driver=tmp_path) == (["cuda:0"], "")


async def test_auto_uses_every_gpu_and_never_the_cpu_silently(tmp_path: Path) -> None:
    assert await found("auto", ProbeResult(2), driver=tmp_path) == (["cuda:0", "cuda:1"], "")
    assert await found("auto", ProbeResult(2), driver=tmp_path / "missing") == (
        ["cpu"],
        "",
    )  # not even probed
    devices, warning = await found("auto", ProbeResult(0), driver=tmp_path)
    assert devices == ["cpu"]
    assert "CUDA finds no GPU" in warning
    devices, warning = await found("auto", ProbeResult(1, LIBRARY), driver=tmp_path)
    assert devices == ["cpu"]
    assert "pip install 'speakeasyd[gpu]'" in warning
    assert LIBRARY in warning


async def test_the_probe_works_on_this_machine() -> None:
    findings = await probe_devices()
    assert findings.gpus or not findings.error
    assert await check_device("cpu", state_dir="") == ""


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os; os.abort()", "exit status"),
        ("print('no json')", "exit status 0"),
        (
            "raise RuntimeError('CUDA failed with error unknown error')",
            "CUDA failed with error unknown error",
        ),
        ("""print('{"gpus": [{}, {}], "error": "a word"}')""", "a word"),
    ],
)
async def test_a_crashed_probe_is_a_result(code: str, expected: str) -> None:
    findings = await probe_devices("cuda:0", command=("-c", code))
    assert expected in findings.error


def test_a_gpu_with_default_settings_gets_enough_tasks() -> None:
    default = WorkerSpec("cuda:0", "auto", 0, 0, "state")
    loaded = replace(default, replicas=GPU_REPLICAS, batch_size=GPU_BATCH)
    assert estimate_slots(default) == estimate_slots(loaded)


async def test_a_library_may_print_before_the_findings() -> None:
    """On a GPU, CTranslate2 names its allocator on stdout."""
    printed = "[info] Using CUDA allocator: cuda_malloc_async", '{"gpus": [{}], "error": ""}'
    code = f"print(*{printed!r}, sep='\\n', end='')"
    assert await probe_devices(command=("-c", code)) == ProbeResult(1)


async def test_a_probe_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("speakeasyd.workers.devices.PROBE_S", 0.2)
    findings = await probe_devices(command=("-c", "import time; time.sleep(60)"))
    assert findings.gpus == 0
    assert "did not answer" in findings.error


async def test_a_missing_gpu_fails_its_probe() -> None:
    if sys.platform == "darwin" or (await probe_devices()).gpus == 0:
        assert "no CUDA-capable device" in await check_device("cuda:0", state_dir="")


def test_no_library_starts_threads_of_its_own() -> None:
    """Such threads would use the cores of the replicas."""
    environ = {
        name: value for name, value in os.environ.items() if not name.endswith("NUM_THREADS")
    }
    set_compute_environment(environ)
    code = "import numpy, psutil; one = numpy.ones((200, 200)); one @ one; print(psutil.Process().num_threads())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1"]


def test_variables_set_by_a_person_are_kept() -> None:
    environ = {"OMP_NUM_THREADS": "3", "CT2_FORCE_CPU_ISA": "GENERIC"}
    set_compute_environment(environ)
    assert environ == {"OMP_NUM_THREADS": "3", "CT2_FORCE_CPU_ISA": "GENERIC"}

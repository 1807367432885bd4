"""Reduced settings after a fault: always smaller, finite, equal in worker and daemon."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speakeasyd.domain.fault import SOFT, Diagnosis, Remedy, classify_fault
from speakeasyd.domain.protocol import WorkerSpec
from speakeasyd.domain.stepdown import step_down

FULL = classify_fault(error="CUDA failed with error out of memory")
UNSUPPORTED = classify_fault(error="CUBLAS_STATUS_NOT_SUPPORTED")
LOST = classify_fault(error="CUDA failed with error an illegal memory access was encountered")
TYPES = ["auto", "int8", "float16", "int8_float16", "float32", "bfloat16"]


def list_steps(spec: WorkerSpec, diagnosis: Diagnosis) -> list[tuple[int, str]]:
    steps = []
    while below := step_down(spec, diagnosis.remedy):
        spec = below
        steps.append((spec.batch_size, spec.compute_type))
        assert len(steps) < 20
    return steps


def test_out_of_memory_reduces_the_batch_and_then_the_weights() -> None:
    gpu = WorkerSpec("cuda:0", "auto", 0, 0, "")
    assert list_steps(gpu, FULL) == [
        (8, "auto"),
        (4, "auto"),
        (2, "auto"),
        (1, "auto"),
        (1, "int8_float16"),
    ]
    assert list_steps(replace(gpu, batch_size=3, compute_type="int8"), FULL) == [(1, "int8")]


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize("compute_type", TYPES)
def test_an_unsupported_type_ends_at_one_that_all_devices_support(
    device: str, compute_type: str
) -> None:
    steps = list_steps(WorkerSpec(device, compute_type, 0, 4, ""), UNSUPPORTED)
    assert all(batch == 4 for batch, _ in steps)
    assert compute_type == "float32" or steps[-1][1] == "float32"


def test_other_faults_reduce_nothing() -> None:
    assert list_steps(WorkerSpec("cuda:0", "auto", 0, 16, ""), LOST) == []


@pytest.mark.parametrize("remedy", sorted(set(Remedy) - SOFT))
@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_faults_that_need_a_new_process_have_no_step(device: str, remedy: Remedy) -> None:
    """A worker continues in its process if there is a step."""
    assert step_down(WorkerSpec(device, "auto", 0, 0, ""), remedy) is None


def test_a_full_gpu_does_not_affect_the_cpu() -> None:
    assert list_steps(WorkerSpec("cpu", "auto", 4, 8, ""), FULL) == []


@given(
    compute_type=st.sampled_from(TYPES),
    batch=st.integers(0, 64),
    faults=st.lists(st.sampled_from([FULL, UNSUPPORTED])),
)
def test_worker_and_daemon_take_equal_steps(
    compute_type: str, batch: int, faults: list[Diagnosis]
) -> None:
    inside, outside = (
        WorkerSpec(device, compute_type, 0, batch, "") for device in ("cuda:0", "cuda:3")
    )
    for fault in faults:
        inside = step_down(inside, fault.remedy) or inside
        outside = step_down(outside, fault.remedy) or outside
    assert outside == replace(inside, device="cuda:3")

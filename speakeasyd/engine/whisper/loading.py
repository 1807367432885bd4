"""Loads a Whisper model on a device and verifies it with the canary before it gets work."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from speakeasyd.domain.fault import Phase
from speakeasyd.domain.protocol import Loaded, Loading, WorkerSpec
from speakeasyd.domain.stepdown import CPU_BATCH, GPU_BATCH, count_replicas
from speakeasyd.engine import cuda, heap_retention
from speakeasyd.engine.canary import CanaryFailed, measure_known_words, transcribe_canary
from speakeasyd.engine.faults import label_phase
from speakeasyd.engine.model_hash import hash_model
from speakeasyd.engine.recognizer import Model, ModelChoice, ModelUnavailable, OnProgress
from speakeasyd.engine.whisper.lazy_model import LazyModel
from speakeasyd.engine.whisper.model_files import check_bundled_files, choose_model
from speakeasyd.engine.whisper.network import CTranslate2Network, Network
from speakeasyd.engine.whisper.packed_library import Unsupported
from speakeasyd.engine.whisper.packed_network import PackedNetwork
from speakeasyd.engine.whisper.recognizer import WhisperRecognizer

_KNOWN_MODEL_SHARE = 1.0  # share of the canary's words that the bundled model must recognise
_ANY_MODEL_SHARE = 0.5  # share for any other model
_SMALL_MODEL = 200 << 20  # bytes: tiny and base. Larger ones need more memory, and gain less
_COMPUTE_TYPE = {"cpu": "int8", "cuda": "float16"}
_PACKED_TYPE = "int8_float32"  # products of integers, sums of floats
_PACKED_TYPES = {"int8", _PACKED_TYPE}  # CTranslate2's names for it on CPUs


def load_whisper(
    requested: str, spec: WorkerSpec, *, on_progress: OnProgress = lambda _: None
) -> Model:
    """Load the model and run the canary. Raises EngineFault of phase load or canary."""
    began = time.perf_counter()
    device = spec.device.partition(":")[0]
    on_gpu = device == "cuda"
    replicas = count_replicas(spec)
    compute_type = _COMPUTE_TYPE[device] if spec.compute_type == "auto" else spec.compute_type
    heap_retention.return_freed_pages()
    with label_phase(Phase.LOAD):
        if on_gpu:
            cuda.preload_cublas()
        choice = choose_model(
            requested,
            device=spec.device,
            models_dir=Path(spec.state_dir) / "models",
            offline=spec.offline,
            on_download=on_progress,
        )
        with _check_files(choice):
            model = LazyModel(
                choice.folder,
                spec.device,
                compute_type,
                replicas,
                on_load=lambda: on_progress(Loading(requested)),
            )
            network, compute_type = _create_network(model)
        sha256 = hash_model(choice.folder) if spec.hash_model else ""
    heap_retention.retain_freed_pages()
    recognizer = WhisperRecognizer(model, network)
    with label_phase(Phase.CANARY):
        _run_canary(recognizer, choice, on_gpu=on_gpu)
    loaded = Loaded(
        requested=requested,
        model=choice.name,
        device=spec.device,
        compute_type=compute_type,
        seconds=round(time.perf_counter() - began, 3),
        warning=choice.warning,
        sha256=sha256,
        network=network.description,
    )
    batch_size = spec.batch_size or (GPU_BATCH if on_gpu else _choose_cpu_batch(choice))
    return Model(recognizer, replicas, batch_size, loaded)


@contextmanager
def _check_files(choice: ModelChoice) -> Iterator[None]:
    """Check the files of a bundled model in another thread, while the block loads them.

    Raises ModelUnavailable if they are damaged, whatever the block raises.
    """
    if not choice.bundled:
        yield
        return
    with ThreadPoolExecutor(1) as thread:
        check = thread.submit(check_bundled_files, choice.folder)
        try:
            yield
        finally:
            check.result()


def _choose_cpu_batch(choice: ModelChoice) -> int:
    is_small = (choice.folder / "model.bin").stat().st_size <= _SMALL_MODEL
    return CPU_BATCH if is_small else 1


def _create_network(model: LazyModel) -> tuple[Network, str]:
    """Return the packed network if it can compute this model, or else CTranslate2's.

    The second value is the compute type as CTranslate2 names it.
    """
    plain = CTranslate2Network(model)
    if model.device == "cpu" and model.compute_type in _PACKED_TYPES:
        try:
            return PackedNetwork(model.folder / "model.bin", plain), _PACKED_TYPE
        except Unsupported as error:
            plain.description += f", since {error}"
    return plain, model.ctranslate2.compute_type


def _run_canary(recognizer: WhisperRecognizer, choice: ModelChoice, *, on_gpu: bool) -> None:
    """Transcribe a clip whose words are known.

    If the text is wrong on a GPU, the CPU is tried to tell a faulty GPU from a damaged model.
    Raises CanaryFailed if the GPU is the cause, ModelUnavailable if the model is.
    """
    text = transcribe_canary(recognizer)
    if _is_canary_correct(text, choice):
        return
    result = f"the canary was transcribed as {text[:200]!r}"
    if on_gpu and _is_canary_correct(_transcribe_on_cpu(choice), choice):
        raise CanaryFailed(result)
    raise ModelUnavailable(f"{choice.folder} is damaged, or no speech model: {result}")


def _transcribe_on_cpu(choice: ModelChoice) -> str:
    model = LazyModel(choice.folder, "cpu", _COMPUTE_TYPE["cpu"])
    return transcribe_canary(WhisperRecognizer(model, CTranslate2Network(model)))


def _is_canary_correct(text: str, choice: ModelChoice) -> bool:
    share = _KNOWN_MODEL_SHARE if choice.bundled else _ANY_MODEL_SHARE
    return measure_known_words(text) >= share

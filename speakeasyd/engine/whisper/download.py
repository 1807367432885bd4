"""Downloads a model from the hub, and reports how far the download is."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from faster_whisper.utils import _MODELS, download_model

from speakeasyd.domain.protocol import Downloading

REPORT_S = 5.0  # seconds between two reports
_FILES = ("config.json", "preprocessor_config.json", "model.bin", "tokenizer.json", "vocabulary.*")
"""What faster-whisper downloads of a model."""

OnDownload = Callable[[Downloading], object]


def fetch_model(name: str, models_dir: Path, on_download: OnDownload) -> Path:
    """Download a model and return its folder. Raises OSError."""
    with _report_download(name, models_dir, on_download):
        return Path(download_model(name, cache_dir=str(models_dir)))


@contextmanager
def _report_download(name: str, models_dir: Path, on_download: OnDownload) -> Iterator[None]:
    ended = threading.Event()
    watch = threading.Thread(
        target=_watch_download, args=(name, models_dir, ended, on_download), daemon=True
    )
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _watch_download(
    name: str, models_dir: Path, ended: threading.Event, on_download: OnDownload
) -> None:
    """Report at once, then whenever bytes have arrived: who waits for bytes is not alive."""
    repository = _MODELS.get(name, name)
    blobs = models_dir / f"models--{repository.replace('/', '--')}" / "blobs"
    total = _ask_size(repository)
    began, first = time.monotonic(), _measure_files(blobs)
    reported = -1
    while not ended.is_set():
        done = _measure_files(blobs)
        if done != reported:
            seconds = max(time.monotonic() - began, 1e-3)
            on_download(Downloading(name, done, total, max(0, done - first) / seconds))
            reported = done
        ended.wait(REPORT_S)


def _ask_size(repository: str) -> int | None:
    """Return the bytes to download in all; None if the hub does not say."""
    from huggingface_hub import HfApi  # noqa: PLC0415 - half a second of every worker's start

    try:
        files = HfApi().model_info(repository, files_metadata=True).siblings or []
    except Exception:  # noqa: BLE001 - only the figure is missing then
        return None
    wanted = [
        file.size or 0
        for file in files
        if any(fnmatch(file.rfilename, pattern) for pattern in _FILES)
    ]
    return sum(wanted) or None


def _measure_files(folder: Path) -> int:
    """Return the bytes of all files in a folder; 0 if it does not exist yet."""
    sizes = []
    for file in folder.glob("*"):
        try:
            sizes.append(file.stat().st_size)
        except FileNotFoundError:  # renamed in the meantime: it would be missing in the sum
            return _measure_files(folder)
        except OSError:
            continue
    return sum(sizes)

"""One recording as a file: under a temporary name while it grows, then durable under its own."""

import os
import shutil
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Self

from speakeasyd.domain.recording import SAMPLE_BYTES, build_stem
from speakeasyd.durable import create_draft, make_folders, sync_file, sync_folder
from speakeasyd.recorder.libraries import load_soundfile
from speakeasyd.safe_open import POSIX, FolderHandle

ENDING = ".flac"
GROWING = ".recording"  # with a dot in front and this at the end, no inbox takes it for an arrival
SETTLE_S = 5.0  # seconds of audio that a power cut may cost
ABANDONED_S = 60.0  # seconds without growth after which a growing file belongs to nobody any more


class RecordingFile:
    """16-bit FLAC. Raises OSError when the disk refuses, RecorderUnavailable without libsndfile.

    Its folder stays open until the end: what was recorded is published there even if the folder has meanwhile been
    unmounted or moved.
    """

    def __init__(self, *, folder: FolderHandle, name: str, rate: int, channels: int) -> None:
        library = load_soundfile()
        self._folder = folder
        self._name = name
        self._growing = f".{name}{ENDING}{GROWING}"
        self._bytes_per_s = rate * channels * SAMPLE_BYTES
        self._unsettled = 0
        self._file = folder.create_file(self._growing)  # nobody else is recording under this name
        place = self._file.fileno() if POSIX else str(folder.path / self._growing)
        try:
            self._flac = library.SoundFile(
                place, "w", rate, channels, "PCM_16", format="FLAC", closefd=False
            )
        except BaseException:
            self._file.close()
            folder.remove_file(self._growing)
            raise

    @classmethod
    def create_file(cls, folder: Path, *, began: datetime, rate: int, channels: int) -> Self:
        """Under the first name that is free."""
        handle = FolderHandle.open(folder)
        try:
            return cls._begin_in(handle, build_stem(began), rate=rate, channels=channels)
        except BaseException:
            handle.close()
            raise

    @classmethod
    def _begin_in(cls, folder: FolderHandle, wanted: str, *, rate: int, channels: int) -> Self:
        for number in range(1, 100):
            name = f"{wanted} ({number})" if number > 1 else wanted
            if not folder.has(f"{name}{ENDING}"):
                with suppress(FileExistsError):
                    return cls(folder=folder, name=name, rate=rate, channels=channels)
        raise FileExistsError(f"every name like {wanted} is taken in {folder.path}")

    @property
    def is_reachable(self) -> bool:
        """Whether the path of its folder still leads to it."""
        return self._folder.is_at_its_path()

    def write_block(self, block: bytes) -> None:
        """Whole frames of interleaved 16-bit samples."""
        try:
            self._flac.buffer_write(block, dtype="int16")
        except RuntimeError as error:  # libsndfile's errors are
            raise OSError(f"{self._growing} cannot be written: {error}") from error
        self._unsettled += len(block)
        if self._unsettled >= SETTLE_S * self._bytes_per_s:
            self._sync_file()
            self._unsettled = 0

    def publish_file(self) -> Path:
        """Close it, durable, under its own name. On a full disk what is there still counts: it can be decoded."""
        self._close()
        with suppress(OSError):
            self._sync_file()
        if not POSIX:
            self._file.close()  # an open file cannot be moved there
        for number in range(1, 100):
            name = f"{self._name} ({number}){ENDING}" if number > 1 else f"{self._name}{ENDING}"
            if self._folder.move_to(self._growing, self._folder, name):
                self._folder.sync()
                return self._folder.path / name
        raise FileExistsError(f"every name like {self._name} is taken in {self._folder.path}")

    def save_to(self, folder: Path) -> Path:
        """Copy what was recorded to another folder: its own takes it no more, or it was deleted there."""
        make_folders(folder)
        target = folder / f"{self._name}{ENDING}"
        with create_draft(folder) as (path, file):
            self._file.seek(0)
            shutil.copyfileobj(self._file, file, 1 << 20)
            sync_file(file)
            file.close()
            path.rename(target)
        sync_folder(folder)
        return target

    def delete_file(self) -> None:
        """Nothing was recorded: leave no file."""
        self._close()
        self._file.close()
        with suppress(FileNotFoundError):
            self._folder.remove_file(self._growing)

    def close(self) -> None:
        """Let go of the file and its folder. Idempotent."""
        self._file.close()
        self._folder.close()

    def _close(self) -> None:
        with suppress(RuntimeError):
            self._flac.close()

    def _sync_file(self) -> None:
        os.fsync(self._file.fileno())


def publish_unfinished(folder: Path) -> list[Path]:
    """Publish recordings that a killed program has left growing: FLAC can be read up to where it breaks off."""
    rescued = []
    for growing in folder.glob(f".*{ENDING}{GROWING}"):
        final = growing.with_name(growing.name.removeprefix(".").removesuffix(GROWING))
        with suppress(OSError):
            about = growing.stat()
            if about.st_size and time.time() - about.st_mtime > ABANDONED_S and not final.exists():
                rescued.append(_rename_to_free(growing, final))
    return rescued


def _rename_to_free(growing: Path, final: Path) -> Path:
    growing.rename(final)
    sync_folder(final.parent)
    return final

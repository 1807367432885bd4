"""The file of one recording: under a temporary name while it grows, then renamed when durable."""

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
GROWING = ".recording"  # inboxes ignore names with a leading dot and this suffix
SETTLE_S = 5.0  # seconds of audio between two syncs: the most that a power cut can lose
ABANDONED_S = 60.0  # seconds without growth after which a growing file counts as abandoned


class RecordingFile:
    """A 16-bit FLAC file. Raises OSError on disk errors, RecorderUnavailable without libsndfile.

    Its folder stays open until the end, so that the recording is published there even if the folder
    was unmounted or moved meanwhile.
    """

    def __init__(self, *, folder: FolderHandle, name: str, rate: int, channels: int) -> None:
        library = load_soundfile()
        self._folder = folder
        self._name = name
        self._growing = f".{name}{ENDING}{GROWING}"
        self._bytes_per_s = rate * channels * SAMPLE_BYTES
        self._unsettled = 0
        self._file = folder.create_file(self._growing)  # fails if another recording has this name
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
        """Create the file under the first free name. Raises FileExistsError if none is free."""
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
        """Whether the folder is still at its path."""
        return self._folder.is_at_its_path()

    def write_block(self, block: bytes) -> None:
        """Append whole frames of interleaved 16-bit samples. Raises OSError."""
        try:
            self._flac.buffer_write(block, dtype="int16")
        except RuntimeError as error:  # the type of libsndfile's errors
            raise OSError(f"{self._growing} cannot be written: {error}") from error
        self._unsettled += len(block)
        if self._unsettled >= SETTLE_S * self._bytes_per_s:
            self._sync_file()
            self._unsettled = 0

    def publish_file(self) -> Path:
        """Close the file, make it durable and give it its final name, which is returned.

        On a full disk, the part that was written is published: it can be decoded. Raises OSError.
        """
        self._close_file()
        with suppress(OSError):
            self._sync_file()
        if not POSIX:
            self._file.close()  # Windows cannot rename an open file
        for number in range(1, 100):
            name = f"{self._name} ({number}){ENDING}" if number > 1 else f"{self._name}{ENDING}"
            if self._folder.move_to(self._growing, self._folder, name):
                self._folder.sync()
                return self._folder.path / name
        raise FileExistsError(f"every name like {self._name} is taken in {self._folder.path}")

    def save_to(self, folder: Path) -> Path:
        """Copy the recording to another folder, if its own is gone or full. Raises OSError."""
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
        """Delete the file, because nothing was recorded."""
        self._close_file()
        self._file.close()
        with suppress(FileNotFoundError):
            self._folder.remove_file(self._growing)

    def close(self) -> None:
        """Close the file and its folder. Idempotent."""
        self._file.close()
        self._folder.close()

    def _close_file(self) -> None:
        with suppress(RuntimeError):
            self._flac.close()

    def _sync_file(self) -> None:
        os.fsync(self._file.fileno())


def publish_unfinished(folder: Path) -> list[Path]:
    """Publish recordings of a killed process and return their paths; cut FLAC is readable."""
    rescued = []
    for growing in folder.glob(f".*{ENDING}{GROWING}"):
        final = growing.with_name(growing.name.removeprefix(".").removesuffix(GROWING))
        with suppress(OSError):
            found = growing.stat()
            if found.st_size and time.time() - found.st_mtime > ABANDONED_S and not final.exists():
                rescued.append(_rename_to_free(growing, final))
    return rescued


def _rename_to_free(growing: Path, final: Path) -> Path:
    growing.rename(final)
    sync_folder(final.parent)
    return final

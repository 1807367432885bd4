"""One recording as a file: under a temporary name while it grows, then durable under its own."""

import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Self

from speakeasyd.domain.recording import SAMPLE_BYTES, stem
from speakeasyd.durable import settle, settle_folder
from speakeasyd.recorder.libraries import soundfile

ENDING = ".flac"
GROWING = ".recording"  # with a dot in front and this at the end, no inbox takes it for an arrival
SETTLE_S = 5.0  # seconds of audio that a power cut may cost
ABANDONED_S = 60.0  # seconds without growth after which a growing file belongs to nobody any more


class Take:
    """16-bit FLAC. Raises OSError when the disk refuses, RecorderUnavailable without libsndfile."""

    def __init__(self, *, folder: Path, name: str, rate: int, channels: int) -> None:
        library = soundfile()
        self._final = folder / f"{name}{ENDING}"
        self._growing = folder / f".{name}{ENDING}{GROWING}"
        self._bytes_per_s = rate * channels * SAMPLE_BYTES
        self._unsettled = 0
        self._growing.touch(exist_ok=False)  # nobody else is recording under this name
        self._flac = library.SoundFile(str(self._growing), "w", rate, channels, "PCM_16", format="FLAC")

    @classmethod
    def begin(cls, folder: Path, *, began: datetime, rate: int, channels: int) -> Self:
        """Under the first name that is free."""
        for number in range(1, 100):
            name = stem(began) + (f" ({number})" if number > 1 else "")
            if not (folder / f"{name}{ENDING}").exists():
                with suppress(FileExistsError):
                    return cls(folder=folder, name=name, rate=rate, channels=channels)
        raise FileExistsError(f"every name like {stem(began)} is taken in {folder}")

    def write(self, block: bytes) -> None:
        """Whole frames of interleaved 16-bit samples."""
        try:
            self._flac.buffer_write(block, dtype="int16")
        except RuntimeError as error:  # libsndfile's errors are
            raise OSError(f"{self._growing} cannot be written: {error}") from error
        self._unsettled += len(block)
        if self._unsettled >= SETTLE_S * self._bytes_per_s:
            self._settle()
            self._unsettled = 0

    def publish(self) -> Path:
        """Close it, durable, under its own name. On a full disk what is there still counts: it can be decoded."""
        self._close()
        with suppress(OSError):
            self._settle()
        return _rename(self._growing, self._final)

    def discard(self) -> None:
        """Nothing was recorded: leave no file."""
        self._close()
        self._growing.unlink(missing_ok=True)

    def _close(self) -> None:
        with suppress(RuntimeError):
            self._flac.close()

    def _settle(self) -> None:
        with self._growing.open("rb+") as file:
            settle(file)


def rescue(folder: Path) -> list[Path]:
    """Publish recordings that a killed program has left growing: FLAC can be read up to where it breaks off."""
    rescued = []
    for growing in folder.glob(f".*{ENDING}{GROWING}"):
        final = growing.with_name(growing.name.removeprefix(".").removesuffix(GROWING))
        with suppress(OSError):
            about = growing.stat()
            if about.st_size and time.time() - about.st_mtime > ABANDONED_S and not final.exists():
                rescued.append(_rename(growing, final))
    return rescued


def _rename(growing: Path, final: Path) -> Path:
    growing.rename(final)
    settle_folder(final.parent)
    return final

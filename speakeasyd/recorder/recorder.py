"""Records from a microphone into an inbox: start, stop, state and events."""

import array
import errno
import logging
import threading
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from speakeasyd.clock import Clock, SystemClock, format_utc
from speakeasyd.domain.event_payloads import (
    RecorderFailed,
    RecorderLevel,
    RecorderOverflow,
    RecorderPayload,
    RecorderStarted,
    RecorderStopped,
)
from speakeasyd.domain.recording import (
    FLOOR_DB,
    SAMPLE_BYTES,
    RecorderState,
    RecordingLimits,
    RecordingPhase,
    RecordingProgress,
    find_stop_reason,
    to_decibels,
)
from speakeasyd.events import Event, EventHub
from speakeasyd.loop import MainLoop
from speakeasyd.recorder.libraries import RecorderBusy
from speakeasyd.recorder.microphone import AudioInput, InputDevice, Microphone, list_devices
from speakeasyd.recorder.recording_file import RecordingFile, publish_unfinished
from speakeasyd.recorder.ring_buffer import RingBuffer

RING_S = 20.0  # seconds of audio that fit in memory while the disk blocks
LOOK_S = 0.05  # seconds between two reads of the ring buffer
LEVEL_S = 0.1  # seconds between two events with the level
PRESENT_S = 2.0  # seconds between two checks that the folder still exists
GONE = "the inbox is gone, or no longer mounted"
SILENT_S = 5.0  # seconds without a block after which the device counts as gone

NO_LIMITS = RecordingLimits()

log = logging.getLogger(__name__)

PublishEvent = Callable[[Event], None]
"""Called with each event in the thread that writes the recording; must not block or raise."""


def publish_to_hub(main_loop: MainLoop, hub: EventHub) -> PublishEvent:
    """Return a callback that publishes events on the main loop."""

    async def publish(event: Event) -> None:
        hub.publish(event)

    return lambda event: main_loop.schedule_from_thread(publish, event)


class Recorder:
    """Makes one recording at a time. Thread-safe; `start` and `stop` block for a moment.

    Publishes an event with its state at every change.
    """

    def __init__(
        self,
        *,
        folder: Path,
        publish: PublishEvent = lambda _event: None,
        source: Callable[[str | int | None], AudioInput] = Microphone,
        clock: Clock | None = None,
        is_present: Callable[[], bool] = lambda: True,
        spare: Path | None = None,
    ) -> None:
        """`folder`: the inbox or a folder in it; `is_present`: whether it exists and is mounted.

        `is_present` may block. `spare`: a folder for recordings that cannot be written to the
        inbox.
        """
        self._folder = folder
        self._is_present = is_present
        self._spare = spare
        self._publish_event = publish
        self._source = source
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._session: _RecordingSession | None = None

    @property
    def state(self) -> RecorderState:
        return self._session.state if self._session else RecorderState()

    @property
    def active(self) -> bool:
        return self._session is not None and not self._session.over.is_set()

    def list_devices(self) -> list[InputDevice]:
        """Return the input devices. Raises RecorderUnavailable."""
        with self._lock:
            return list_devices()

    def start(
        self, *, device: str | int | None = None, limits: RecordingLimits = NO_LIMITS
    ) -> RecorderState:
        """Start a recording.

        Raises RecorderBusy, RecorderUnavailable, or OSError if the folder cannot be written to.
        """
        with self._lock:
            if self.active:
                raise RecorderBusy("a recording is in progress", hint="Stop it first.")
            if not self._is_present():
                raise FileNotFoundError(errno.ENOENT, GONE, str(self._folder))
            for rescued in publish_unfinished(self._folder):
                log.warning("an interrupted recording was moved to the inbox: %s", rescued)
            session = _RecordingSession(
                self._source(device),
                limits,
                publish=self._publish_event,
                clock=self._clock,
                is_present=self._is_present,
                spare=self._spare,
            )
            session.open_file(self._folder)
            self._session = session
            return session.state

    def stop(self) -> RecorderState:
        """Stop the recording, if any, and wait until its file is in the inbox."""
        with self._lock:
            if self._session:
                self._session.leave.set()
                self._session.over.wait()
            return self.state

    def wait_until_ended(self, timeout_s: float) -> bool:
        """Wait for the end of the recording, at most `timeout_s`. Returns whether it has ended."""
        if self._session:
            self._session.over.wait(timeout_s)
        return not self.active


class _RecordingSession(threading.Thread):
    """One recording. The audio thread only fills the ring buffer; this thread does the rest."""

    def __init__(
        self,
        source: AudioInput,
        limits: RecordingLimits,
        *,
        publish: PublishEvent,
        clock: Clock,
        is_present: Callable[[], bool],
        spare: Path | None,
    ) -> None:
        super().__init__(name="recorder", daemon=True)
        self._source = source
        self._limits = limits
        self._publish_event = publish
        self._clock = clock
        self._is_present = is_present
        self._spare = spare
        self._frame = source.channels * SAMPLE_BYTES  # bytes
        self._ring = RingBuffer(int(RING_S * source.rate) * self._frame)
        # Blocks that did not fit, or that followed a gap; changed by the audio thread only
        self._lost = 0
        self._heard = RecordingProgress()
        self._peak_db = FLOOR_DB  # dB; the loudest since the last level event
        self.leave = threading.Event()
        # Waited for instead of `join`: after Ctrl-C in a `join`, the thread would look ended
        self.over = threading.Event()
        self.state = RecorderState(device=source.name, rate=source.rate)

    def open_file(self, folder: Path) -> None:
        """Create the file and start the thread.

        Raises RecorderUnavailable or OSError, and then leaves no file.
        """
        began = self._clock.utc()
        self._take = RecordingFile.create_file(
            folder, began=began, rate=self._source.rate, channels=self._source.channels
        )
        try:
            self._source.start(self._on_block)
        except BaseException:
            self._take.delete_file()
            self._take.close()
            raise
        self._update_state(
            RecorderStarted, phase=RecordingPhase.RECORDING, began_at=format_utc(began)
        )
        self.start()

    def _on_block(self, block: memoryview, gap: bool) -> None:
        """Store a block. Runs in the audio thread: no lock, no log, no allocation for samples."""
        if gap:
            self._lost += 1
        if not self._ring.put(block):
            self._lost += 1

    def run(self) -> None:
        try:
            reason, broken = self._record_until_over()
        except OSError as error:
            reason, broken = str(error), True
        except Exception:
            log.exception("the recording ends because of a defect")
            reason, broken = "a defect; the log has the details", True
        try:
            self._finish_recording(reason, broken=broken)
        finally:
            self.over.set()

    def _record_until_over(self) -> tuple[str, bool]:
        """Write blocks until the end.

        Returns the reason, "" if a stop was requested, and whether it is a failure. Raises OSError
        if the file cannot be written.
        """
        level_sent = last_block = folder_checked = self._clock.monotonic()
        while not self.leave.wait(LOOK_S):
            now = self._clock.monotonic()
            alive = self._source.alive  # checked first, so that the last blocks are written
            if self._write_pending():
                last_block = now
            elif not alive or now - last_block > SILENT_S:
                return f"{self._source.name} delivers no more audio; was it unplugged?", True
            self._count_lost_blocks()
            if now - folder_checked >= PRESENT_S:
                folder_checked = now
                if not (self._is_present() and self._take.is_reachable):
                    return GONE, True
            if now - level_sent >= LEVEL_S:
                level_sent = now
                self._publish_level()
            if over := find_stop_reason(self._limits, self._heard):
                return over, False
        return "", False

    def _write_pending(self) -> bool:
        """Write the content of the ring buffer. Returns whether there was any."""
        block = self._ring.take()
        if block:
            self._take.write_block(block)
            loudest = to_decibels(_compute_peak(block))
            self._heard = self._heard.add_block(
                len(block) / self._frame / self._source.rate, loudest
            )
            self._peak_db = max(self._peak_db, loudest)
        return bool(block)

    def _count_lost_blocks(self) -> None:
        if self._lost != self.state.overflows:
            self._update_state(RecorderOverflow, overflows=self._lost)

    def _publish_level(self) -> None:
        self._update_state(
            RecorderLevel, seconds=round(self._heard.seconds, 3), peak_db=round(self._peak_db, 1)
        )
        self._peak_db = FLOOR_DB

    def _finish_recording(self, reason: str, *, broken: bool) -> None:
        """Keep the recorded audio, whatever the reason of the end."""
        self.state = replace(self.state, phase=RecordingPhase.STOPPING)
        self._source.stop()
        try:
            self._write_pending()
            self._count_lost_blocks()
        except OSError as error:
            reason, broken = reason or str(error), True
        try:
            file = self._publish_file()
        except OSError as error:
            file = self._save_elsewhere()
            reason, broken = f"{reason}; {error}".strip("; "), True
        finally:
            self._take.close()
        self._update_state(
            RecorderFailed if broken else RecorderStopped,
            phase=RecordingPhase.FAILED if broken else RecordingPhase.IDLE,
            seconds=round(self._heard.seconds, 3),
            peak_db=FLOOR_DB,
            file=file,
            reason=reason,
        )

    def _publish_file(self) -> str | None:
        if self._heard.seconds:
            return str(self._take.publish_file())
        self._take.delete_file()
        return None

    def _save_elsewhere(self) -> str | None:
        """Save the recording in the spare folder. Returns its path; None if that failed, too."""
        if self._spare is None:
            return None
        try:
            return str(self._take.save_to(self._spare))
        except (OSError, ValueError):
            log.exception("the recording cannot be kept in %s either", self._spare)
            return None

    def _update_state(self, payload: type[RecorderPayload], **changes: object) -> None:
        self.state = replace(self.state, **changes)  # type: ignore[arg-type]  # keyed by field name
        event = Event.of(payload(**asdict(self.state)), at=format_utc(self._clock.utc()))
        self._publish_event(event)


def _compute_peak(block: bytes) -> int:
    """Return the peak of 16-bit samples, 0 to 32768."""
    samples = array.array("h", block)
    lowest, highest = min(samples), max(samples)
    return max(highest, -lowest)

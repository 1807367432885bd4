"""The recorder: on a source that the test plays, and on a real PortAudio stream from a virtual device."""

import array
import asyncio
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from speakeasyd.config import WatchSettings
from speakeasyd.domain.recording import RecordingLimits, RecordingPhase
from speakeasyd.events import Event, EventHub
from speakeasyd.inbox.rules import InboxRules
from speakeasyd.inbox.scanner import scan_inbox
from speakeasyd.loop import MainLoop
from speakeasyd.recorder import recorder as recording
from speakeasyd.recorder.libraries import RecorderBusy, RecorderUnavailable
from speakeasyd.recorder.microphone import OnBlock
from speakeasyd.recorder.recorder import Recorder, publish_to_hub
from speakeasyd.recorder.recording_file import ABANDONED_S, RecordingFile, publish_unfinished
from tests.conftest import PATIENCE_S

soundfile = pytest.importorskip(
    "soundfile", reason="the extra `record` is not installed", exc_type=ImportError
)

RATE = 8000


def tone(seconds: float, *, amplitude: float = 0.5, rate: int = RATE) -> bytes:
    count = round(seconds * rate)
    return array.array(
        "h",
        [round(32767 * amplitude * math.sin(2 * math.pi * 440 * n / rate)) for n in range(count)],
    ).tobytes()


class Played:
    """A source whose audio thread is the test itself."""

    name, rate, channels = "played", RATE, 1

    def __init__(self) -> None:
        self.alive = False
        self.hear: OnBlock | None = None
        self.on_stop: Callable[[], None] = lambda: None

    def start(self, on_block: OnBlock) -> None:
        self.alive, self.hear = True, on_block

    def play(self, block: bytes, *, gap: bool = False) -> None:
        assert self.hear is not None
        self.hear(memoryview(block), gap)

    def stop(self) -> None:
        self.on_stop()
        self.alive = False


@dataclass
class Studio:
    folder: Path
    source: Played = field(default_factory=Played)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.recorder = Recorder(
            folder=self.folder, publish=self.events.append, source=lambda _device: self.source
        )

    def kinds(self) -> list[str]:
        return [
            event.kind.removeprefix("recorder.")
            for event in self.events
            if event.kind != "recorder.level"
        ]

    def audio(self) -> bytes:
        [file] = self.folder.iterdir()
        assert soundfile.info(str(file)).samplerate == RATE
        samples, _ = soundfile.read(str(file), dtype="int16")
        return bytes(samples.tobytes())


@pytest.fixture
def studio(tmp_path: Path) -> Iterator[Studio]:
    folder = tmp_path / "inbox"
    folder.mkdir()
    studio = Studio(folder)
    yield studio
    studio.recorder.stop()


def until(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        time.sleep(0.01)


# --- a source that the test plays


def test_what_was_played_is_in_the_file(studio: Studio) -> None:
    began = studio.recorder.start()
    assert (began.phase, began.device, began.rate) == (RecordingPhase.RECORDING, "played", RATE)
    for start in range(0, len(tone(2.0)), 320):
        studio.source.play(tone(2.0)[start : start + 320])
    state = studio.recorder.stop()
    assert studio.audio() == tone(2.0)
    assert (state.phase, state.seconds, state.reason) == (RecordingPhase.IDLE, 2.0, "")
    assert state.file == str(next(studio.folder.iterdir()))
    assert studio.kinds() == ["started", "stopped"]


def test_a_growing_recording_is_no_arrival(studio: Studio) -> None:
    studio.recorder.start()
    studio.source.play(tone(1.0))
    until(lambda: studio.recorder.state.seconds, "the level")
    assert list(studio.folder.iterdir()) != []

    def arrivals() -> list[bytes]:
        rules = InboxRules(WatchSettings())
        return [
            sighting.path
            for sighting in scan_inbox(studio.folder, rules, on_error=lambda _path, _error: None)
        ]

    assert arrivals() == []
    studio.recorder.stop()
    assert len(arrivals()) == 1


def test_the_level_is_told(studio: Studio) -> None:
    studio.recorder.start()
    studio.source.play(tone(0.5, amplitude=0.5))
    until(lambda: any(event.kind == "recorder.level" for event in studio.events), "a level")
    level = next(event for event in studio.events if event.kind == "recorder.level")
    assert level.data["peak_db"] == pytest.approx(-6.0, abs=0.1)
    assert level.data["seconds"] == pytest.approx(0.5)


def test_it_ends_by_itself(studio: Studio) -> None:
    studio.recorder.start(limits=RecordingLimits(until_silence_s=1.0))
    studio.source.play(bytes(len(tone(3.0))))
    studio.source.play(tone(1.0))
    until(lambda: studio.recorder.state.seconds == 4.0, "both blocks")
    assert studio.recorder.active
    studio.source.play(bytes(len(tone(1.0))))
    assert studio.recorder.wait_until_ended(PATIENCE_S)
    assert (studio.recorder.state.phase, studio.recorder.state.reason) == (
        RecordingPhase.IDLE,
        "1 s of silence",
    )


def test_lost_audio_is_counted_and_the_rest_kept(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "RING_S", 1.0)
    studio.recorder.start()
    studio.source.play(tone(1.5))  # more than the ring holds
    studio.source.play(tone(0.5), gap=True)  # the device itself lost some before it
    state = studio.recorder.stop()
    assert studio.audio() == tone(0.5)
    assert state.overflows == 2
    assert studio.kinds()[-2:] == ["overflow", "stopped"]


def test_an_unplugged_device_ends_it_and_keeps_what_there_is(studio: Studio) -> None:
    studio.recorder.start()
    studio.source.play(tone(1.0))
    studio.source.alive = False
    assert studio.recorder.wait_until_ended(PATIENCE_S)
    state = studio.recorder.state
    assert state.phase is RecordingPhase.FAILED
    assert "unplugged" in state.reason
    assert studio.audio() == tone(1.0)
    assert studio.kinds() == ["started", "failed"]


def test_a_device_that_falls_silent_without_a_word_counts_as_gone(
    studio: Studio, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "SILENT_S", 0.3)
    studio.recorder.start()
    studio.source.play(tone(1.0))
    assert studio.recorder.wait_until_ended(PATIENCE_S)
    assert studio.recorder.state.phase is RecordingPhase.FAILED
    assert studio.audio() == tone(1.0)


def test_a_stop_in_the_middle_of_a_callback_keeps_its_block(studio: Studio) -> None:
    studio.recorder.start()
    studio.source.on_stop = lambda: studio.source.play(
        tone(0.25)
    )  # still under way while the stream is being stopped
    studio.recorder.stop()
    assert studio.audio() == tone(0.25)


def test_nothing_recorded_leaves_no_file(studio: Studio) -> None:
    studio.recorder.start()
    assert studio.recorder.stop().file is None
    assert list(studio.folder.iterdir()) == []


def test_one_at_a_time_and_the_next_has_a_name_of_its_own(studio: Studio) -> None:
    studio.recorder.start()
    with pytest.raises(RecorderBusy):
        studio.recorder.start()
    studio.source.play(tone(0.1))
    first = studio.recorder.stop().file
    studio.recorder.start()
    studio.source.play(tone(0.1))
    second = studio.recorder.stop().file
    assert first
    assert second
    assert first != second
    assert len(list(studio.folder.iterdir())) == 2


def test_a_device_that_cannot_be_opened_leaves_nothing_behind(studio: Studio) -> None:
    def refuse(_on_block: OnBlock) -> None:
        raise RecorderUnavailable("it is in use")

    studio.source.start = refuse  # type: ignore[method-assign]
    with pytest.raises(RecorderUnavailable):
        studio.recorder.start()
    assert list(studio.folder.iterdir()) == []
    assert not studio.recorder.active


def test_a_folder_that_is_gone_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        Studio(tmp_path / "nowhere").recorder.start()


def test_a_killed_recording_is_rescued_by_the_next(studio: Studio) -> None:
    take = RecordingFile.create_file(studio.folder, began=datetime.now(UTC), rate=RATE, channels=1)
    take.write_block(tone(3.0))
    assert publish_unfinished(studio.folder) == [], "somebody may be at it"
    [growing] = studio.folder.iterdir()
    old = time.time() - 2 * ABANDONED_S
    os.utime(growing, (old, old))
    [rescued] = publish_unfinished(studio.folder)
    with soundfile.SoundFile(str(rescued)) as flac:
        assert flac.samplerate == RATE
        assert len(flac.read(RATE, dtype="int16")) == RATE
    take._close()
    take.close()


def test_an_inbox_that_is_away_takes_no_recording(tmp_path: Path) -> None:
    recorder = Recorder(folder=tmp_path, source=lambda _device: Played(), is_present=lambda: False)
    with pytest.raises(FileNotFoundError, match="no longer mounted"):
        recorder.start()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="an open folder cannot be moved there")
@pytest.mark.parametrize("happens", ["unmounted", "moved", "deleted"])
def test_an_inbox_that_goes_away_ends_the_recording_and_keeps_it(
    tmp_path: Path, happens: str
) -> None:
    folder, spare, elsewhere = tmp_path / "inbox", tmp_path / "spare", tmp_path / "elsewhere"
    folder.mkdir()
    source, present, events = Played(), [True], list[Event]()
    recorder = Recorder(
        folder=folder,
        publish=events.append,
        source=lambda _device: source,
        is_present=lambda: present[0],
        spare=spare,
    )
    recorder.start()
    source.play(tone(2.0))
    until(lambda: recorder.state.seconds, "the audio to be written")
    match happens:
        case "unmounted":
            present[0] = False
        case "moved":
            folder.rename(elsewhere)
            folder.mkdir()
        case "deleted":
            shutil.rmtree(folder)

    def goes_on() -> bool:
        source.play(tone(0.05))
        return recorder.active

    until(lambda: not goes_on(), "the end of the recording")
    assert recorder.state.phase is RecordingPhase.FAILED
    assert "no longer mounted" in recorder.state.reason
    where = {"unmounted": folder, "moved": elsewhere, "deleted": spare}[happens]
    [file] = where.iterdir()
    assert recorder.state.file
    assert Path(recorder.state.file).name == file.name
    assert len(soundfile.read(str(file), dtype="int16")[0]) >= 2 * RATE


async def test_the_loop_hears_of_it_through_the_one_hand_over(tmp_path: Path) -> None:
    hub, main_loop, source = EventHub(), MainLoop(asyncio.get_running_loop()), Played()
    recorder = Recorder(
        folder=tmp_path, publish=publish_to_hub(main_loop, hub), source=lambda _device: source
    )
    with hub.subscribe() as events:
        await asyncio.to_thread(recorder.start)
        source.play(tone(0.3))
        await asyncio.to_thread(recorder.stop)
        kinds = [(await anext(events)).kind]
        while kinds[-1] != "recorder.stopped":
            kinds.append((await anext(events)).kind)
    assert kinds[0] == "recorder.started"
    assert main_loop.dropped == 0
    await main_loop.close()


# --- a real stream


@dataclass
class Room:
    """A sound server with one virtual loudspeaker, and a microphone before it."""

    environment: dict[str, str]
    server: subprocess.Popen[bytes]
    inbox: Path

    def record(self, *options: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "speakeasyd",
            "record",
            "--inbox",
            str(self.inbox),
            "--device",
            "room",
        ]
        return subprocess.Popen(
            [*command, *options],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def play(self, seconds: float) -> None:
        play = ["pacat", "--raw", "--format=s16le", "--rate=16000", "--channels=1", "--device=room"]
        subprocess.run(
            play,
            input=tone(seconds, rate=16000),
            env=self.environment,
            check=True,
            timeout=PATIENCE_S,
        )

    def growing(self) -> bool:
        """Whether blocks come: the server takes a while to begin."""
        return any(file.stat().st_size > 150 for file in self.inbox.glob(".*.recording"))


@pytest.fixture
def room(tmp_path: Path, scratch_home: Path) -> Iterator[Room]:
    if sys.platform != "linux" or not shutil.which("pulseaudio") or not shutil.which("pacat"):
        pytest.skip(
            "no virtual microphone: it needs PulseAudio (apt install pulseaudio libasound2-plugins)"
        )
    socket = tmp_path / "sound"
    (scratch_home / ".asoundrc").write_text('pcm.room { type pulse device "room.monitor" }\n')
    environment = os.environ | {
        "PULSE_SERVER": f"unix:{socket}",
        "XDG_RUNTIME_DIR": str(tmp_path),
        "COLUMNS": "200",
    }

    def asked(*command: str) -> str:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    native = f"module-native-protocol-unix socket={socket} auth-anonymous=1"
    sink = "module-null-sink sink_name=room rate=16000 channels=1"
    command = [
        "pulseaudio",
        "-n",
        "--exit-idle-time=-1",
        "--use-pid-file=no",
        "--daemonize=no",
        "-L",
        native,
        "-L",
        sink,
    ]
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        until(
            lambda: "room.monitor" in asked("pactl", "list", "short", "sources") or server.poll(),
            "the sound server",
        )
        listed = asked(sys.executable, "-m", "speakeasyd", "devices", "--json")
        if '"room"' not in listed:
            pytest.skip(f"PortAudio does not see the virtual microphone: {listed}")
        inbox = tmp_path / "inbox"
        inbox.mkdir()
        yield Room(environment, server, inbox)
    finally:
        server.kill()
        server.wait()


def test_a_real_microphone_is_recorded_until_it_falls_silent(room: Room) -> None:
    recording = room.record("--until-silence", "2.5", "--max", "600")
    until(room.growing, "the recording")
    room.play(1.0)
    out, err = recording.communicate(timeout=PATIENCE_S)
    assert recording.returncode == 0, err
    assert "2.5 s of silence" in out
    [file] = room.inbox.iterdir()
    samples, rate = soundfile.read(str(file), dtype="int16")
    loud = [abs(int(sample)) > 1000 for sample in samples]
    loud_s = sum(loud) / rate
    assert 0 < loud_s < 1.1
    crossings = sum(1 for before, after in pairwise(samples) if before < 0 <= after)
    assert 400 < crossings / loud_s < 740, (
        "the tone that was played, or what a busy sound server let through of it"
    )


def test_a_microphone_that_vanishes_leaves_what_it_gave(room: Room) -> None:
    recording = room.record()
    until(room.growing, "the recording")
    room.server.kill()
    out, err = recording.communicate(timeout=PATIENCE_S)
    assert recording.returncode == 1, err
    assert "unplugged" in out
    [file] = room.inbox.iterdir()
    assert file.suffix == ".flac"
    assert soundfile.info(str(file)).duration > 0


@pytest.mark.parametrize("request_to_stop", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_ends_a_recording_in_good_order(
    room: Room, request_to_stop: signal.Signals
) -> None:
    recording = room.record()
    until(room.growing, "the recording")
    recording.send_signal(request_to_stop)
    out, err = recording.communicate(timeout=PATIENCE_S)
    assert recording.returncode == 0, err
    [file] = room.inbox.iterdir()
    assert str(file) in out
    assert soundfile.info(str(file)).duration > 0


def test_a_microphone_that_comes_later_is_found(room: Room, scratch_home: Path) -> None:
    code = (
        "import sys; from speakeasyd.recorder.microphone import list_devices;"
        "seen = lambda: [d.name for d in list_devices()];"
        "before = seen(); open(sys.argv[1], 'a').write('pcm.hall { type pulse device \"room.monitor\" }\\n');"
        "print(*sorted(set(seen()) - set(before)))"
    )
    command = [sys.executable, "-c", code, str(scratch_home / ".asoundrc")]
    found = subprocess.run(
        command, env=room.environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["hall"]

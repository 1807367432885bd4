"""The recorder with a source that the test controls, and with a real PortAudio stream."""

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
from tests.conftest import PATIENCE_S, poll_until

soundfile = pytest.importorskip(
    "soundfile", reason="the extra `record` is not installed", exc_type=ImportError
)

RATE = 8000


def create_tone(seconds: float, *, amplitude: float = 0.5, rate: int = RATE) -> bytes:
    count = round(seconds * rate)
    return array.array(
        "h",
        [round(32767 * amplitude * math.sin(2 * math.pi * 440 * n / rate)) for n in range(count)],
    ).tobytes()


class ControlledSource:
    """A source whose audio thread is the test."""

    name, rate, channels = "played", RATE, 1

    def __init__(self) -> None:
        self.alive = False
        self.hear: OnBlock | None = None
        self.on_stop: Callable[[], None] = lambda: None

    def start(self, on_block: OnBlock) -> None:
        self.alive, self.hear = True, on_block

    def play_samples(self, block: bytes, *, gap: bool = False) -> None:
        assert self.hear is not None
        self.hear(memoryview(block), gap)

    def stop(self) -> None:
        self.on_stop()
        self.alive = False


@dataclass
class RecorderSetup:
    folder: Path
    source: ControlledSource = field(default_factory=ControlledSource)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.recorder = Recorder(
            folder=self.folder, publish=self.events.append, source=lambda _device: self.source
        )

    def list_event_kinds(self) -> list[str]:
        return [
            event.kind.removeprefix("recorder.")
            for event in self.events
            if event.kind != "recorder.level"
        ]

    def read_audio(self) -> bytes:
        [file] = self.folder.iterdir()
        assert soundfile.info(str(file)).samplerate == RATE
        samples, _ = soundfile.read(str(file), dtype="int16")
        return bytes(samples.tobytes())


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[RecorderSetup]:
    folder = tmp_path / "inbox"
    folder.mkdir()
    setup = RecorderSetup(folder)
    yield setup
    setup.recorder.stop()


# --- a source that the test controls


def test_played_audio_is_in_the_file(setup: RecorderSetup) -> None:
    began = setup.recorder.start()
    assert (began.phase, began.device, began.rate) == (RecordingPhase.RECORDING, "played", RATE)
    for start in range(0, len(create_tone(2.0)), 320):
        setup.source.play_samples(create_tone(2.0)[start : start + 320])
    state = setup.recorder.stop()
    assert setup.read_audio() == create_tone(2.0)
    assert (state.phase, state.seconds, state.reason) == (RecordingPhase.IDLE, 2.0, "")
    assert state.file == str(next(setup.folder.iterdir()))
    assert setup.list_event_kinds() == ["started", "stopped"]


def test_a_growing_recording_is_not_an_arrival(setup: RecorderSetup) -> None:
    setup.recorder.start()
    setup.source.play_samples(create_tone(1.0))
    poll_until(lambda: setup.recorder.state.seconds, "the level")
    assert list(setup.folder.iterdir()) != []

    def list_arrivals() -> list[bytes]:
        rules = InboxRules(WatchSettings())
        return [
            sighting.path
            for sighting in scan_inbox(setup.folder, rules, on_error=lambda _path, _error: None)
        ]

    assert list_arrivals() == []
    setup.recorder.stop()
    assert len(list_arrivals()) == 1


def test_the_level_is_reported(setup: RecorderSetup) -> None:
    setup.recorder.start()
    setup.source.play_samples(create_tone(0.5, amplitude=0.5))
    poll_until(lambda: any(event.kind == "recorder.level" for event in setup.events), "a level")
    level = next(event for event in setup.events if event.kind == "recorder.level")
    assert level.data["peak_db"] == pytest.approx(-6.0, abs=0.1)
    assert level.data["seconds"] == pytest.approx(0.5)


def test_a_recording_ends_by_itself(setup: RecorderSetup) -> None:
    setup.recorder.start(limits=RecordingLimits(until_silence_s=1.0))
    setup.source.play_samples(bytes(len(create_tone(3.0))))
    setup.source.play_samples(create_tone(1.0))
    poll_until(lambda: setup.recorder.state.seconds == 4.0, "both blocks")
    assert setup.recorder.active
    setup.source.play_samples(bytes(len(create_tone(1.0))))
    assert setup.recorder.wait_until_ended(PATIENCE_S)
    assert (setup.recorder.state.phase, setup.recorder.state.reason) == (
        RecordingPhase.IDLE,
        "1 s of silence",
    )


def test_lost_audio_is_counted_and_the_rest_kept(
    setup: RecorderSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "RING_S", 1.0)
    setup.recorder.start()
    setup.source.play_samples(create_tone(1.5))  # more than the ring buffer holds
    setup.source.play_samples(create_tone(0.5), gap=True)  # the device lost some before
    state = setup.recorder.stop()
    assert setup.read_audio() == create_tone(0.5)
    assert state.overflows == 2
    assert setup.list_event_kinds()[-2:] == ["overflow", "stopped"]


def test_an_unplugged_device_ends_the_recording(setup: RecorderSetup) -> None:
    setup.recorder.start()
    setup.source.play_samples(create_tone(1.0))
    setup.source.alive = False
    assert setup.recorder.wait_until_ended(PATIENCE_S)
    state = setup.recorder.state
    assert state.phase is RecordingPhase.FAILED
    assert "unplugged" in state.reason
    assert setup.read_audio() == create_tone(1.0)
    assert setup.list_event_kinds() == ["started", "failed"]


def test_a_device_without_callbacks_counts_as_gone(
    setup: RecorderSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "SILENT_S", 0.3)
    setup.recorder.start()
    setup.source.play_samples(create_tone(1.0))
    assert setup.recorder.wait_until_ended(PATIENCE_S)
    assert setup.recorder.state.phase is RecordingPhase.FAILED
    assert setup.read_audio() == create_tone(1.0)


def test_a_stop_during_a_callback_keeps_its_block(setup: RecorderSetup) -> None:
    setup.recorder.start()
    setup.source.on_stop = lambda: setup.source.play_samples(
        create_tone(0.25)
    )  # still running while the stream stops
    setup.recorder.stop()
    assert setup.read_audio() == create_tone(0.25)


def test_an_empty_recording_leaves_no_file(setup: RecorderSetup) -> None:
    setup.recorder.start()
    assert setup.recorder.stop().file is None
    assert list(setup.folder.iterdir()) == []


def test_recordings_are_exclusive_and_have_unique_names(setup: RecorderSetup) -> None:
    setup.recorder.start()
    with pytest.raises(RecorderBusy):
        setup.recorder.start()
    setup.source.play_samples(create_tone(0.1))
    first = setup.recorder.stop().file
    setup.recorder.start()
    setup.source.play_samples(create_tone(0.1))
    second = setup.recorder.stop().file
    assert first
    assert second
    assert first != second
    assert len(list(setup.folder.iterdir())) == 2


def test_a_device_that_cannot_be_opened_leaves_no_files(setup: RecorderSetup) -> None:
    def fail_to_start(_on_block: OnBlock) -> None:
        raise RecorderUnavailable("it is in use")

    setup.source.start = fail_to_start  # type: ignore[method-assign]
    with pytest.raises(RecorderUnavailable):
        setup.recorder.start()
    assert list(setup.folder.iterdir()) == []
    assert not setup.recorder.active


def test_a_missing_folder_is_reported_before_the_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        RecorderSetup(tmp_path / "nowhere").recorder.start()


def test_a_killed_recording_is_recovered_at_the_next_start(setup: RecorderSetup) -> None:
    take = RecordingFile.create_file(setup.folder, began=datetime.now(UTC), rate=RATE, channels=1)
    take.write_block(create_tone(3.0))
    assert publish_unfinished(setup.folder) == [], "somebody may be at it"
    [growing] = setup.folder.iterdir()
    old = time.time() - 2 * ABANDONED_S
    os.utime(growing, (old, old))
    [rescued] = publish_unfinished(setup.folder)
    with soundfile.SoundFile(str(rescued)) as flac:
        assert flac.samplerate == RATE
        assert len(flac.read(RATE, dtype="int16")) == RATE
    take._close_file()
    take.close()


def test_a_missing_inbox_refuses_recordings(tmp_path: Path) -> None:
    recorder = Recorder(
        folder=tmp_path, source=lambda _device: ControlledSource(), is_present=lambda: False
    )
    with pytest.raises(FileNotFoundError, match="no longer mounted"):
        recorder.start()
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="an open folder cannot be moved there")
@pytest.mark.parametrize("happens", ["unmounted", "moved", "deleted"])
def test_a_recording_survives_the_loss_of_its_inbox(tmp_path: Path, happens: str) -> None:
    folder, spare, elsewhere = tmp_path / "inbox", tmp_path / "spare", tmp_path / "elsewhere"
    folder.mkdir()
    source, present, events = ControlledSource(), [True], list[Event]()
    recorder = Recorder(
        folder=folder,
        publish=events.append,
        source=lambda _device: source,
        is_present=lambda: present[0],
        spare=spare,
    )
    recorder.start()
    source.play_samples(create_tone(2.0))
    poll_until(lambda: recorder.state.seconds, "the written audio")
    match happens:
        case "unmounted":
            present[0] = False
        case "moved":
            folder.rename(elsewhere)
            folder.mkdir()
        case "deleted":
            shutil.rmtree(folder)

    def is_recording() -> bool:
        source.play_samples(create_tone(0.05))
        return recorder.active

    poll_until(lambda: not is_recording(), "the end of the recording")
    assert recorder.state.phase is RecordingPhase.FAILED
    assert "no longer mounted" in recorder.state.reason
    where = {"unmounted": folder, "moved": elsewhere, "deleted": spare}[happens]
    [file] = where.iterdir()
    assert recorder.state.file
    assert Path(recorder.state.file).name == file.name
    assert len(soundfile.read(str(file), dtype="int16")[0]) >= 2 * RATE


async def test_events_reach_the_loop_through_the_main_loop(tmp_path: Path) -> None:
    hub, main_loop, source = EventHub(), MainLoop(asyncio.get_running_loop()), ControlledSource()
    recorder = Recorder(
        folder=tmp_path, publish=publish_to_hub(main_loop, hub), source=lambda _device: source
    )
    with hub.subscribe() as events:
        await asyncio.to_thread(recorder.start)
        source.play_samples(create_tone(0.3))
        await asyncio.to_thread(recorder.stop)
        kinds = [(await anext(events)).kind]
        while kinds[-1] != "recorder.stopped":
            kinds.append((await anext(events)).kind)
    assert kinds[0] == "recorder.started"
    assert main_loop.dropped == 0
    await main_loop.close()


# --- a real stream


@dataclass
class SoundServer:
    """A sound server with one virtual loudspeaker and its monitor as microphone."""

    environment: dict[str, str]
    server: subprocess.Popen[bytes]
    inbox: Path

    def start_recorder(self, *options: str) -> subprocess.Popen[str]:
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

    def record_tone(self, seconds: float, *options: str) -> str:
        """Record until the recorder ends. Returns its output."""
        while True:
            recording = self.start_recorder(*options)
            poll_until(self.is_recording_audio, "the recording")
            self.play_samples(seconds)
            out, err = recording.communicate(timeout=PATIENCE_S)
            if "PaAlsaStream_WaitForFrames" not in err:
                assert recording.returncode == 0, err
                return out
            for file in self.inbox.iterdir():  # on a busy machine, PortAudio lost the device
                file.unlink()

    def play_samples(self, seconds: float) -> None:
        play = ["pacat", "--raw", "--format=s16le", "--rate=16000", "--channels=1", "--device=room"]
        subprocess.run(
            play,
            input=create_tone(seconds, rate=16000),
            env=self.environment,
            check=True,
            timeout=PATIENCE_S,
        )

    def is_recording_audio(self) -> bool:
        """Whether blocks arrive. The server takes some time to begin."""
        return any(file.stat().st_size > 150 for file in self.inbox.glob(".*.recording"))


@pytest.fixture
def sound_server(tmp_path: Path, scratch_home: Path) -> Iterator[SoundServer]:
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

    def run_program(*command: str) -> str:
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
        poll_until(
            lambda: (
                "room.monitor" in run_program("pactl", "list", "short", "sources") or server.poll()
            ),
            "the sound server",
        )
        listed = run_program(sys.executable, "-m", "speakeasyd", "devices", "--json")
        if '"room"' not in listed:
            pytest.skip(f"PortAudio does not see the virtual microphone: {listed}")
        inbox = tmp_path / "inbox"
        inbox.mkdir()
        yield SoundServer(environment, server, inbox)
    finally:
        server.kill()
        server.wait()


def test_a_real_microphone_is_recorded_until_silence(sound_server: SoundServer) -> None:
    out = sound_server.record_tone(1.0, "--until-silence", "2.5", "--max", "600")
    assert "2.5 s of silence" in out
    [file] = sound_server.inbox.iterdir()
    samples, rate = soundfile.read(str(file), dtype="int16")
    loud = [abs(int(sample)) > 1000 for sample in samples]
    loud_s = sum(loud) / rate
    assert 0 < loud_s < 1.1
    crossings = sum(1 for before, after in pairwise(samples) if before < 0 <= after)
    assert 400 < crossings / loud_s < 740, (
        "the tone that was played, or what a busy sound server let through of it"
    )


def test_a_recording_of_a_removed_microphone_is_kept(sound_server: SoundServer) -> None:
    recording = sound_server.start_recorder()
    poll_until(sound_server.is_recording_audio, "the recording")
    sound_server.server.kill()
    out, err = recording.communicate(timeout=PATIENCE_S)
    assert recording.returncode == 1, err
    assert "unplugged" in out
    [file] = sound_server.inbox.iterdir()
    assert file.suffix == ".flac"
    assert soundfile.info(str(file)).duration > 0


@pytest.mark.parametrize("request_to_stop", [signal.SIGINT, signal.SIGTERM])
def test_a_request_to_stop_completes_a_recording(
    sound_server: SoundServer, request_to_stop: signal.Signals
) -> None:
    recording = sound_server.start_recorder()
    poll_until(sound_server.is_recording_audio, "the recording")
    recording.send_signal(request_to_stop)
    out, err = recording.communicate(timeout=PATIENCE_S)
    assert recording.returncode == 0, err
    [file] = sound_server.inbox.iterdir()
    assert str(file) in out
    assert soundfile.info(str(file)).duration > 0


def test_a_microphone_connected_later_is_found(
    sound_server: SoundServer, scratch_home: Path
) -> None:
    code = (
        "import sys; from speakeasyd.recorder.microphone import list_devices;"
        "seen = lambda: [d.name for d in list_devices()];"
        "before = seen(); open(sys.argv[1], 'a').write('pcm.hall { type pulse device \"room.monitor\" }\\n');"
        "print(*sorted(set(seen()) - set(before)))"
    )
    command = [sys.executable, "-c", code, str(scratch_home / ".asoundrc")]
    found = subprocess.run(
        command, env=sound_server.environment, capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["hall"]

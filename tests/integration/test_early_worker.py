"""The worker that is started before the daemon."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from speakeasyd import launch
from speakeasyd.__main__ import main, prestart_worker
from speakeasyd.config import Settings
from speakeasyd.domain.protocol import Fault, Hello, Loaded, Loading, Report
from speakeasyd.domain.worker_exit import EXIT_ORPHAN
from speakeasyd.errors import ConfigError
from speakeasyd.launch import has_new_files, prepare_daemon
from speakeasyd.ledger.readonly import LEDGER
from speakeasyd.loop import MainLoop
from speakeasyd.workers.child import ENGINE
from speakeasyd.workers.devices import build_specs
from speakeasyd.workers.early_worker import EarlyWorker, start_early_worker
from speakeasyd.workers.link import ProcessExit
from speakeasyd.workers.nvidia_driver import has_nvidia_driver
from speakeasyd.workers.process import WorkerProcess
from speakeasyd.workers.spawn import SpawnedWorker, spawn_process, spawn_worker
from tests.conftest import PATIENCE_S, poll_until


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "memo.wav").touch()
    return Settings.model_validate(
        {
            "state": tmp_path / "state",
            "inboxes": [{"path": inbox, "outbox": tmp_path / "outbox"}],
            "options": {"model": "bundled"},
            "workers": {"device": "cpu", "replicas": 1},
        }
    )


@pytest.fixture
def prestarted() -> Iterator[SpawnedWorker]:
    worker = spawn_process()
    yield worker
    worker.end()


def take(early: EarlyWorker, *, target: str = ENGINE, compute_type: str = "auto") -> object:
    return early.take_worker("cpu", replace(early.spec, compute_type=compute_type), target)


@pytest.mark.real
def test_it_loads_the_model_before_the_first_task(settings: Settings) -> None:
    with start_early_worker(settings, needs_model=lambda: True) as early:
        assert early
        worker = early.take_worker("cpu", early.spec, ENGINE)
        assert worker
        assert not early.take_worker("cpu", early.spec, ENGINE), "only one can have it"
    reports: list[Report] = []
    while len(reports) < 3:
        assert worker.conn.poll(PATIENCE_S)
        reports.append(worker.conn.recv())
    assert [type(report) for report in reports] == [Hello, Loading, Loaded]
    worker.kill()
    worker.process.join()


@pytest.mark.parametrize(
    "use",
    [
        lambda _: None,
        lambda early: take(early, target="other:engine"),
        lambda early: take(early, compute_type="float32"),
    ],
    ids=["nobody takes it", "another engine is wanted", "other settings are wanted"],
)
def test_a_worker_that_is_not_used_is_ended(
    settings: Settings, use: Callable[[EarlyWorker], object]
) -> None:
    with start_early_worker(settings) as early:
        assert early
        assert early.worker
        process = early.worker.process
        assert use(early) is None
    process.join(PATIENCE_S)
    assert process.exitcode


def test_a_worker_imports_nothing_of_the_hub_until_it_downloads() -> None:
    """Its interface imports half as much as all the rest of a worker."""
    probe = "import sys, speakeasyd.engine.worker_host; sys.exit('huggingface_hub.hf_api' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", probe], check=False).returncode == 0


def test_a_prestarted_worker_is_used(settings: Settings, prestarted: SpawnedWorker) -> None:
    with start_early_worker(settings, prestarted) as early:
        assert early
        assert early.worker is prestarted
        assert prestarted.conn.poll(PATIENCE_S)
        assert isinstance(prestarted.conn.recv(), Hello)
    assert prestarted.process.exitcode, "nobody took it"


def test_a_daemon_with_new_files_loads_the_model(
    settings: Settings, prestarted: SpawnedWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    patient = partial(has_new_files, patience_s=PATIENCE_S)
    monkeypatch.setattr(launch, "has_new_files", patient)
    with prepare_daemon(settings, prestarted):
        reports = []
        for _ in range(2):
            assert prestarted.conn.poll(PATIENCE_S)
            reports.append(prestarted.conn.recv())
    assert [type(report) for report in reports] == [Hello, Loading]


@pytest.mark.parametrize("other", [{"device": "cuda"}, {"pool": "ray"}])
def test_a_prestarted_worker_that_is_not_needed_is_ended(
    settings: Settings, prestarted: SpawnedWorker, other: dict[str, str]
) -> None:
    workers = settings.workers.model_copy(update=other)
    with start_early_worker(settings.model_copy(update={"workers": workers}), prestarted) as early:
        assert early is None
        assert prestarted.process.exitcode, "it would stay until the daemon ends"


def test_a_prestarted_worker_ends_with_its_parent(prestarted: SpawnedWorker) -> None:
    prestarted.conn.close()
    prestarted.process.join(PATIENCE_S)
    assert prestarted.process.exitcode == EXIT_ORPHAN


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_signal_does_not_end_a_worker_that_is_being_started(prestarted: SpawnedWorker) -> None:
    """Ctrl-C reaches it, too, and its traceback would be printed."""
    assert prestarted.process.pid
    os.kill(prestarted.process.pid, signal.SIGINT)
    os.kill(prestarted.process.pid, signal.SIGTERM)
    prestarted.conn.close()
    prestarted.process.join(PATIENCE_S)
    assert prestarted.process.exitcode == EXIT_ORPHAN


def test_ctrl_c_during_the_imports_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(_: str) -> None:
        raise KeyboardInterrupt

    module = types.ModuleType("speakeasyd.cli")
    vars(module)["__getattr__"] = interrupt
    monkeypatch.setitem(sys.modules, "speakeasyd.cli", module)
    monkeypatch.setattr(sys, "argv", ["speakeasyd", "status"])
    assert main() == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_worker_that_cannot_write_its_log_tells_why(
    settings: Settings, prestarted: SpawnedWorker
) -> None:
    [spec] = build_specs(settings.workers, ("cpu",), state_dir=settings.state)
    for name in ("cpu.log", "cpu.previous.log"):
        (settings.state / "workers" / name / "folder").mkdir(parents=True)
    spawn_worker("cpu", spec, ENGINE, prestarted)
    assert prestarted.conn.poll(PATIENCE_S)
    fault = prestarted.conn.recv()
    assert isinstance(fault, Fault)
    assert "IsADirectoryError" in fault.error


async def test_the_end_of_a_worker_that_has_ended_before_is_reported(
    prestarted: SpawnedWorker,
) -> None:
    """The threads that serve its pipe end while they are being started."""
    prestarted.end()
    main_loop = MainLoop(asyncio.get_running_loop())
    exits: asyncio.Queue[ProcessExit] = asyncio.Queue()
    for _ in range(20):  # the order of the threads differs
        conn, childs_end = multiprocessing.Pipe()
        childs_end.close()
        worker: WorkerProcess[object, object] = WorkerProcess(
            partial(SpawnedWorker, prestarted.process, conn),
            name="cpu",
            main_loop=main_loop,
            on_reports=lambda _: asyncio.sleep(0),
            on_exit=exits.put,
        )
        worker.start()
        found = await asyncio.wait_for(exits.get(), PATIENCE_S)
        assert found.status == prestarted.process.exitcode


def test_a_prestarted_worker_imports_a_module(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    imported = tmp_path / "imported"
    library = f"open({str(imported)!r}, 'w').close()\nimport missing_library"
    (tmp_path / "library.py").write_text(library)
    [spec] = build_specs(settings.workers, ("cpu",), state_dir=settings.state)
    worker = spawn_process(imports="library")
    try:
        poll_until(imported.exists, "the import")
        worker.send_spec("cpu", spec, "library:serve")
        assert worker.conn.poll(PATIENCE_S)
        fault = worker.conn.recv()
    finally:
        worker.end()
    assert isinstance(fault, Fault), "the target's import fails, too"
    assert "missing_library" in fault.error


@pytest.mark.parametrize(
    "arguments", [[], ["status"], ["run", "--help"], ["once", "-h"], ["--version", "run"]]
)
def test_commands_without_a_worker_start_none(arguments: list[str]) -> None:
    with prestart_worker(arguments) as worker:
        assert worker is None


@pytest.mark.skipif(has_nvidia_driver(), reason="the devices have to be probed first")
def test_a_command_that_cannot_start_leaves_no_worker(tmp_path: Path) -> None:
    """A process that is left would keep the pipes of the command open."""
    with prestart_worker(["once"]) as worker:
        assert worker
    assert worker.process.exitcode
    command = [sys.executable, "-m", "speakeasyd", "once", "--config", tmp_path / "missing.toml"]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == ConfigError.exit_status
    assert done.stderr.count(b"\n") < 5, "no traceback"


def test_only_files_newer_than_the_ledger_are_new(settings: Settings) -> None:
    assert has_new_files(settings, patience_s=PATIENCE_S)
    settings.state.mkdir()
    ledger = settings.state / LEDGER
    ledger.touch()
    created_at = (settings.inboxes[0].path / "memo.wav").stat().st_ctime
    for changed_at, expected in ((created_at - 60, True), (created_at + 60, False)):
        os.utime(ledger, (changed_at, changed_at))
        assert has_new_files(settings, patience_s=PATIENCE_S) is expected


def test_a_folder_that_does_not_answer_delays_nothing(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = threading.Event()
    monkeypatch.setattr(Path, "iterdir", lambda _: iter(()) if answer.wait(PATIENCE_S) else None)
    assert not has_new_files(settings, patience_s=0.01)
    answer.set()

"""The worker that is started before the daemon."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from speakeasyd.config import Settings
from speakeasyd.domain.protocol import Hello, Loaded, Loading, Report
from speakeasyd.launch import has_new_files
from speakeasyd.ledger.readonly import LEDGER
from speakeasyd.workers.child import ENGINE
from speakeasyd.workers.early_worker import EarlyWorker, start_early_worker
from tests.conftest import PATIENCE_S


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


def take(early: EarlyWorker, *, target: str = ENGINE, compute_type: str = "auto") -> object:
    return early.take_worker("cpu", replace(early.spec, compute_type=compute_type), target)


@pytest.mark.real
def test_it_loads_the_model_before_the_first_task(settings: Settings) -> None:
    with start_early_worker(settings, preload=True) as early:
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


def test_devices_that_have_to_be_probed_get_no_early_worker(settings: Settings) -> None:
    workers = settings.workers.model_copy(update={"device": "cuda"})
    with start_early_worker(settings.model_copy(update={"workers": workers})) as early:
        assert early is None


def test_only_files_newer_than_the_ledger_are_new(settings: Settings) -> None:
    assert has_new_files(settings)
    settings.state.mkdir()
    ledger = settings.state / LEDGER
    ledger.touch()
    created_at = (settings.inboxes[0].path / "memo.wav").stat().st_ctime
    for changed_at, expected in ((created_at - 60, True), (created_at + 60, False)):
        os.utime(ledger, (changed_at, changed_at))
        assert has_new_files(settings) is expected

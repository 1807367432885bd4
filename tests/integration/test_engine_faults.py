"""The whole daemon over the real engine, which is short of memory, refused, stopped, or given a
damaged model.
"""

import random
import shutil
import sqlite3
import sys
from collections.abc import Iterable
from functools import partial
from importlib.resources import files
from pathlib import Path

import pytest

from speakeasyd import daemon
from speakeasyd.config import Settings
from speakeasyd.domain.device_health import RecoveryPolicy
from speakeasyd.engine.whisper.model_files import BUNDLED, choose_model
from speakeasyd.launch import drain
from speakeasyd.workers.child import ENGINE
from speakeasyd.workers.local_pool import LocalPool

pytestmark = pytest.mark.real
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such thing")

SAMPLES = Path(str(files("speakeasyd") / "data" / "samples"))
EXPECTED_WORDS = {
    "meeting": "Today we talk about",
    "voice_memo": "the dentist on Monday",
    "answering_machine": "after the tone",
}
FAULTY_ENGINE = "tests.integration.faulty_engine"
POLICY = RecoveryPolicy(restart_s=0.2, restart_max_s=0.2, probe_s=0.1)


class EngineDaemon:
    """An inbox with real speech, a daemon with the real engine, and its ledger."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root, self._patch = root, monkeypatch
        self.inbox = root / "inbox"
        self.inbox.mkdir()

    def drop_samples(self, *samples: str, folder: str = "") -> None:
        (self.inbox / folder).mkdir(exist_ok=True)
        for sample in samples:
            shutil.copy(SAMPLES / f"{sample}.flac", self.inbox / folder)

    def run_once(
        self,
        target: str = ENGINE,
        *,
        compute_type: str = "auto",
        models: Iterable[Path] = (),
        words: bool = False,
        stall_s: float = 120.0,
    ) -> int:
        """Run as `speakeasyd once`. Files in a folder named like a model use that model."""
        settings = Settings.model_validate(
            {
                "state": self._root / "state",
                "inboxes": [{"name": "in", "path": self.inbox, "outbox": self._root / "outbox"}],
                "options": {"model": BUNDLED, "word_timestamps": words},
                "presets": {model.name: {"model": str(model)} for model in models},
                "watch": {"settle_s": 0.1},
                "workers": {
                    "device": "cpu",
                    "compute_type": compute_type,
                    "replicas": 2,
                    "offline": True,
                },
            }
        )
        recovery = settings.recovery.model_copy(update={"stall_s": stall_s, "retry_s": 0.1})
        self._patch.setattr(daemon, "LocalPool", partial(LocalPool, target=target, policy=POLICY))
        return drain(settings.model_copy(update={"recovery": recovery})).exit_status

    def query_ledger(self, sql: str) -> list[sqlite3.Row]:
        connection = sqlite3.connect(self._root / "state" / "ledger.db")
        connection.row_factory = sqlite3.Row
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def assert_texts(self, *samples: str) -> None:
        texts = {
            Path(row["path"]).stem: row["text"]
            for row in self.query_ledger("SELECT path, text FROM transcript_text")
        }
        assert set(texts) == set(samples)
        assert all(EXPECTED_WORDS[sample] in text for sample, text in texts.items()), texts
        assert self.query_ledger("SELECT count(*) FROM chunks WHERE gap")[0][0] == 0

    def read_incidents(self) -> list[sqlite3.Row]:
        """Return the incidents, all of which must be resolved, with an action and a cost."""
        incidents = self.query_ledger("SELECT * FROM incidents ORDER BY incident_id")
        assert all(
            row["action"] and row["resolved_at"] and row["cost_seconds"] > 0 for row in incidents
        )
        return incidents


@pytest.fixture
def daemon_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EngineDaemon:
    return EngineDaemon(tmp_path, monkeypatch)


# --- memory, silence --------------------------------------------------------------------------------------------------


@posix_only
@pytest.mark.parametrize("when", ["loading", "work"])
def test_a_worker_without_memory_is_replaced_and_work_completed(
    daemon_run: EngineDaemon, when: str
) -> None:
    """For words, CTranslate2 loads the model; the packed network itself needs little memory."""
    daemon_run.drop_samples(*EXPECTED_WORDS)
    assert daemon_run.run_once(f"{FAULTY_ENGINE}:serve_short_of_memory_for_{when}", words=True) == 0
    daemon_run.assert_texts(*EXPECTED_WORDS)
    (incident,) = daemon_run.read_incidents()
    assert (incident["job_id"] is None) == (
        when == "loading"
    )  # nobody is suspect of a load that fails
    if (
        incident["kind"] != "context_lost"
    ):  # a library that does not look at what it was given crashes, now and then
        assert incident["kind"] == "host_memory"
        assert (incident["phase"] == "load") == (
            when == "loading"
        )  # in work, whoever asks next is refused
        assert "the machine's memory is full" in incident["error"]


@posix_only
def test_a_stopped_worker_is_noticed_and_replaced(daemon_run: EngineDaemon) -> None:
    daemon_run.drop_samples(*EXPECTED_WORDS)
    # on a CPU, three times as long: more than a busy machine needs for a chunk
    assert daemon_run.run_once(f"{FAULTY_ENGINE}:serve_and_stop_process", stall_s=6.0) == 0
    daemon_run.assert_texts(*EXPECTED_WORDS)
    assert {incident["kind"] for incident in daemon_run.read_incidents()} == {"hang"}


# --- defects ----------------------------------------------------------------------------------------------------------


def test_an_incompatible_library_is_reported_as_a_defect(
    daemon_run: EngineDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    daemon_run.drop_samples(*EXPECTED_WORDS)
    assert daemon_run.run_once(f"{FAULTY_ENGINE}:serve_with_incompatible_library") == 1, (
        "files are left"
    )
    assert "a defect of speakeasyd, or of its installation" in caplog.text
    assert "install speakeasyd again" in caplog.text
    incidents = daemon_run.query_ledger(
        "SELECT kind, phase, error, action FROM incidents ORDER BY incident_id"
    )
    assert len(incidents) == POLICY.faults_to_open, "a few fresh workers, and no more"
    assert {(row["kind"], row["phase"]) for row in incidents} == {("defect", "canary")}
    assert "no workers are started" in incidents[-1]["action"]
    assert not any("GPU" in row["error"] for row in incidents)
    assert "Traceback (most recent call last)" in caplog.text
    assert "open_without_options" in caplog.text
    assert {
        row["attempts"] for row in daemon_run.query_ledger("SELECT attempts FROM job_status")
    } == {0}, "no file is blamed"


# --- soft restarts ----------------------------------------------------------------------------------------------------


def test_a_refused_operation_reloads_the_model(daemon_run: EngineDaemon) -> None:
    daemon_run.drop_samples(*EXPECTED_WORDS)
    assert daemon_run.run_once(f"{FAULTY_ENGINE}:serve_with_refused_operation") == 0
    daemon_run.assert_texts(*EXPECTED_WORDS)
    (incident,) = daemon_run.read_incidents()
    assert (incident["kind"], incident["phase"]) == ("configuration", "generate")
    assert "reloads the model" in incident["action"]
    assert incident["job_id"] is not None
    assert {
        row["attempts"] for row in daemon_run.query_ledger("SELECT attempts FROM job_status")
    } == {1}


def test_an_unsupported_compute_type_is_replaced(daemon_run: EngineDaemon) -> None:
    daemon_run.drop_samples("voice_memo")
    assert daemon_run.run_once(compute_type="float16") == 0
    daemon_run.assert_texts("voice_memo")
    (incident,) = daemon_run.read_incidents()
    assert "float16" in incident["error"]
    assert incident["cost_seconds"] > 0


# --- damaged models ---------------------------------------------------------------------------------------------------


def cut_weights(model: Path) -> None:
    file = model / "model.bin"
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 9 // 10])


def flip_bytes(model: Path) -> None:
    """Flip a thousand bytes of the weights: the model loads, and its output is nonsense."""
    file, rng = model / "model.bin", random.Random(1)
    weights = bytearray(file.read_bytes())
    for _ in range(1000):
        weights[rng.randrange(len(weights) // 10, len(weights) * 9 // 10)] ^= 0xFF
    file.write_bytes(weights)


def delete_model(model: Path) -> None:
    shutil.rmtree(model)


def delete_tokenizer(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def break_config(model: Path) -> None:
    (model / "config.json").write_text("{")


DAMAGES = {
    cut_weights: "invalid payload size",
    flip_bytes: "the canary was transcribed as",
    delete_model: "no model '",
    delete_tokenizer: "lacks tokenizer.json",
    break_config: "config.json is damaged",
}


@pytest.mark.slow
def test_damaged_models_fail_only_their_own_files(daemon_run: EngineDaemon, tmp_path: Path) -> None:
    model_folder = choose_model(BUNDLED, device="cpu", models_dir=tmp_path, offline=True).folder
    models = [
        Path(shutil.copytree(model_folder, tmp_path / "models" / damage.__name__))
        for damage in DAMAGES
    ]
    for damage, model in zip(DAMAGES, models, strict=True):
        damage(model)
        daemon_run.drop_samples("voice_memo", "meeting", folder=model.name)
    daemon_run.drop_samples("answering_machine")
    assert daemon_run.run_once(models=models) == 1
    daemon_run.assert_texts("answering_machine")
    failures = daemon_run.query_ledger("SELECT path, error_code, error FROM failures")
    assert len(failures) == 2 * len(DAMAGES)
    for damage, message in DAMAGES.items():
        rows = [row for row in failures if Path(row["path"]).parent.name == damage.__name__]
        assert [row["error_code"] for row in rows] == ["model_unavailable"] * 2
        assert all(message in row["error"] for row in rows), [row["error"] for row in rows]
    assert len(daemon_run.query_ledger("SELECT * FROM incidents")) <= len(
        failures
    )  # and not a worker for every second

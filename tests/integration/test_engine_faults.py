"""The whole daemon over the real engine, which is short of memory, refused, stopped, or given a damaged model."""

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
SAID = {
    "meeting": "Today we talk about",
    "voice_memo": "the dentist on Monday",
    "answering_machine": "after the tone",
}
HURT = "tests.integration.hurt"
POLICY = RecoveryPolicy(restart_s=0.2, restart_max_s=0.2, probe_s=0.1)


class Place:
    """An inbox with real speech, and what the ledger says when the daemon has drained it."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root, self._patch = root, monkeypatch
        self.inbox = root / "inbox"
        self.inbox.mkdir()

    def drop(self, *samples: str, folder: str = "") -> None:
        (self.inbox / folder).mkdir(exist_ok=True)
        for sample in samples:
            shutil.copy(SAMPLES / f"{sample}.flac", self.inbox / folder)

    def drain(
        self,
        target: str = ENGINE,
        *,
        compute_type: str = "auto",
        models: Iterable[Path] = (),
        stall_s: float = 120.0,
    ) -> int:
        """As `speakeasyd once`. Files in a folder that is named like a model ask for it."""
        settings = Settings.model_validate(
            {
                "state": self._root / "state",
                "inboxes": [{"name": "in", "path": self.inbox, "outbox": self._root / "outbox"}],
                "options": {"model": BUNDLED},
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

    def rows(self, sql: str) -> list[sqlite3.Row]:
        connection = sqlite3.connect(self._root / "state" / "ledger.db")
        connection.row_factory = sqlite3.Row
        try:
            return connection.execute(sql).fetchall()
        finally:
            connection.close()

    def require_texts(self, *samples: str) -> None:
        texts = {
            Path(row["path"]).stem: row["text"]
            for row in self.rows("SELECT path, text FROM transcript_text")
        }
        assert set(texts) == set(samples)
        assert all(SAID[sample] in text for sample, text in texts.items()), texts
        assert self.rows("SELECT count(*) FROM chunks WHERE gap")[0][0] == 0

    def incidents(self) -> list[sqlite3.Row]:
        """All of them are over, and say what was done and what it cost."""
        incidents = self.rows("SELECT * FROM incidents ORDER BY incident_id")
        assert all(
            row["action"] and row["resolved_at"] and row["cost_seconds"] > 0 for row in incidents
        )
        return incidents


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


# --- memory, silence --------------------------------------------------------------------------------------------------


@posix_only
@pytest.mark.parametrize("when", ["load", "work"])
def test_a_worker_without_memory_is_replaced_and_all_is_done(place: Place, when: str) -> None:
    place.drop(*SAID)
    assert place.drain(f"{HURT}:short_of_memory_to_{when}") == 0
    place.require_texts(*SAID)
    (incident,) = place.incidents()
    assert (incident["job_id"] is None) == (
        when == "load"
    )  # nobody is suspect of a load that fails
    if (
        incident["kind"] != "context_lost"
    ):  # a library that does not look at what it was given crashes, now and then
        assert incident["kind"] == "host_memory"
        assert (incident["phase"] == "load") == (
            when == "load"
        )  # in work, whoever asks next is refused
        assert "the machine's memory is full" in incident["error"]


@posix_only
def test_a_stopped_worker_is_missed_and_replaced(place: Place) -> None:
    place.drop(*SAID)
    # on a CPU, three times as long: more than a busy machine needs for a chunk
    assert place.drain(f"{HURT}:stopped_at_work", stall_s=6.0) == 0
    place.require_texts(*SAID)
    assert {incident["kind"] for incident in place.incidents()} == {"hang"}


# --- defects ----------------------------------------------------------------------------------------------------------


def test_a_library_of_another_version_is_told_as_a_defect_and_ends_it(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.drop(*SAID)
    assert place.drain(f"{HURT}:of_another_version") == 1, "files are left"
    assert "a defect of speakeasyd, or of its installation" in caplog.text
    assert "install speakeasyd again" in caplog.text
    incidents = place.rows("SELECT kind, phase, error, action FROM incidents ORDER BY incident_id")
    assert len(incidents) == POLICY.faults_to_open, "a few fresh workers, and no more"
    assert {(row["kind"], row["phase"]) for row in incidents} == {("defect", "canary")}
    assert "no workers are started" in incidents[-1]["action"]
    assert not any("GPU" in row["error"] for row in incidents)
    assert "Traceback (most recent call last)" in caplog.text
    assert "open_without_options" in caplog.text
    assert {row["attempts"] for row in place.rows("SELECT attempts FROM job_status")} == {0}, (
        "no file is blamed"
    )


# --- soft restarts ----------------------------------------------------------------------------------------------------


def test_a_worker_that_is_refused_loads_again_by_itself_and_goes_on(place: Place) -> None:
    place.drop(*SAID)
    assert place.drain(f"{HURT}:refused_at_work") == 0
    place.require_texts(*SAID)
    (incident,) = place.incidents()
    assert (incident["kind"], incident["phase"]) == ("configuration", "generate")
    assert "reloads the model" in incident["action"]
    assert incident["job_id"] is not None
    assert {row["attempts"] for row in place.rows("SELECT attempts FROM job_status")} == {1}


def test_a_compute_type_that_the_device_has_not_is_replaced(place: Place) -> None:
    place.drop("voice_memo")
    assert place.drain(compute_type="float16") == 0
    place.require_texts("voice_memo")
    (incident,) = place.incidents()
    assert "float16" in incident["error"]
    assert incident["cost_seconds"] > 0


# --- damaged models ---------------------------------------------------------------------------------------------------


def cut(model: Path) -> None:
    file = model / "model.bin"
    file.write_bytes(file.read_bytes()[: file.stat().st_size * 9 // 10])


def flip(model: Path) -> None:
    """A thousand bytes of the weights: it loads, and talks nonsense."""
    file, dice = model / "model.bin", random.Random(1)
    weights = bytearray(file.read_bytes())
    for _ in range(1000):
        weights[dice.randrange(len(weights) // 10, len(weights) * 9 // 10)] ^= 0xFF
    file.write_bytes(weights)


def lose(model: Path) -> None:
    shutil.rmtree(model)


def lose_its_words(model: Path) -> None:
    (model / "tokenizer.json").unlink()


def garble_its_settings(model: Path) -> None:
    (model / "config.json").write_text("{")


DAMAGES = {
    cut: "invalid payload size",
    flip: "the canary was transcribed as",
    lose: "no model '",
    lose_its_words: "lacks tokenizer.json",
    garble_its_settings: "parse_error",
}


@pytest.mark.slow
def test_damaged_models_fail_their_own_files_alone(place: Place, tmp_path: Path) -> None:
    whole = choose_model(BUNDLED, device="cpu", models_dir=tmp_path, offline=True).folder
    models = [
        Path(shutil.copytree(whole, tmp_path / "models" / damage.__name__)) for damage in DAMAGES
    ]
    for damage, model in zip(DAMAGES, models, strict=True):
        damage(model)
        place.drop("voice_memo", "meeting", folder=model.name)
    place.drop("answering_machine")
    assert place.drain(models=models) == 1
    place.require_texts("answering_machine")
    failures = place.rows("SELECT path, error_code, error FROM failures")
    assert len(failures) == 2 * len(DAMAGES)
    for damage, told in DAMAGES.items():
        its_own = [row for row in failures if Path(row["path"]).parent.name == damage.__name__]
        assert [row["error_code"] for row in its_own] == ["model_unavailable"] * 2
        assert all(told in row["error"] for row in its_own), [row["error"] for row in its_own]
    assert len(place.rows("SELECT * FROM incidents")) <= len(
        failures
    )  # and not a worker for every second

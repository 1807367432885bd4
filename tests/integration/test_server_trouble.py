"""A served daemon whose folders change under it: it tells the truth, and gives nobody another's recording."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.served import Served, serving, until

pytestmark = pytest.mark.real


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    failed = tmp_path / "failed"
    with serving(tmp_path, INBOXES=f"[{{ failed = '{failed}' }}]") as served:
        yield served


def test_each_job_has_its_own_audio_wherever_that_was_put(served: Served) -> None:
    """Recorders call everything the same, and their files are often equally long."""
    contents = [b"RIFF one", b"RIFF two"]
    ids = []
    for content in contents:
        ids.append(served.upload(("rec.wav", content)).json()["files"][0]["job_id"])
        until(lambda: not list(served.inbox.glob("*.wav")), "the source to be put away")
    audio = [served.client.get(f"/api/v1/jobs/{job}/audio") for job in ids]
    assert [answered.content for answered in audio] == contents


def test_an_inbox_that_is_gone_is_no_secret(served: Served) -> None:
    assert served.client.get("/healthz").json()["checks"]["inbox inbox"] == "ok"
    shutil.rmtree(served.inbox)
    until(lambda: "gone" in served.client.get("/healthz").json()["checks"]["inbox inbox"], "the news")
    assert served.upload(("a.wav", b"RIFF")).status_code == 503
    assert served.post("/recorder/start").status_code == 503
    assert served.post("/recorder/start", json={"device": 10**20}).status_code == 422

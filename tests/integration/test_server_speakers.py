"""Speakers in the API: detection in a real conversation, correction, and recognition of people."""

import base64
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest

from tests.conftest import PATIENCE_S
from tests.integration.test_diarization import (
    READERS,
    create_conversation,
    load_readings,
    write_wav,
)
from tests.serving_daemon import ServingDaemon, run_daemon

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingDaemon]:
    with run_daemon(tmp_path_factory.mktemp("speakers")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def conversation(speech: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recording of two readers who take turns, two each."""
    sound, _ = create_conversation(speech, READERS[1:], 2)
    return write_wav(tmp_path_factory.mktemp("conversation") / "talk.wav", sound)


@pytest.fixture(scope="module")
def job(daemon: ServingDaemon, conversation: Path) -> Any:
    """Return the details of a job with speakers."""
    answered = daemon.upload(("talk.wav", conversation.read_bytes()), options='{"speakers": 2}')
    return daemon.wait_for_job(answered.json()["files"][0]["job_id"])


def wait_for_speaker_names(daemon: ServingDaemon, job: Any) -> list[str]:
    """Return the names of the speakers once the job is completed."""
    assert daemon.wait_for_job(job["job_id"])["status"] == "completed"
    return [one["name"] for one in daemon.get(f"/jobs/{job['job_id']}/speakers")["speakers"]]


def test_speakers_are_corrected(daemon: ServingDaemon, job: Any) -> None:
    path = f"/jobs/{job['job_id']}/speakers"
    first, second = daemon.get(path)["speakers"]
    assert first["seconds"] > 5
    assert first["share"] + second["share"] == pytest.approx(1)
    assert daemon.patch(path, names={"1": "Linda", "2": "Bo"})["speakers"] == ["Linda", "Bo"]
    assert wait_for_speaker_names(daemon, job) == ["Linda", "Bo"]
    text = daemon.client.get(f"/api/v1/jobs/{job['job_id']}/transcript?format=txt").text
    assert text.startswith("Linda: ")
    assert daemon.get("/search", q="printing", speaker="linda")["hits"][0]["speaker"] == "Linda"
    assert daemon.get("/search", q="printing", speaker="Bo")["hits"] == []
    daemon.patch(path, merge=[1, 2])
    assert wait_for_speaker_names(daemon, job) == ["Linda"]
    daemon.patch(path, split=1)
    assert wait_for_speaker_names(daemon, job) == ["Linda", "Speaker 2"]
    for wish in ({"split": 5}, {"names": {"9": "Eve"}}):
        refused = daemon.client.patch(f"/api/v1{path}", json=wish)
        assert refused.status_code == 409, refused.text
    assert daemon.client.patch(f"/api/v1{path}", json={"speak": 1}).status_code == 422
    assert daemon.client.patch("/api/v1/jobs/99/speakers", json={}).status_code == 404


def test_people_are_recognised_and_deleted(daemon: ServingDaemon, job: Any) -> None:
    wish = {"name": "Linda", "job_id": job["job_id"], "speaker": 1}
    assert daemon.post("/people", json=wish).status_code == 204
    [person] = daemon.get("/people")["people"]
    assert (person["name"], len(person["samples"])) == ("Linda", 1)
    assert set(person["samples"][0]) == {"source", "seconds", "model"}
    daemon.patch(f"/jobs/{job['job_id']}/speakers", count="auto", names={"1": ""})
    wait_for_speaker_names(daemon, job)
    daemon.patch(f"/jobs/{job['job_id']}/speakers", count="auto")
    assert wait_for_speaker_names(daemon, job) == ["Linda", "Speaker 2"]
    assert daemon.patch("/people/Linda", name="L. J.") == {"jobs": [job["job_id"]]}
    assert wait_for_speaker_names(daemon, job) == ["L. J.", "Speaker 2"]
    assert daemon.client.delete("/api/v1/people/L. J.").status_code == 204
    assert daemon.client.delete("/api/v1/people/L. J.").status_code == 409
    assert daemon.get("/people")["people"] == []


def test_a_person_is_remembered_from_a_recording(
    daemon: ServingDaemon, speech: Path, tmp_path: Path
) -> None:
    voice = np.concatenate(load_readings(speech, READERS[2], 4))
    recording = write_wav(tmp_path / "eve.wav", voice).read_bytes()

    def send(name: str, content: bytes) -> Any:
        return daemon.post(
            "/people/samples", data={"name": name}, files={"file": ("eve.wav", content)}
        )

    answered = send("Eve", recording)
    assert answered.status_code == 201, answered.text
    assert answered.json()["seconds"] > 5
    [person] = daemon.get("/people")["people"]
    assert [one["source"] for one in person["samples"]] == ["eve.wav"]
    assert daemon.client.delete("/api/v1/people/Eve").status_code == 204
    for name, content in (("Eve", b"no audio"), ("", recording)):
        refused = send(name, content)
        assert refused.status_code == 422, refused.text
        assert refused.json()["error"]["hint"]
    assert daemon.post("/people/samples", files={"name": (None, "Eve")}).status_code == 422
    assert daemon.get("/people")["people"] == []


def test_openais_client_gets_known_speakers(
    daemon: ServingDaemon, speech: Path, tmp_path: Path, conversation: Path
) -> None:
    voice = write_wav(tmp_path / "voice.wav", load_readings(speech, READERS[2], 4)[3])
    reference = f"data:audio/wav;base64,{base64.b64encode(voice.read_bytes()).decode()}"
    with openai.OpenAI(base_url=f"{daemon.address}/v1", api_key="unused", max_retries=0) as client:

        def send_request(**more: Any) -> Any:
            return client.audio.transcriptions.create(
                file=conversation,
                model="gpt-4o-transcribe-diarize",
                response_format="diarized_json",
                **more,
            )

        transcription = send_request(
            known_speaker_names=["agent"], known_speaker_references=[reference]
        )
        assert {segment.speaker for segment in transcription.segments} == {"A", "agent"}
        assert transcription.segments[0].speaker == "A"
        assert "printing" in transcription.text.lower()
        events = list(send_request(stream=True))
        segments = [event for event in events if event.type == "transcript.text.segment"]
        assert {segment.speaker for segment in segments} == {"A", "B"}
        assert events[-1].type == "transcript.text.done"
        for wrong in ({"known_speaker_names": ["a"]}, {"known_speaker_references": [reference]}):
            with pytest.raises(openai.BadRequestError, match="as many"):
                send_request(**wrong)
        nothing = "data:audio/wav;base64,AAAA"
        with pytest.raises(openai.BadRequestError, match="no sample of a voice"):
            send_request(known_speaker_names=["a"], known_speaker_references=[nothing])


def test_the_page_corrects_speakers(daemon: ServingDaemon, job: Any) -> None:
    """Play a voice, name it, see the name everywhere, and delete the person."""
    playwright = pytest.importorskip("playwright.sync_api")
    browser = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
    if browser is None:
        pytest.skip("the page is tested where a Chromium is installed")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    daemon.patch(f"/jobs/{job['job_id']}/speakers", count=2, names={"1": "", "2": ""})
    wait_for_speaker_names(daemon, job)
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = chromium.new_page()
        page.set_default_timeout(1000 * PATIENCE_S)
        page.goto(f"{daemon.address}/#/job/{job['job_id']}")
        speakers = page.get_by_role("region", name="Speakers")
        speakers.get_by_role("button", name="Speaker 2", exact=True).click()
        page.wait_for_function("document.querySelector('audio').currentTime > 1")
        page.locator(".transcript .who", has_text="Speaker 2").first.click()
        page.get_by_label("Name", exact=True).fill("Bo")
        page.get_by_label("Recognise this voice").check()
        for scheme, width in (("light", 320), ("dark", 1280)):
            page.emulate_media(color_scheme=scheme)
            page.set_viewport_size({"width": width, "height": 800})
            assert not (found := axe.run(page)).violations_count, found.generate_report()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_role("button", name="Save").click()
        page.locator(".transcript .who", has_text="Bo:").first.wait_for()
        speakers.get_by_role("button", name="Bo", exact=True).wait_for()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert not (found := axe.run(page)).violations_count, found.generate_report()
        page.get_by_role("link", name="People").click()
        page.get_by_label("Name of Bo").wait_for()
        assert not (found := axe.run(page)).violations_count, found.generate_report()
        page.get_by_role("button", name="Forget Bo").click()
        page.get_by_text("Nobody is known.").wait_for()
        page.goto(f"{daemon.address}/#/search?q=the&speaker=bo")
        page.locator(".hits .moment", has_text="Bo").first.wait_for()
        chromium.close()
    assert daemon.get("/people")["people"] == []

"""The API of a real daemon: reading, changing, and agreement with its schema."""

import io
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from prometheus_client.parser import text_string_to_metric_families

from speakeasyd.domain.formats import FORMATS
from tests.serving_daemon import VOICE_MEMO, ServingDaemon, run_daemon
from tests.unit.test_monitoring_files import list_asked_metrics

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingDaemon]:
    with run_daemon(tmp_path_factory.mktemp("api"), PRESETS__QUICK__ACCURACY="fast") as daemon:
        yield daemon


@pytest.fixture(scope="module")
def memo_job(daemon: ServingDaemon) -> Any:
    """The details of a completed job that was uploaded."""
    answered = daemon.upload(
        ("memo.flac", VOICE_MEMO.read_bytes()),
        batch="letters",
        preset="quick",
        options='{"priority": 3}',
    )
    assert answered.status_code == 201, answered.text
    return daemon.wait_for_job(answered.json()["files"][0]["job_id"])


def test_an_uploaded_file_becomes_a_transcript(daemon: ServingDaemon, memo_job: Any) -> None:
    assert (memo_job["status"], memo_job["batch"], memo_job["preset"], memo_job["priority"]) == (
        "completed",
        "letters",
        "quick",
        3,
    )
    assert [one["outcome"] for one in memo_job["attempts_made"]] == ["completed"]
    text = daemon.get(f"/jobs/{memo_job['job_id']}/transcript")
    assert "dentist" in text["text"]
    assert text["segments"][0]["start"] >= 0


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_can_be_downloaded(daemon: ServingDaemon, memo_job: Any, ending: str) -> None:
    assert ending in [one["name"] for one in daemon.get("/formats")["formats"]]
    file = daemon.client.get(
        f"/api/v1/jobs/{memo_job['job_id']}/transcript", params={"format": ending}
    )
    assert file.headers["content-disposition"] == f"attachment; filename*=UTF-8''memo.{ending}"
    if ending == "docx":
        assert file.content.startswith(b"PK")
    else:
        assert (b"dentist" in file.content) is FORMATS[ending].has_text


def test_a_failed_job_offers_no_artifacts(daemon: ServingDaemon) -> None:
    answered = daemon.upload(("noise.wav", b"no media at all"))
    failed = daemon.wait_for_job(answered.json()["files"][0]["job_id"])
    assert (failed["status"], failed["has_transcript"]) == ("failed", False)
    for ending in ("txt", "docx"):
        file = daemon.client.get(
            f"/api/v1/jobs/{failed['job_id']}/transcript", params={"format": ending}
        )
        assert file.status_code == 404, file.text
    assert daemon.get(f"/jobs/{failed['job_id']}/transcript")["segments"] == []


def test_a_cancelled_retry_keeps_the_transcript(daemon: ServingDaemon, memo_job: Any) -> None:
    text = daemon.get(f"/jobs/{memo_job['job_id']}/transcript")
    daemon.post("/pause")
    try:
        assert daemon.post(f"/jobs/{memo_job['job_id']}/retry").json()["status"] == "pending"
        assert daemon.get(f"/jobs/{memo_job['job_id']}/transcript") == text
        assert daemon.get("/search", q="yellow")["hits"]
        cancelled = daemon.post(f"/jobs/{memo_job['job_id']}/cancel").json()
    finally:
        daemon.post("/resume")
    assert (cancelled["status"], cancelled["finished_at"]) == ("completed", memo_job["finished_at"])
    assert daemon.get(f"/jobs/{memo_job['job_id']}/transcript") == text


def test_audio_is_served_in_requested_ranges(daemon: ServingDaemon, memo_job: Any) -> None:
    part = daemon.client.get(
        f"/api/v1/jobs/{memo_job['job_id']}/audio", headers={"Range": "bytes=4-7"}
    )
    assert (part.status_code, part.content) == (206, VOICE_MEMO.read_bytes()[4:8])


def test_search_finds_spoken_text(daemon: ServingDaemon, memo_job: Any) -> None:
    (hit,) = daemon.get("/search", q='"yellow book"', batch="letters")["hits"]
    assert (hit["job_id"], hit["created_at"]) == (memo_job["job_id"], memo_job["created_at"])
    assert daemon.get("/search", q="yell*", preset="quick")["hits"]
    assert daemon.get("/search", q="yellow", until="2020")["hits"] == []


def test_lists_are_paged_and_filtered(daemon: ServingDaemon) -> None:
    daemon.upload(
        *((f"{number}.wav", b"no media %d" % number) for number in range(5)), batch="pages"
    )
    first = daemon.get("/jobs", batch="pages", limit=3)
    second = daemon.get("/jobs", batch="pages", limit=3, before=first["next"])
    ids = [job["job_id"] for job in first["jobs"] + second["jobs"]]
    assert (len(ids), ids, second["next"]) == (5, sorted(ids, reverse=True), None)
    assert [job["path"] for job in daemon.get("/jobs", q="PAGES/3")["jobs"]] == ["pages/3.wav"]
    for job in ids:
        row = daemon.wait_for_job(job)
        assert (row["status"], row["error_code"]) == ("failed", "not_media")
        assert "Play the file in another program" in row["advice"]
    failed = daemon.get("/jobs", batch="pages", status="failed", sort="name", offset=3)
    assert [job["path"] for job in failed["jobs"]] == ["pages/3.wav", "pages/4.wav"]
    assert (failed["total"], failed["next"]) == (5, None)
    mixed = daemon.client.get("/api/v1/jobs", params={"sort": "name", "before": 3})
    assert mixed.status_code == 422


def test_many_jobs_are_changed_at_once(daemon: ServingDaemon) -> None:
    answered = daemon.upload(
        *((f"{number}.wav", b"no audio %d" % number) for number in range(3)), batch="many"
    ).json()
    ids = sorted(file["job_id"] for file in answered["files"])
    for job in ids:
        daemon.wait_for_job(job)
    daemon.post("/pause")
    try:
        some = daemon.post("/jobs/retry", json={"job_ids": [ids[0], 10**9]}).json()
        assert some == {"jobs": ids[:1]}
        rest = daemon.post("/jobs/retry", params={"batch": "many"}).json()
        assert rest == {"jobs": ids[1:]}
        cancelled = daemon.post("/jobs/cancel", params={"status": "pending", "q": "many/"}).json()
        assert cancelled == {"jobs": ids}
    finally:
        daemon.post("/resume")


def test_transcripts_are_downloaded_as_one_zip(daemon: ServingDaemon, memo_job: Any) -> None:
    memo = VOICE_MEMO.read_bytes()
    names = ("same.flac", "same.mp3", "..\\\\evil.flac")
    answered = daemon.upload(*((name, memo) for name in names), batch="zip").json()
    ids = [file["job_id"] for file in answered["files"]]
    for job in ids:
        daemon.wait_for_job(job)

    def list_names(**query: Any) -> list[str]:
        file = daemon.client.get("/api/v1/jobs/transcripts", params=query)
        assert file.headers["content-type"] == "application/zip"
        with zipfile.ZipFile(io.BytesIO(file.content)) as zipped:
            assert b"dentist" in zipped.read(zipped.namelist()[0])
            return zipped.namelist()

    all_names = ["zip/same.md", "zip/same.mp3.md", "zip/evil.md"]
    assert list_names(batch="zip", format="md") == all_names
    assert list_names(job_ids=f"{ids[1]},{10**9}") == ["zip/same.txt"]
    assert daemon.client.head("/api/v1/jobs/transcripts", params={"batch": "zip"}).content == b""
    nothing = daemon.client.get("/api/v1/jobs/transcripts", params={"batch": "no such"})
    assert nothing.status_code == 404


def test_jobs_are_changed(daemon: ServingDaemon, memo_job: Any) -> None:
    def change_job(how: str) -> tuple[int, Any]:
        answered = daemon.post(f"/jobs/{memo_job['job_id']}/{how}")
        return answered.status_code, answered.json().get("status")

    assert daemon.post("/pause", json={"reason": "quiet please"}).json()["pauses"] == {
        "person": "quiet please"
    }
    assert daemon.client.get("/readyz").status_code == 503
    assert change_job("cancel")[0] == 409  # it has ended
    assert change_job("retry") == (200, "pending")
    assert change_job("retry")[0] == 409  # it is already pending
    assert change_job("cancel") == (200, "completed")  # as it was before the retry
    assert change_job("retry") == (200, "pending")
    assert daemon.post("/resume").json()["pauses"] == {}
    assert daemon.wait_for_job(memo_job["job_id"])["status"] == "completed"


def test_system_information_is_returned(daemon: ServingDaemon, memo_job: Any) -> None:
    status = daemon.get("/status")
    assert status["counts"]["completed"] >= 1
    assert status["presets"] == ["quick"]
    assert sum(hour["completed"] for hour in daemon.get("/throughput")["hours"]) >= 1
    assert daemon.client.get("/healthz").json()["checks"]["ledger"] == "ok"
    families = {
        one.name: one for one in text_string_to_metric_families(daemon.client.get("/metrics").text)
    }
    done = [
        one.value
        for one in families["speakeasyd_jobs"].samples
        if one.labels == {"status": "completed"}
    ]
    assert done == [float(daemon.get("/status")["counts"]["completed"])]


def test_dashboard_and_alerts_ask_for_what_a_scrape_has(daemon: ServingDaemon) -> None:
    scraped = daemon.client.get("/metrics").text
    types = set(re.findall(r"^# TYPE (\w+) ", scraped, re.MULTILINE))
    assert list_asked_metrics() <= types


def test_responses_follow_the_schema(daemon: ServingDaemon, memo_job: Any) -> None:
    """No response is a server error, and each follows the schema."""
    schema = schemathesis.openapi.from_url(f"{daemon.address}/api/v1/openapi.json")
    asked = schema.exclude(
        path_regex="/recorder|/v1/audio|/batches|/samples|/session|/events"
    )  # these change state, wait, or are not plain HTTP
    operations = [operation.ok() for operation in asked.get_all_operations()]
    assert len(operations) > 10
    for operation in operations:

        @settings(
            max_examples=12,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def send_case(case: Any) -> None:
            case.call_and_validate()

        send_case()

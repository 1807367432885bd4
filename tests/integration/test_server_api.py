"""The API of a real daemon: what can be asked, what can be steered, and that its schema tells the truth."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from prometheus_client.parser import text_string_to_metric_families

from speakeasyd.domain.formats import FORMATS
from tests.served import MEMO, Served, serving
from tests.unit.test_monitoring_files import list_asked_metrics

pytestmark = [pytest.mark.real, pytest.mark.slow]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serving(tmp_path_factory.mktemp("api"), PRESETS__QUICK__ACCURACY="fast") as served:
        yield served


@pytest.fixture(scope="module")
def memo(served: Served) -> Any:
    """The details of a job that was uploaded and has ended."""
    answered = served.upload(
        ("memo.flac", MEMO.read_bytes()), batch="letters", preset="quick", options='{"priority": 3}'
    )
    assert answered.status_code == 201, answered.text
    return served.ended(answered.json()["files"][0]["job_id"])


def test_a_job_from_the_upload_to_the_words(served: Served, memo: Any) -> None:
    assert (memo["status"], memo["batch"], memo["preset"], memo["priority"]) == (
        "completed",
        "letters",
        "quick",
        3,
    )
    assert [one["outcome"] for one in memo["attempts_made"]] == ["completed"]
    text = served.get(f"/jobs/{memo['job_id']}/transcript")
    assert "dentist" in text["text"]
    assert text["segments"][0]["start"] >= 0


@pytest.mark.parametrize("ending", FORMATS)
def test_every_format_can_be_downloaded(served: Served, memo: Any, ending: str) -> None:
    assert ending in [one["name"] for one in served.get("/formats")["formats"]]
    file = served.client.get(f"/api/v1/jobs/{memo['job_id']}/transcript", params={"format": ending})
    assert file.headers["content-disposition"] == f"attachment; filename*=UTF-8''memo.{ending}"
    if ending == "docx":
        assert file.content.startswith(b"PK")
    else:
        assert (b"dentist" in file.content) is FORMATS[ending].has_text


def test_of_a_failed_job_no_empty_file_is_offered(served: Served) -> None:
    answered = served.upload(("noise.wav", b"no media at all"))
    failed = served.ended(answered.json()["files"][0]["job_id"])
    assert (failed["status"], failed["has_transcript"]) == ("failed", False)
    for ending in ("txt", "docx"):
        file = served.client.get(
            f"/api/v1/jobs/{failed['job_id']}/transcript", params={"format": ending}
        )
        assert file.status_code == 404, file.text
    assert served.get(f"/jobs/{failed['job_id']}/transcript")["segments"] == []


def test_a_retry_that_is_cancelled_leaves_the_transcript(served: Served, memo: Any) -> None:
    text = served.get(f"/jobs/{memo['job_id']}/transcript")
    served.post("/pause")
    try:
        assert served.post(f"/jobs/{memo['job_id']}/retry").json()["status"] == "pending"
        assert served.get(f"/jobs/{memo['job_id']}/transcript") == text
        assert served.get("/search", q="yellow")["hits"]
        cancelled = served.post(f"/jobs/{memo['job_id']}/cancel").json()
    finally:
        served.post("/resume")
    assert (cancelled["status"], cancelled["finished_at"]) == ("completed", memo["finished_at"])
    assert served.get(f"/jobs/{memo['job_id']}/transcript") == text


def test_audio_comes_in_the_parts_that_a_player_asks_for(served: Served, memo: Any) -> None:
    part = served.client.get(f"/api/v1/jobs/{memo['job_id']}/audio", headers={"Range": "bytes=4-7"})
    assert (part.status_code, part.content) == (206, MEMO.read_bytes()[4:8])


def test_what_was_said_is_found(served: Served, memo: Any) -> None:
    (hit,) = served.get("/search", q='"yellow book"', batch="letters")["hits"]
    assert (hit["job_id"], hit["created_at"]) == (memo["job_id"], memo["created_at"])
    assert served.get("/search", q="yell*", preset="quick")["hits"]
    assert served.get("/search", q="yellow", until="2020")["hits"] == []


def test_lists_are_paged_and_filtered(served: Served) -> None:
    served.upload(
        *((f"{number}.wav", b"no media %d" % number) for number in range(5)), batch="pages"
    )
    first = served.get("/jobs", batch="pages", limit=3)
    second = served.get("/jobs", batch="pages", limit=3, before=first["next"])
    ids = [job["job_id"] for job in first["jobs"] + second["jobs"]]
    assert (len(ids), ids, second["next"]) == (5, sorted(ids, reverse=True), None)
    assert [job["path"] for job in served.get("/jobs", q="PAGES/3")["jobs"]] == ["pages/3.wav"]
    for job in ids:
        row = served.ended(job)
        assert (row["status"], row["error_code"]) == ("failed", "not_media")
        assert "Play the file in another program" in row["advice"]
    assert len(served.get("/jobs", batch="pages", status="failed")["jobs"]) == 5


def test_many_jobs_are_steered_at_once(served: Served) -> None:
    answered = served.upload(
        *((f"{number}.wav", b"no audio %d" % number) for number in range(3)), batch="many"
    ).json()
    ids = sorted(file["job_id"] for file in answered["files"])
    for job in ids:
        served.ended(job)
    served.post("/pause")
    try:
        some = served.post("/jobs/retry", json={"job_ids": [ids[0], 10**9]}).json()
        assert some == {"jobs": ids[:1]}
        rest = served.post("/jobs/retry", params={"batch": "many"}).json()
        assert rest == {"jobs": ids[1:]}
        cancelled = served.post("/jobs/cancel", params={"status": "pending", "q": "many/"}).json()
        assert cancelled == {"jobs": ids}
    finally:
        served.post("/resume")


def test_jobs_are_steered(served: Served, memo: Any) -> None:
    def steer(how: str) -> tuple[int, Any]:
        answered = served.post(f"/jobs/{memo['job_id']}/{how}")
        return answered.status_code, answered.json().get("status")

    assert served.post("/pause", json={"reason": "quiet please"}).json()["pauses"] == {
        "person": "quiet please"
    }
    assert served.client.get("/readyz").status_code == 503
    assert steer("cancel")[0] == 409  # it has ended
    assert steer("retry") == (200, "pending")
    assert steer("retry")[0] == 409  # it waits already
    assert steer("cancel") == (200, "completed")  # as it was before the retry
    assert steer("retry") == (200, "pending")
    assert served.post("/resume").json()["pauses"] == {}
    assert served.ended(memo["job_id"])["status"] == "completed"


def test_the_machine_is_told_of(served: Served, memo: Any) -> None:
    told = served.get("/status")
    assert told["counts"]["completed"] >= 1
    assert told["presets"] == ["quick"]
    assert sum(hour["completed"] for hour in served.get("/throughput")["hours"]) >= 1
    assert served.client.get("/healthz").json()["checks"]["ledger"] == "ok"
    families = {
        one.name: one for one in text_string_to_metric_families(served.client.get("/metrics").text)
    }
    done = [
        one.value
        for one in families["speakeasyd_jobs"].samples
        if one.labels == {"status": "completed"}
    ]
    assert done == [float(served.get("/status")["counts"]["completed"])]


def test_dashboard_and_alerts_ask_for_what_a_scrape_has(served: Served) -> None:
    scraped = served.client.get("/metrics").text
    types = set(re.findall(r"^# TYPE (\w+) ", scraped, re.MULTILINE))
    assert list_asked_metrics() <= types


def test_the_schema_tells_the_truth(served: Served, memo: Any) -> None:
    """Whatever is asked, no answer is an error of the server, and each is as the schema says."""
    schema = schemathesis.openapi.from_url(f"{served.address}/api/v1/openapi.json")
    asked = schema.exclude(
        path_regex="/recorder|/v1/audio|/batches|/session|/events"
    )  # these have effects, or wait, or are no plain HTTP
    operations = [operation.ok() for operation in asked.get_all_operations()]
    assert len(operations) > 10
    for operation in operations:

        @settings(
            max_examples=12,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: Any) -> None:
            case.call_and_validate()

        ask()

"""The page in a real browser, with a real daemon."""

import shutil
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import PATIENCE_S, poll_until
from tests.serving_daemon import VOICE_MEMO, run_daemon

playwright = pytest.importorskip(
    "playwright.sync_api", reason="the page is tested where playwright is installed"
)
BROWSER = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="the page is tested where a Chromium is installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # by playwright's own processes
]


ENTRY = "a secret of tests, long enough"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a daemon without jobs."""
    with run_daemon(tmp_path_factory.mktemp("page")) as daemon:
        yield daemon.address


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        one = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """Open a tab on the queue. An error on its console fails the test."""
    tab = browser.new_page()
    errors: list[str] = []
    tab.on("pageerror", lambda error: errors.append(str(error)))
    tab.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    tab.set_default_timeout(1000 * PATIENCE_S)
    tab.goto(address)
    yield tab
    tab.close()
    assert not errors


@pytest.fixture
def transcribed(page: Any, address: str) -> Any:
    """Open the page of a job that was uploaded by the page."""
    if not page.get_by_role("link", name="voice_memo.flac").count():
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Choose files").click()
        chooser.value.set_files([str(VOICE_MEMO)])
    page.locator(".jobs a", has_text="voice_memo.flac").filter(has_text="completed").first.click()
    page.get_by_text("dentist").first.wait_for()
    return page


def _wait_for_position(page: Any, at: float) -> None:
    """Wait until the player is at this position, or a little later."""
    deadline = time.monotonic() + PATIENCE_S
    while (
        not at - 1 <= page.evaluate("document.querySelector('audio')?.currentTime ?? -1") <= at + 5
    ):
        assert time.monotonic() < deadline, f"the sound did not go to {at}"
        page.wait_for_timeout(50)


def test_an_uploaded_file_shows_text_and_audio(transcribed: Any) -> None:
    word = transcribed.locator(".transcript [data-at]", has_text="dentist").first
    word.click()
    _wait_for_position(transcribed, float(word.get_attribute("data-at")))
    transcribed.locator(".transcript .lit").wait_for()
    with transcribed.expect_download() as download:
        transcribed.get_by_role("link", name="srt", exact=True).click()
    assert "dentist" in Path(download.value.path()).read_text("utf-8")


def test_keys_control_playback_and_copy_text(transcribed: Any) -> None:
    transcribed.locator("h1").focus()
    transcribed.keyboard.press("ArrowRight")
    _wait_for_position(transcribed, 5.0)
    transcribed.keyboard.press(" ")
    transcribed.wait_for_function("!document.querySelector('audio').paused")
    transcribed.keyboard.press(" ")
    transcribed.wait_for_function("document.querySelector('audio').paused")
    transcribed.get_by_label("Speed").select_option("1.5")
    assert transcribed.evaluate("document.querySelector('audio').playbackRate") == 1.5
    transcribed.context.grant_permissions(["clipboard-read", "clipboard-write"])
    transcribed.get_by_role("button", name="Copy text").click()
    transcribed.locator("#news", has_text="Copied").wait_for(state="attached")
    copied = transcribed.evaluate("navigator.clipboard.readText()")
    assert "dentist" in copied
    assert ":" not in copied, "no times"
    transcribed.get_by_role("button", name="Copy the path").first.click()
    transcribed.locator("#news", has_text="voice_memo").wait_for(state="attached")
    assert Path(transcribed.evaluate("navigator.clipboard.readText()")).is_file()


def test_words_without_times_have_estimated_ones(page: Any, address: str) -> None:
    with VOICE_MEMO.open("rb") as file:
        form = {"options": '{"word_timestamps": false}', "batch": "estimated"}
        answered = httpx.post(f"{address}/api/v1/batches", data=form, files={"files": file})
    job = answered.json()["files"][0]["job_id"]
    page.goto(f"{address}/#/job/{job}")
    page.get_by_text("The times of words are estimated").wait_for()
    words = page.locator(".transcript p").first.locator(".words > span")
    times = [float(one.get_attribute("data-at")) for one in words.all()]
    assert len(times) > 1
    assert times == sorted(set(times))


def test_a_search_result_leads_to_its_position(transcribed: Any) -> None:
    transcribed.get_by_role("link", name="Search").click()
    transcribed.get_by_label("Words").fill("yellow book")
    transcribed.get_by_role("button", name="Search").click()
    transcribed.locator(".files h2", has_text="voice_memo.flac").first.wait_for()
    transcribed.locator(".hits mark", has_text="yellow").first.click()
    _wait_for_position(transcribed, 8.0)
    hits = transcribed.get_by_role("group", name="“yellow book”")
    hits.get_by_role("button", name="Next hit").click()
    hits.get_by_text("1 of 1").wait_for()
    found = transcribed.locator(".transcript .found").all_inner_texts()
    assert [word.strip(".,").lower() for word in found] == ["yellow", "book"]
    assert transcribed.evaluate("document.activeElement.matches('.hit')")


def test_further_hits_are_shown(page: Any, address: str, copies: list[str]) -> None:
    def ask_for_one(route: Any) -> None:
        route.continue_(url=route.request.url.replace("limit=100", "limit=1"))

    page.route("**/api/v1/search?*", ask_for_one)
    page.goto(f"{address}/#/search?q=yellow&batch=copies")
    page.locator("main", has_text="1 match in 1 file so far").wait_for()
    page.get_by_role("button", name="Show more").click()
    page.locator("main", has_text="2 matches in 2 files so far").wait_for()
    assert page.locator(".hits a").nth(1).evaluate("hit => hit === document.activeElement")
    page.unroute("**/api/v1/search?*")


def test_unsure_words_are_visited_in_turn(transcribed: Any) -> None:
    said = [("so", 0.9), (" it", 0.1), (" goes", 0.2)]
    words = [
        {"start": n, "end": n + 0.5, "text": text, "probability": probability}
        for n, (text, probability) in enumerate(said)
    ]
    line = {"start": 0, "end": 3, "text": "so it goes", "channel": None, "words": words}
    told = {"language": "en", "segments": [line], "gaps": []}
    transcribed.route("**/transcript", lambda route: route.fulfill(json=told))
    transcribed.evaluate("location.hash += '?t=0'")
    unsure = transcribed.get_by_role("group", name="Unsure words")
    for button, number, word in (("Next", 1, "it"), ("Next", 2, "goes"), ("Previous", 1, "it")):
        unsure.get_by_role("button", name=f"{button} unsure word").click()
        unsure.get_by_text(f"{number} of 2").wait_for()
        assert transcribed.locator(".transcript :focus").inner_text() == word


def test_options_of_an_upload_are_shown_and_applied(page: Any, tmp_path: Path) -> None:
    page.get_by_text("Options", exact=True).click()
    page.get_by_role("textbox", name="Batch").fill("chosen")
    page.get_by_label("Language").fill("en")
    page.get_by_label("Model").select_option("bundled")
    page.locator("summary", has_text="Options: batch chosen, language en, model bundled").click()
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose files").click()
    file = shutil.copy(VOICE_MEMO, tmp_path / "with_options.flac")
    chooser.value.set_files([str(file)])
    page.locator("#uploads").get_by_role("link", name="Open job").click()
    page.get_by_text("batch chosen").wait_for()


def test_jobs_and_the_queue_can_be_changed(transcribed: Any) -> None:
    transcribed.get_by_role("button", name="Pause").click()
    transcribed.get_by_role("button", name="Resume").wait_for()
    transcribed.get_by_role("button", name="Transcribe again").click()
    transcribed.get_by_role("button", name="Keep as it is").click()  # it costs time: it is asked
    transcribed.get_by_role("button", name="Transcribe again").click()
    transcribed.get_by_role("dialog").get_by_role("button", name="Transcribe again").click()
    transcribed.locator(".job-head .status", has_text="pending").wait_for()
    transcribed.get_by_role("button", name="Cancel").click()
    # A cancelled retry restores the completed job.
    transcribed.locator(".job-head .status", has_text="completed").wait_for()
    transcribed.get_by_role("button", name="Transcribe again").click()
    transcribed.get_by_role("dialog").get_by_role("button", name="Transcribe again").click()
    transcribed.locator(".job-head .status", has_text="pending").wait_for()
    transcribed.get_by_role("button", name="Resume").click()
    transcribed.locator(".job-head .status", has_text="completed").wait_for()


def test_a_job_in_progress_has_percent_and_time_left(page: Any) -> None:
    job = {"job_id": 10**6, "path": "long.wav", "progress": 0.5, "left_s": 200.0}
    row = {"device": "cpu", "model": None, "language": None, "started_at": "2026-01-01T00:00Z"}

    def answer(route: Any) -> None:
        route.fulfill(json=route.fetch().json() | {"in_work": [job | row]})

    page.route("**/api/v1/status", answer)
    page.get_by_role("button", name="Pause").click()
    shown = page.locator(".at-work li", has_text="long.wav")
    shown.get_by_text("3 min left").wait_for()
    shown.get_by_text("50 %").wait_for()
    job["left_s"] = None  # as while work is paused
    page.get_by_role("button", name="Resume").click()
    shown.get_by_text("3 min left").wait_for(state="detached")
    page.unroute("**/api/v1/status")


def test_nothing_can_be_selected_before_the_list_is_there(browser: Any, address: str) -> None:
    tab = browser.new_page()
    tab.route("**/api/v1/jobs?*", lambda _route: None)  # never answered
    with tab.expect_request("**/api/v1/jobs?*"):
        tab.goto(address)
    selecting = tab.get_by_label("Select this page")
    assert selecting.count() == 1
    assert not selecting.is_visible()
    tab.close()


def test_the_address_filters_the_queue(transcribed: Any, address: str) -> None:
    transcribed.goto(f"{address}/#/jobs?status=failed")
    transcribed.get_by_text("No matches.").wait_for()
    transcribed.go_back()
    transcribed.get_by_text("dentist").first.wait_for()


def test_a_wrong_address_is_explained(browser: Any, address: str) -> None:
    tab = browser.new_page()
    tab.goto(f"{address}/#/jobs?sort=loudness")
    tab.locator("#problem", has_text="sort").wait_for()
    tab.close()


def test_a_refused_file_does_not_block_others(browser: Any, address: str, tmp_path: Path) -> None:
    notes = tmp_path / "notes.pdf"
    notes.write_bytes(b"%PDF")
    tab = browser.new_page()
    tab.goto(address)
    with tab.expect_file_chooser() as chooser:
        tab.get_by_role("button", name="Choose files").click()
    chooser.value.set_files([str(notes), str(shutil.copy(VOICE_MEMO, tmp_path / "second.flac"))])
    refusal = tab.locator("#uploads li", has_text="notes.pdf")
    refusal.get_by_text("files with the ending .pdf are not transcribed").wait_for()
    tab.locator("#uploads").get_by_role("link", name="Open job").click()
    tab.get_by_role("heading", name="second.flac").wait_for()
    tab.close()


def test_failed_jobs_are_counted_and_retried_together(page: Any, tmp_path: Path) -> None:
    broken = tmp_path / "broken.wav"
    broken.write_bytes(b"not audio")
    with page.expect_file_chooser() as chooser:
        page.get_by_role("button", name="Choose files").click()
    chooser.value.set_files([str(broken)])
    page.locator(".summary").get_by_role("link", name="1 failed").click()
    job = page.locator(".jobs a", has_text="broken.wav")
    job.filter(has_text="failed").wait_for()
    job.focus()
    shown = job.locator(".error").evaluate("error => getComputedStyle(error).whiteSpace")
    assert shown == "normal", "the whole error is readable without a mouse"
    page.get_by_label("Select broken.wav").check()
    page.get_by_role("button", name="Retry").click()
    page.locator(".selection", has_text="1 file in the queue again").wait_for()


@pytest.fixture(scope="module")
def copies(address: str) -> list[str]:
    """The names of completed jobs of a batch `copies`; their transcripts are copied."""
    names = [f"{name}.flac" for name in ("delta", "alpha", "charlie", "bravo")]
    files = [("files", (name, VOICE_MEMO.read_bytes())) for name in names]
    jobs = httpx.post(f"{address}/api/v1/batches", data={"batch": "copies"}, files=files).json()

    def are_done() -> bool:
        rows = httpx.get(f"{address}/api/v1/jobs", params={"batch": "copies"}).json()
        return all(row["status"] == "completed" for row in rows["jobs"])

    assert jobs["batch"] == "copies"
    poll_until(are_done, "the copies")
    return names


def test_selected_files_are_downloaded_together(page: Any, address: str, copies: list[str]) -> None:
    page.goto(f"{address}/#/jobs?batch=copies&sort=name")
    page.get_by_label("Select copies/alpha.flac").click()
    page.get_by_label("Select copies/charlie.flac").click(modifiers=["Shift"])
    page.get_by_label("Select copies/charlie.flac").focus()
    page.keyboard.press("Space")  # leaves it out
    page.locator(".selection b", has_text="2 selected").wait_for()
    page.get_by_label("Format of the transcripts").select_option("srt")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "transcripts.zip"
    names = zipfile.ZipFile(download.value.path()).namelist()
    assert names == ["copies/alpha.srt", "copies/bravo.srt"]
    page.get_by_role("button", name="Retry").click()
    page.get_by_role("heading", name="Transcribe 2 finished files again?").wait_for()
    page.get_by_role("button", name="Keep as it is").click()
    page.get_by_role("button", name="Clear selection").click()
    page.locator(".selection").wait_for(state="hidden")


def test_the_order_is_kept_in_the_address(page: Any, address: str, copies: list[str]) -> None:
    page.goto(f"{address}/#/jobs?batch=copies")
    page.get_by_label("Sort by").select_option("-name")
    shown = page.locator("[aria-label=Jobs] .path")
    shown.filter(has_text="delta").wait_for()
    expected = [f"copies/{name}" for name in sorted(copies, reverse=True)]
    page.wait_for_function(
        "names => `${[...document.querySelectorAll('[aria-label=Jobs] .path')]"
        ".map(one => one.textContent)}` === `${names}`",
        arg=expected,
    )
    page.reload()
    shown.first.wait_for()
    assert shown.all_inner_texts() == expected
    page.go_back()
    page.locator("[aria-label=Jobs] li:first-child", has_text="bravo").wait_for()  # the newest
    assert page.get_by_label("Sort by").input_value() == "-date"


def test_an_unfit_recording_of_a_person_is_refused(
    browser: Any, address: str, tmp_path: Path
) -> None:
    page = browser.new_page()
    page.set_default_timeout(1000 * PATIENCE_S)
    page.goto(address)
    page.get_by_role("link", name="People").click()
    page.get_by_label("Name", exact=True).fill("Anna")
    (tmp_path / "anna.wav").write_bytes(b"no audio")
    page.get_by_label("Recording of this person").set_input_files(str(tmp_path / "anna.wav"))
    with page.expect_response("**/people/samples") as answer:
        page.get_by_role("button", name="Remember this voice").click()
    assert answer.value.status == 422
    page.locator(".enrolment .problem", has_text="anna.wav is no sample of a voice").wait_for()
    page.get_by_text("A sample is a clear recording of one person").wait_for()
    page.close()


def test_an_unknown_job_shows_a_message(browser: Any, address: str) -> None:
    tab = browser.new_page()
    tab.set_default_timeout(1000 * PATIENCE_S)
    tab.goto(f"{address}/#/job/999999")
    tab.get_by_text("There is no job 999999.").wait_for()
    tab.get_by_role("link", name="← Queue").click()
    tab.get_by_role("heading", name="Queue").wait_for()
    tab.close()


def test_arrow_keys_move_through_the_text(transcribed: Any) -> None:
    transcribed.locator(".transcript button").first.focus()
    transcribed.keyboard.press("ArrowDown")
    transcribed.keyboard.press("ArrowRight")
    transcribed.keyboard.press("ArrowRight")
    word = transcribed.locator(".transcript :focus")
    assert (
        word.inner_text()
        == transcribed.locator(".transcript p").nth(1).locator(".words > span").nth(1).inner_text()
    )
    at = float(word.get_attribute("data-at"))
    transcribed.keyboard.press("Enter")
    _wait_for_position(transcribed, at)


def test_back_restores_the_position(transcribed: Any) -> None:
    opened = transcribed.evaluate("location.hash")
    assert transcribed.evaluate("document.activeElement.tagName") == "H1"
    transcribed.go_back()
    transcribed.locator(f".jobs a[href='{opened}']:focus").wait_for()


def test_ten_hours_of_text_stay_responsive(transcribed: Any) -> None:
    def line(number: int) -> dict[str, Any]:
        words = [
            {
                "start": 3.6 * number + 0.36 * n,
                "end": 3.6 * number + 0.36 * n + 0.3,
                "text": " so",
                "probability": 0.9,
            }
            for n in range(10)
        ]
        return {
            "start": 3.6 * number,
            "end": 3.6 * (number + 1),
            "text": " so" * 10,
            "channel": None,
            "words": words,
        }

    transcript = {
        "language": "en",
        "segments": [line(number) for number in range(10_000)],
        "gaps": [],
    }
    transcribed.route("**/transcript", lambda route: route.fulfill(json=transcript))
    transcribed.evaluate("""() => {
        window.longest = window.together = 0;
        const note = (list) => {
            for (const { duration } of list.getEntries()) {
                longest = Math.max(longest, duration);
                together += duration;
            }
        };
        new PerformanceObserver(note).observe({ type: "longtask" });
    }""")
    transcribed.evaluate("location.hash += '?t=10'")
    transcribed.locator(".transcript p").nth(9_999).wait_for(state="attached")
    transcribed.locator(".transcript p").nth(2).locator(".lit").wait_for()
    longest, together = transcribed.evaluate("[longest, together]")  # milliseconds
    transcribed.evaluate("scrollTo(0, document.body.scrollHeight)")
    # By class: looking up a role in 100,000 elements takes minutes
    back = transcribed.locator(".return", has_text="Back to the spoken word")
    back.click()
    back.wait_for(state="hidden")
    assert longest < 1000 or longest < together / 2, (
        "a slow machine has longer tasks, and more of them"
    )


def test_the_page_asks_for_the_token_and_reconnects_after_a_restart(
    browser: Any, tmp_path: Path
) -> None:
    tab = browser.new_page()
    tab.set_default_timeout(1000 * PATIENCE_S)
    with run_daemon(tmp_path, SERVER__TOKEN=ENTRY) as daemon:
        tab.goto(daemon.address)
        secret = tab.get_by_label("Token", exact=True)
        secret.fill("guessed")
        secret.press("Enter")
        tab.get_by_text("Wrong token.").wait_for()
        secret.fill(ENTRY)
        secret.press("Enter")
        tab.locator("aside li").first.wait_for()
        daemon.stop()
        lost = tab.get_by_text("The connection to the daemon is lost")
        lost.wait_for()
        tab.get_by_role("link", name="Search").click()
        tab.get_by_role("link", name="Queue", exact=True).click()  # opened without a connection
        daemon.start()
        lost.wait_for(state="hidden")
        tab.get_by_text("No jobs yet.").wait_for()
    tab.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 320), ("dark", 1280)])
def test_the_page_is_accessible(browser: Any, address: str, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    tab = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    for view in ("#/jobs", "#/job/1?q=the", "#/search?q=the&since=2020", "#/people"):
        tab.goto(f"{address}/{view}")
        tab.locator("main h1").first.wait_for(state="attached")
        tab.locator("aside li").first.wait_for()
        if (whole := tab.get_by_label("Select this page")).count():
            whole.check()
        found = axe.Axe().run(tab)
        assert found.violations_count == 0, found.generate_report()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()

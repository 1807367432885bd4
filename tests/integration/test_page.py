"""The page, in a real browser, on a real daemon."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import REPOSITORY

playwright = pytest.importorskip("playwright.sync_api", reason="the page is tested where playwright is installed")
BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="the page is tested where a Chromium is installed"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # of playwright's own processes
]
MEMO = REPOSITORY / "speakeasyd" / "data" / "samples" / "voice_memo.flac"
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of a daemon with words, which has done nothing yet."""
    root = tmp_path_factory.mktemp("page")
    (root / "inbox").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    told = {"SPEAKEASYD_SERVER__PORT": str(port), "SPEAKEASYD_SERVER__ENABLED": "true", "HOME": str(root)}
    told |= {"SPEAKEASYD_OPTIONS__WORD_TIMESTAMPS": "true", "SPEAKEASYD_OPTIONS__MODEL": "bundled"}
    places = ["--inbox", root / "inbox", "--outbox", root / "outbox", "--state", root / "state"]
    log = (root / "log").open("wb")
    daemon = subprocess.Popen(
        [sys.executable, "-m", "speakeasyd", "run", *map(str, places)], env=os.environ | told, stderr=log
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/readyz")
        yield f"http://127.0.0.1:{port}"
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
        log.close()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            if httpx.get(url).is_success:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, f"{url} did not answer"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        one = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """A fresh tab on the queue; an error on its console fails the test."""
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
    """The page of a job that was handed in by the page."""
    if not page.get_by_role("link", name="voice_memo.flac").count():
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Choose files").click()
        chooser.value.set_files([str(MEMO)])
    page.locator(".jobs a", has_text="voice_memo.flac").filter(has_text="completed").first.click()
    page.get_by_text("dentist").first.wait_for()
    return page


def _heard_from(page: Any, at: float) -> None:
    """The sound is there, or a little later."""
    deadline = time.monotonic() + PATIENCE_S
    while not at - 1 <= page.evaluate("document.querySelector('audio')?.currentTime ?? -1") <= at + 5:
        assert time.monotonic() < deadline, f"the sound did not go to {at}"
        page.wait_for_timeout(50)


def test_a_file_handed_in_becomes_text_beside_its_sound(transcribed: Any) -> None:
    word = transcribed.locator(".transcript [data-at]", has_text="dentist").first
    word.click()
    _heard_from(transcribed, float(word.get_attribute("data-at")))
    transcribed.locator(".transcript .lit").wait_for()
    with transcribed.expect_download() as download:
        transcribed.get_by_role("link", name="srt", exact=True).click()
    assert "dentist" in Path(download.value.path()).read_text("utf-8")


def test_what_was_said_is_found_and_leads_to_its_moment(transcribed: Any) -> None:
    transcribed.get_by_role("link", name="Search").click()
    transcribed.get_by_label("Words").fill("yellow book")
    transcribed.get_by_role("button", name="Search").click()
    transcribed.locator(".hits mark", has_text="yellow").first.click()
    _heard_from(transcribed, 8.0)


def test_it_can_be_steered(transcribed: Any) -> None:
    transcribed.get_by_role("button", name="Pause").click()
    transcribed.get_by_role("button", name="Resume").wait_for()
    transcribed.get_by_role("button", name="Try again").click()
    transcribed.locator(".job-head .status", has_text="pending").wait_for()
    transcribed.get_by_role("button", name="Cancel").click()
    transcribed.locator(".job-head .status", has_text="cancelled").wait_for()
    transcribed.get_by_role("button", name="Try again").click()
    transcribed.get_by_role("button", name="Resume").click()
    transcribed.locator(".job-head .status", has_text="completed").wait_for()


def test_the_queue_is_filtered_by_its_address(transcribed: Any, address: str) -> None:
    transcribed.goto(f"{address}/#/jobs?status=failed")
    transcribed.get_by_text("Nothing like that.").wait_for()
    transcribed.go_back()
    transcribed.get_by_text("dentist").first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_everybody_can_use_it(browser: Any, address: str, scheme: str, width: int) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    tab = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    for view in ("#/jobs", "#/job/1", "#/search?q=the"):
        tab.goto(f"{address}/{view}")
        tab.locator("main h1").first.wait_for(state="attached")
        tab.locator("aside li").first.wait_for()
        found = axe.Axe().run(tab)
        assert found.violations_count == 0, found.generate_report()
        assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()

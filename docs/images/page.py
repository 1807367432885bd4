"""Makes page.png of a running daemon: python docs/images/page.py URL > docs/images/page.png"""

import shutil
import sys

from playwright.sync_api import sync_playwright

with sync_playwright() as started:
    browser = started.chromium.launch(
        executable_path=shutil.which("chromium"), args=["--no-sandbox"]
    )
    page = browser.new_page(viewport={"width": 1180, "height": 760}, locale="en-GB")
    page.goto(sys.argv[1])
    page.wait_for_selector("progress, [role=progressbar]")
    page.wait_for_timeout(1000)  # for the first snapshot to be drawn
    sys.stdout.buffer.write(page.screenshot())
    browser.close()

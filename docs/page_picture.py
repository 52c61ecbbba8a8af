"""Write docs/page.png, a picture of the page of a trace by the small model: python docs/page_picture.py

Playwright takes the picture with the Chromium or Chrome of this system.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import sync_playwright

TARGET = Path(__file__).with_name("page.png")
COMMAND = "trace emma --model small --html emma.html"
WIDTH, HEIGHT = 1280, 860


def main() -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with TemporaryDirectory() as name, sync_playwright() as driver:
        words = [sys.executable, "-m", "microgpt_trace", *COMMAND.split()]
        subprocess.run(words, cwd=name, stdout=subprocess.DEVNULL, check=True)
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.goto(Path(name, "emma.html").as_uri())
        page.wait_for_selector("body[data-ready]")
        page.screenshot(path=TARGET)
        browser.close()


if __name__ == "__main__":
    main()

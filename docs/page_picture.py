"""Write docs/page.png and docs/model-page.png, pictures of two pages: python docs/page_picture.py

Playwright takes the pictures with the Chromium or Chrome of this system. A helper of the tests finds SmolLM2.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import sync_playwright

HERE = Path(__file__).parent
WIDTH = 1280
# A picture, its height, and the command of its page.
PICTURES = {
    "page.png": (860, ["trace", "emma", "--model", "small"]),
    "model-page.png": (940, ["trace", "smollm2.gguf", "The capital of France is"]),
}


def main() -> None:
    sys.path.insert(0, str(HERE.parent / "tests"))
    from support.page_files import FILES

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with TemporaryDirectory() as name, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        FILES["smollm2.gguf"](Path(name, "smollm2.gguf"))
        for picture, (height, words) in PICTURES.items():
            command = [sys.executable, "-m", "microgpt_trace", *words, "--html", f"{picture}.html"]
            subprocess.run(command, cwd=name, stdout=subprocess.DEVNULL, check=True)
            page = browser.new_page(viewport={"width": WIDTH, "height": height})
            page.goto(Path(name, f"{picture}.html").as_uri())
            page.wait_for_selector("body[data-ready]")
            page.screenshot(path=HERE / picture)
        browser.close()


if __name__ == "__main__":
    main()

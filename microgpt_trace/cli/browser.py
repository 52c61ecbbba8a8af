"""Opens a page in the browser of the system."""

import os
import sys
from pathlib import Path

from ..errors import RunError
from .output import note


def temporary_page(name: str) -> Path:
    """Return the path of a page in a new temporary folder. Raises RunError if no folder can be made."""
    import tempfile

    try:
        return Path(tempfile.mkdtemp(prefix="microgpt-")) / f"{name}.html"
    except OSError as error:
        raise RunError(f"cannot make a folder for temporary files ({error.strerror})") from error


def open_page(path: Path) -> None:
    """Open a page, and print where the page is. Without a browser, only print where the page is."""
    import webbrowser

    has_screen = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    )
    try:
        is_open = has_screen and webbrowser.open(path.absolute().as_uri())
    except (webbrowser.Error, OSError):
        is_open = False
    note(f"opened {path}" if is_open else f"found no browser; open this page yourself: {path}")

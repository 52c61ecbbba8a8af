"""Pictures as files: SVG and PDF with text as text, PNG. Knows no result."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from ...files import write_atomically
from .heat import DOTS
from .panel import Panel, Picture

# The same file from run to run: no date, no version, no random id.
_METADATA: dict[str, dict[str, None]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_OURS = {
    "svg.fonttype": "none",  # text, not outlines of it
    "pdf.fonttype": 42,
    "svg.hashsalt": "microgpt-trace",
    "hatch.linewidth": 0.4,
    "axes.linewidth": 0.6,
}
SUFFIXES = tuple(_METADATA)


def save_picture(picture: Picture, path: Path, overwrite: bool = False) -> None:
    """Draw it into a file of the format that the suffix says. Raises RunError where the disk does not let
    us."""
    write_atomically(path, content_of(picture, path.suffix.lower()), overwrite)


def content_of(picture: Picture, suffix: str) -> bytes:
    """The bytes of such a file."""
    with _surroundings():
        from matplotlib.figure import Figure  # not pyplot's: nothing of it outlives the file

        figure, file = Figure(figsize=(picture.width, picture.height), layout="constrained"), BytesIO()
        picture.draw(Panel(figure.add_subplot(), spelled=suffix != ".svg"))
        figure.savefig(file, format=suffix[1:], dpi=DOTS, metadata=_METADATA[suffix])
    return file.getvalue()


@contextmanager
def _surroundings() -> Iterator[None]:
    """Settings of ours, of the user's matplotlibrc the fonts, and no word to the terminal about these."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import matplotlib

        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph ")  # which a viewer of SVG may have
            settings: Any = matplotlib.rcParams
            fonts = {name: settings[name] for name in settings if name.startswith("font.")}
            matplotlib.rcdefaults()
            settings.update(fonts | _OURS)
            yield
    finally:
        logger.setLevel(level)

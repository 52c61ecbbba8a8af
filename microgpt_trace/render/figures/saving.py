"""Save pictures as SVG, PDF or PNG files. SVG and PDF files store text as text, not as outlines."""

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

# Two runs write the same bytes, because the files have no date, version or random id.
_METADATA: dict[str, dict[str, None]] = {
    ".svg": {"Date": None, "Creator": None},
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
_OURS = {
    "svg.fonttype": "none",  # characters as text, not as outlines
    "pdf.fonttype": 42,
    "svg.hashsalt": "microgpt-trace",
    "hatch.linewidth": 0.4,
    "axes.linewidth": 0.6,
}


def save_picture(picture: Picture, path: Path, overwrite: bool = False) -> None:
    """Draw a picture and write it in the format of the file extension. Raises RunError if writing fails."""
    write_atomically(path, content_of(picture, path.suffix.lower()), overwrite)


def content_of(picture: Picture, suffix: str) -> bytes:
    """Return a picture as the bytes of a file with the extension `suffix`."""
    with _own_settings():
        from matplotlib.figure import Figure  # pyplot would keep the figure in memory

        figure, file = Figure(figsize=(picture.width, picture.height), layout="constrained"), BytesIO()
        picture.draw(Panel(figure.add_subplot(), escapes=suffix != ".svg"))
        figure.savefig(file, format=suffix[1:], dpi=DOTS, metadata=_METADATA[suffix])
    return file.getvalue()


@contextmanager
def _own_settings() -> Iterator[None]:
    """Use the program's settings, but the fonts of the user's matplotlibrc. Hide warnings about fonts."""
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        import matplotlib

        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph ")  # the viewer of an SVG may have the glyph
            settings: Any = matplotlib.rcParams
            fonts = {name: settings[name] for name in settings if name.startswith("font.")}
            matplotlib.rcdefaults()
            settings.update(fonts | _OURS)
            yield
    finally:
        logger.setLevel(level)

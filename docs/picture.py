"""Draws docs/trace.svg, what `microgpt trace emma` prints on a terminal in colour: python docs/picture.py

The command runs in a process of its own; its colours are read back and drawn by rich. The picture names no
font of the web, so that it is whole by itself.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

COMMAND = ("trace", "emma")
COLUMNS = 84
TARGET = Path(__file__).with_name("trace.svg")


def printed() -> str:
    """What the command prints on a terminal in colour, escape codes included."""
    colour = {"COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "COLORTERM": "truecolor", "PYTHONUTF8": "1"}
    given = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "LINES")}
    command, env = [sys.executable, "-m", "microgpt_trace", *COMMAND], given | colour
    return subprocess.run(command, env=env, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout


def picture(text: str) -> str:
    """The text as a terminal shows it, as SVG."""
    console = Console(
        record=True, width=COLUMNS, file=StringIO(), force_terminal=True, color_system="truecolor",
        legacy_windows=False,
    )  # fmt: skip
    console.print(Text.from_ansi(text.rstrip()))
    svg = console.export_svg(title=f"microgpt {' '.join(COMMAND)}", unique_id="trace")
    svg = re.sub(r"\s*@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    return "\n".join(line.rstrip() for line in svg.splitlines()) + "\n"


if __name__ == "__main__":
    TARGET.write_text(picture(printed()), encoding="utf-8", newline="\n")

"""Draw docs/trace.svg, the output of `microgpt trace emma` on a colour terminal: python docs/picture.py

The command runs in a process of its own. Rich reads its colours and writes the SVG. Links to web fonts are
removed.
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
    """Return the output of the command on a colour terminal, with escape codes."""
    colour = {"COLUMNS": str(COLUMNS), "FORCE_COLOR": "1", "COLORTERM": "truecolor", "PYTHONUTF8": "1"}
    others = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "LINES")}
    command = [sys.executable, "-m", "microgpt_trace", *COMMAND]
    return subprocess.run(
        command, env=others | colour, stdout=subprocess.PIPE, encoding="utf-8", check=True
    ).stdout


def picture(text: str) -> str:
    """Return an SVG of the text on a terminal."""
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

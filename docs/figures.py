"""Draw the figures in docs/figures/ with the commands of docs/figures.md: python docs/figures.py

The commands run in a temporary folder. Helpers of the tests write the files that the commands read.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
PAGE = HERE / "figures.md"
TARGET = HERE / "figures"


def commands() -> list[list[str]]:
    """Return the arguments of each command on the page."""
    lines = re.findall(r"^\$ microgpt (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line) for line in lines]


def write_needed(folder: Path) -> None:
    """Write the models and dumps that the commands read."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from support.page_files import write_files
    from support.pages import examples

    write_files(examples(PAGE.read_text(encoding="utf-8")), folder)


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        write_needed(Path(name))
        for words in commands():
            done = subprocess.run([sys.executable, "-m", "microgpt_trace", *words], cwd=name, check=False)
            assert done.returncode in (0, 1), words  # 1: the command found an error
        for path in Path(name).glob("*.svg"):
            (TARGET / path.name).write_bytes(path.read_bytes())

"""Draws docs/figures/, by the commands of docs/figures.md: python docs/figures.py

They run in a folder of their own, with the files that they name, which the tests know how to make.
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
    """The command lines of the page, as words."""
    lines = re.findall(r"^\$ microgpt (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [shlex.split(line) for line in lines]


def write_needed(folder: Path) -> None:
    """The models and dumps that the page names."""
    sys.path.insert(0, str(HERE.parent / "tests"))
    from support.page_files import write_files
    from support.pages import examples

    write_files(examples(PAGE.read_text(encoding="utf-8")), folder)


if __name__ == "__main__":
    with TemporaryDirectory() as name:
        write_needed(Path(name))
        for words in commands():
            done = subprocess.run([sys.executable, "-m", "microgpt_trace", *words], cwd=name, check=False)
            assert done.returncode in (0, 1), words  # 1: a fault was found
        for path in Path(name).glob("*.svg"):
            (TARGET / path.name).write_bytes(path.read_bytes())

"""Run each command in a process and a folder of its own, and store its output.

behaviour.py starts this script with the package of one commit on its path. The script imports NumPy and other
libraries before it forks, which makes a command three times as fast. Each command imports microgpt_trace
itself.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

LIMIT = 300  # s, after which a command is killed
LIBRARIES = (
    "numpy",
    "safetensors.numpy",
    "rich.console",
    "rich.table",
    "tokenizers",
    "jinja2",
    "threadpoolctl",
)


def run_line(line: dict[str, str], folder: Path) -> int:
    """Run one command and return its exit code. FOLDER.out and FOLDER.err receive its output."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    signal.alarm(LIMIT)
    try:
        os.chdir(folder)
        os.environ.update(line["environment"])
        for descriptor, path in ((0, os.devnull), (1, f"{folder}.out"), (2, f"{folder}.err")):
            flags = os.O_WRONLY | os.O_CREAT if descriptor else os.O_RDONLY
            os.dup2(os.open(path, flags), descriptor)
        words = shlex.split(line["words"])
        if line["code"]:
            sys.argv = ["-c", *words]
            exec(line["code"], {"__name__": "__main__"})
        else:
            sys.argv = ["microgpt", *words]
            importlib.import_module("microgpt_trace.__main__").main()
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)
    except BaseException as error:
        sys.excepthook(type(error), error, error.__traceback__)
        sys.stdout.flush()
        os._exit(70)
    sys.stdout.flush()
    os._exit(0)


def keep_changes(folder: Path, inputs: Path) -> None:
    """Delete the input files that the command did not change, and list those that it deleted."""
    gone = []
    for path in sorted(inputs.rglob("*")):
        now = folder / path.relative_to(inputs)
        if path.is_file() and not now.exists():
            gone.append(str(path.relative_to(inputs)))
        elif path.is_file() and now.read_bytes() == path.read_bytes():
            now.unlink()
    (folder / "models").unlink()
    if gone:
        Path(f"{folder}.gone").write_text("\n".join(gone))


def main(lines: Path, inputs: Path, results: Path, share: str) -> None:
    """Run the commands of one share: "0/2" is every second command, from the first on."""
    for name in LIBRARIES:
        importlib.import_module(name)
    first, step = map(int, share.split("/"))
    for number, line in list(enumerate(json.loads(lines.read_text())))[first::step]:
        folder = results / f"{number:04}"
        shutil.copytree(inputs / "work", folder)
        (folder / "models").symlink_to(inputs / "models")
        code = run_line(line, folder)
        Path(f"{folder}.code").write_text(str(code))
        keep_changes(folder, inputs / "work")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), sys.argv[4])

"""Whole commands as users start them: wall time, CPU time and peak memory. Imports no NumPy itself.

Peak memory of a child starts from that of the process it was forked from, so this one stays small.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from table import print_table

REPEATS = 10
STEPS = 5000
KIB_PER_UNIT = 1 / 1024 if sys.platform == "darwin" else 1  # of ru_maxrss


class Usage(NamedTuple):
    """What a process took."""

    wall: float  # s
    cpu: float  # s, user and system
    memory: float  # MB at its peak


def commands(folder: Path) -> dict[str, list[str]]:
    """What is measured, by the name it has in the table."""
    microgpt = [sys.executable, "-m", "microgpt_trace"]
    train = [*microgpt, "train", "--out", str(folder / "model.safetensors"), "--force"]
    return {
        "import numpy": [sys.executable, "-c", "import numpy"],
        "trace emma": [*microgpt, "trace", "emma"],
        "train --steps 1": [*train, "--steps", "1"],
        f"train --steps {STEPS}": [*train, "--steps", str(STEPS)],
    }


@contextmanager
def drained_terminal():
    """A terminal to write to, so that the progress bar is drawn as for a user; what it shows is dropped."""
    if not hasattr(os, "openpty"):
        yield subprocess.DEVNULL
        return
    reader, terminal = os.openpty()

    def drain() -> None:
        while True:
            try:
                if not os.read(reader, 65536):
                    return
            except OSError:  # the other side is closed
                return

    thread = threading.Thread(target=drain)
    thread.start()
    try:
        yield terminal
    finally:
        os.close(terminal)
        thread.join()
        os.close(reader)


def measure(command: list[str], to_terminal: bool = True) -> Usage:
    """Run a command to its end; what it prints goes to a terminal or nowhere. RuntimeError if it fails."""
    with drained_terminal() as terminal:
        start = time.perf_counter()
        output = terminal if to_terminal else subprocess.DEVNULL
        child = subprocess.Popen(command, stdout=output, stderr=terminal)
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with exit code {child.returncode}")
    return Usage(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * KIB_PER_UNIT / 1024)


def best(usages: list[Usage]) -> Usage:
    """The least time, and the most memory."""
    return Usage(min(u.wall for u in usages), min(u.cpu for u in usages), max(u.memory for u in usages))


def report() -> None:
    if not hasattr(os, "wait4"):
        print("process is skipped: this system does not tell what a child process used\n")
        return
    found: dict[str, list[Usage]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(REPEATS):
            for name, command in commands(Path(folder)).items():
                found.setdefault(name, []).append(measure(command))
    usages = {name: best(each) for name, each in found.items()}
    numpy, trace, one, many = usages.values()
    rows = [[name, f"{u.wall:.3f} s", f"{u.cpu:.3f} s", f"{u.memory:.1f} MB"] for name, u in usages.items()]
    wall, cpu = trace.wall - numpy.wall, trace.cpu - numpy.cpu
    rows.append(["trace emma over import numpy", f"{wall:.3f} s", f"{cpu:.3f} s", ""])
    wall, cpu = ((b - a) / (STEPS - 1) * 1e6 for a, b in zip(one[:2], many[:2], strict=True))
    rows.append(["one step within train", f"{wall:.1f} µs", f"{cpu:.1f} µs", ""])
    print_table(f"Processes (best of {REPEATS})", ["", "wall", "CPU", "peak memory"], rows)

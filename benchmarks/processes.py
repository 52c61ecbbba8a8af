"""Measure whole commands as users start them: wall time, CPU time and peak memory. Imports no NumPy.

The peak memory of a child starts from the memory of the process that forks it, so this process stays small.
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
KIB_PER_UNIT = 1 / 1024 if sys.platform == "darwin" else 1  # unit of ru_maxrss


class Usage(NamedTuple):
    """The time and memory of a process."""

    wall: float  # s
    cpu: float  # s, user and system
    memory: float  # MB, peak


def commands(folder: Path) -> dict[str, list[str]]:
    """Return the commands to measure, by their names in the table."""
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
    """Open a terminal whose output is discarded, so that a command draws its progress bar as for a user."""
    if not hasattr(os, "openpty"):
        yield subprocess.DEVNULL
        return
    reader, terminal = os.openpty()

    def drain() -> None:
        while True:
            try:
                if not os.read(reader, 65536):
                    return
            except OSError:  # the other end is closed
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
    """Run a command with its output to a terminal or to nothing. Raises RuntimeError if it fails."""
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
    """Return the shortest times and the largest memory."""
    return Usage(min(u.wall for u in usages), min(u.cpu for u in usages), max(u.memory for u in usages))


def report() -> None:
    if not hasattr(os, "wait4"):
        print("Skipped process: this system cannot measure the time and memory of a child process\n")
        return
    runs: dict[str, list[Usage]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(REPEATS):
            for name, command in commands(Path(folder)).items():
                runs.setdefault(name, []).append(measure(command))
    usages = {name: best(each) for name, each in runs.items()}
    numpy, trace, one, many = usages.values()
    rows = [[name, f"{u.wall:.3f} s", f"{u.cpu:.3f} s", f"{u.memory:.1f} MB"] for name, u in usages.items()]
    wall, cpu = trace.wall - numpy.wall, trace.cpu - numpy.cpu
    rows.append(["trace emma minus import numpy", f"{wall:.3f} s", f"{cpu:.3f} s", ""])
    wall, cpu = ((b - a) / (STEPS - 1) * 1e6 for a, b in zip(one[:2], many[:2], strict=True))
    rows.append(["one step within train", f"{wall:.1f} µs", f"{cpu:.1f} µs", ""])
    print_table(f"Processes (best of {REPEATS})", ["", "wall", "CPU", "peak memory"], rows)

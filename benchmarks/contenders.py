"""Run commands in turns and measure their wall time, CPU time and peak memory. Imports no NumPy.

The peak memory of a child starts from the memory of the process that forks it, so this process stays small.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from processes import Usage, measure

HERE = Path(__file__).parent
HEADER = ("", "best", "median", "CPU", "peak memory", "ratio", "median ratio", "target", "CPU ratio")


class Contender(NamedTuple):
    """A command, and the contender that it is compared with."""

    name: str
    command: list[str]
    rival: str = ""  # name of the contender whose time divides ours in the ratio
    target: float | None = None  # largest acceptable ratio
    to_terminal: bool = False  # print to a terminal, or else discard the output
    one_core: bool = False


def trace(model: Path, *arguments: str) -> list[str]:
    return microgpt("trace", str(model), *arguments)


def microgpt(*arguments: str) -> list[str]:
    """Build a command line with the installed console script, which users start."""
    script = shutil.which("microgpt", path=sysconfig.get_path("scripts"))
    if script is None:
        raise SystemExit("The command microgpt is not installed beside this Python. Run `make bench-models`.")
    return [script, *arguments]


def evaluation(
    peer: str, model: Path, every: bool, tokens: Sequence[int], *, generate: int = 0, one_thread: bool = False
) -> list[str]:
    """Build a command that runs a peer on the tokens and generates `generate` more.

    `every`: compute the logits of every position, or else of the last one only.
    """
    kept, threads = "all" if every else "last", "1" if one_thread else "its own"
    script = str(HERE / "evaluate.py")
    return [sys.executable, script, peer, str(model), kept, str(generate), threads, joined(tokens)]


def joined(tokens: Sequence[int]) -> str:
    return ",".join(map(str, tokens))


def our_document(command: list[str]) -> dict[str, Any]:
    """Return the document of a trace without measuring it. This brings the file into the page cache."""
    return json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)


def tokens_of_peer(command: list[str]) -> list[int]:
    """Return the tokens that a peer predicts, without measuring it."""
    output = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return [int(token) for token in output.splitlines()[-1].split()]


CAN_PIN = hasattr(os, "sched_setaffinity")  # True if this system can limit a process to one core


@contextmanager
def pinned_to_one_core(one_core: bool) -> Iterator[None]:
    """Limit this process and its new children to one core, if `one_core` is True."""
    if not one_core:
        yield
        return
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def take_turns(
    contenders: Sequence[Contender], turns: int, seconds: float = math.inf
) -> dict[str, list[Usage]]:
    """Measure each contender once per turn. Start no turn but the first after `seconds`."""
    usages: dict[str, list[Usage]] = {contender.name: [] for contender in contenders}
    start = time.perf_counter()
    for turn in range(turns):
        if turn and time.perf_counter() - start > seconds:
            break
        for contender in contenders:
            with pinned_to_one_core(contender.one_core):
                usages[contender.name].append(measure(contender.command, contender.to_terminal))
    return usages


def rows(contenders: Sequence[Contender], usages: dict[str, list[Usage]]) -> list[list[str]]:
    return [row(contender, usages[contender.name], usages.get(contender.rival)) for contender in contenders]


def row(contender: Contender, ours: list[Usage], theirs: list[Usage] | None) -> list[str]:
    walls = [usage.wall for usage in ours]
    figures = [
        f"{min(walls):.3f} s",
        f"{median(walls):.3f} s",
        f"{min(usage.cpu for usage in ours):.3f} s",
        f"{max(usage.memory for usage in ours):.0f} MB",
    ]
    if theirs is None:
        return [contender.name, *figures, "", "", "", ""]
    by_turns = median(a.wall / b.wall for a, b in zip(ours, theirs, strict=True))
    target = "" if contender.target is None else f"{contender.target:g}"
    cpu = min(usage.cpu for usage in ours) / min(usage.cpu for usage in theirs)
    return [contender.name, *figures, f"{ratio(ours, theirs):.2f}", f"{by_turns:.2f}", target, f"{cpu:.2f}"]


def ratio(ours: Sequence[Usage], theirs: Sequence[Usage]) -> float:
    """Return the ratio of the best times."""
    return min(usage.wall for usage in ours) / min(usage.wall for usage in theirs)

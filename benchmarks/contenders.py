"""Commands that take turns, and what each took: wall time, CPU time, peak memory. Imports no NumPy.

A child's peak memory starts from that of the process it was forked from, so this one stays small.
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
HEADER = ("", "best", "median", "CPU", "peak memory", "ratio", "by turns", "at most", "CPU ratio")


class Contender(NamedTuple):
    """A command, and what it is held against."""

    name: str
    command: list[str]
    rival: str = ""  # the contender whose time is the unit of its ratio
    target: float | None = None  # the largest ratio
    to_terminal: bool = False  # what it prints; a document goes nowhere
    one_core: bool = False


def trace(model: Path, *arguments: str) -> list[str]:
    return microgpt("trace", str(model), *arguments)


def microgpt(*arguments: str) -> list[str]:
    """The installed console script, as a user starts it."""
    script = shutil.which("microgpt", path=sysconfig.get_path("scripts"))
    if script is None:
        raise SystemExit("bench-models needs microgpt-trace in its own environment: make bench-models")
    return [script, *arguments]


def evaluation(
    peer: str, model: Path, every: bool, tokens: Sequence[int], *, generate: int = 0, one_thread: bool = False
) -> list[str]:
    """The same tokens through a peer, with the logits of every position or of the last one, and so many
    more after them."""
    kept, threads = "all" if every else "last", "1" if one_thread else "its own"
    script = str(HERE / "evaluate.py")
    return [sys.executable, script, peer, str(model), kept, str(generate), threads, joined(tokens)]


def joined(tokens: Sequence[int]) -> str:
    return ",".join(map(str, tokens))


def said_by_ours(command: list[str]) -> dict[str, Any]:
    """The document of a trace, not measured: it brings the file into the page cache."""
    return json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)


def said_by_peer(command: list[str]) -> list[int]:
    """The tokens that a peer says come next, not measured."""
    said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return [int(token) for token in said.splitlines()[-1].split()]


def can_hold_to_one_core() -> bool:
    return hasattr(os, "sched_setaffinity")


@contextmanager
def held_to_one_core(wanted: bool) -> Iterator[None]:
    """Children inherit where this process may run."""
    if not wanted:
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
    """What each took, turn by turn; none begins after so many seconds, but for the first."""
    found: dict[str, list[Usage]] = {contender.name: [] for contender in contenders}
    start = time.perf_counter()
    for turn in range(turns):
        if turn and time.perf_counter() - start > seconds:
            break
        for contender in contenders:
            with held_to_one_core(contender.one_core):
                found[contender.name].append(measure(contender.command, contender.to_terminal))
    return found


def rows(contenders: Sequence[Contender], found: dict[str, list[Usage]]) -> list[list[str]]:
    return [row(contender, found[contender.name], found.get(contender.rival)) for contender in contenders]


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
    """That of the best times."""
    return min(usage.wall for usage in ours) / min(usage.wall for usage in theirs)

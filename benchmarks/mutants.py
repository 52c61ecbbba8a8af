"""Breaks the package in one place at a time and counts how often the tests notice.

    python benchmarks/mutants.py --count 40 --seed 1 [--commit NAME] [--tests FOLDER]

A mutant is a copy of the package in which one operator, comparison, small integer or `not` is another; which
ones is drawn by the seed over all modules. First all tests run once with coverage, which says which tests
run which line. A mutant then faces the tests of its line, the quickest first, until one fails. A mutant that
survives does the same as the right code, or is a hole in the tests.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from coverage import CoverageData

ROOT = Path(__file__).parents[1]
PACKAGE = "microgpt_trace"
SWAPS = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*", ast.Pow: "*",
    ast.BitAnd: "|", ast.LShift: ">>", ast.RShift: "<<", ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=",
    ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not", ast.IsNot: "is", ast.In: "not in",
    ast.NotIn: "in", ast.And: "or", ast.Or: "and",
}  # fmt: skip
LARGEST = 16  # integer that is replaced
SECONDS = 60  # of tests that a mutant faces
FEW = 60  # tests that run in one process
TIMEOUT = 1800  # s; a mutant that does not end is noticed


class Mutant(NamedTuple):
    """One replacement in the text of a module."""

    module: str
    start: int  # in characters
    end: int
    new: str
    line: int

    def told(self, text: str) -> str:
        """Where it is and what it does."""
        line = text.splitlines()[self.line - 1].strip()
        return (
            f"{self.module}:{self.line}  {text[self.start : self.end].strip()} -> {self.new}  in  {line[:90]}"
        )


def mutants_of(module: str, text: str) -> Iterator[Mutant]:
    """Every mutant of a module."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def at(line: int, column: int) -> int:
        within = text[starts[line - 1] : starts[line]].encode()[:column].decode()
        return starts[line - 1] + len(within)

    def gap(left: ast.expr, right: ast.expr, op: ast.AST) -> Iterator[Mutant]:
        """The operator between two operands, without the brackets around it."""
        if type(op) in SWAPS and left.end_lineno and left.end_col_offset is not None:
            start, end = at(left.end_lineno, left.end_col_offset), at(right.lineno, right.col_offset)
            between = text[start:end]
            plain = between.strip(" ()\n\t\\")
            if plain and "#" not in between:
                first = start + between.index(plain)
                yield Mutant(module, first, first + len(plain), SWAPS[type(op)], left.end_lineno)

    for node in _code(ast.parse(text)):
        if isinstance(node, ast.BinOp):
            yield from gap(node.left, node.right, node.op)
        elif isinstance(node, ast.Compare):
            for left, op, right in zip(
                [node.left, *node.comparators], node.ops, node.comparators, strict=False
            ):
                yield from gap(left, right, op)
        elif isinstance(node, ast.BoolOp):
            for left, right in zip(node.values, node.values[1:], strict=False):
                yield from gap(left, right, node.op)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            start = at(node.lineno, node.col_offset)
            yield Mutant(module, start, start + len("not"), "", node.lineno)
        elif isinstance(node, ast.Constant) and type(node.value) is int and 0 <= node.value <= LARGEST:
            start, end = at(node.lineno, node.col_offset), at(node.end_lineno or 0, node.end_col_offset or 0)
            yield Mutant(module, start, end, str(node.value + 1), node.lineno)


def _code(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below that run: no annotations, and nothing within f-strings, whose places older Pythons
    do not tell."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or isinstance(value, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield child
                yield from _code(child)


def drawn(tree: Path, count: int, seed: int) -> list[Mutant]:
    """So many of all mutants, in the order in which they are drawn."""
    found = []
    for path in sorted((tree / PACKAGE).rglob("*.py")):
        found += mutants_of(str(path.relative_to(tree)), path.read_text(encoding="utf-8"))
    return random.Random(seed).sample(found, count)


def statement_lines(text: str, line: int) -> range:
    """The lines of the innermost statement around a line; of a compound statement, its head alone."""
    found = range(line, line + 1)
    for node in ast.walk(ast.parse(text)):  # outer statements come first
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = body[0].lineno if body else (node.end_lineno or node.lineno) + 1
            if node.lineno <= line < max(end, node.lineno + 1):
                found = range(node.lineno, max(end, node.lineno + 1))
    return found


class Suite:
    """The tests of a tree: which of them run which line, and how long each takes."""

    def __init__(self, tree: Path, marked: str, measured: Path | None):
        """Run all tests once with coverage, or read what such a run left in the folder `measured`.

        Raises SystemExit where a test fails on the right code.
        """
        self.tree, self.marked = tree, marked
        folder = measured or tree / "measured"
        if not (folder / "coverage").exists():
            folder.mkdir(exist_ok=True)
            by = self._run(
                [
                    "--cov",
                    PACKAGE,
                    "--cov-context",
                    "test",
                    "--cov-report=",
                    "--junitxml",
                    folder / "times.xml",
                ],
                {"COVERAGE_FILE": str(folder / "coverage")},
            )
            if by:
                raise SystemExit(f"the tests fail on the right code: {by}")
        self.coverage = CoverageData(str(folder / "coverage"))
        self.coverage.read()
        self.files = {
            Path(name).as_posix().split(f"/{PACKAGE}/")[-1]: name for name in self.coverage.measured_files()
        }
        self.seconds = {
            f"{case.get('classname', '').split('.')[-1]}::{case.get('name')}": float(case.get("time", 0))
            for case in ElementTree.parse(folder / "times.xml").iter("testcase")
        }

    def that_run(self, module: str, lines: range) -> list[str]:
        """The tests that run one of the lines, or any line of a module whose lines only an import runs.

        The quickest come first, and of many those that take SECONDS together.
        """
        known = self.coverage.contexts_by_lineno(self.files.get(module.split("/", 1)[1], ""))
        of_lines = {context for line in lines for context in known.get(line, ()) if context}
        contexts = of_lines or {context for of_line in known.values() for context in of_line if context}
        tests = {context.rpartition("|")[0]: 0.0 for context in contexts}
        for test in tests:
            tests[test] = self.seconds.get(test.split("/")[-1].replace(".py", ""), 0.0)
        chosen = sorted(tests, key=lambda test: (tests[test], test))
        until = accumulate(tests[test] for test in chosen)
        return [test for test, seconds in zip(chosen, until, strict=True) if seconds < SECONDS]

    def noticed(self, tests: list[str]) -> str:
        """The first test that fails, or "" where all pass: a few quick ones first, then the others."""
        return next((by for some in (tests[:FEW], tests[FEW:]) if some and (by := self._run(some))), "")

    def _run(self, arguments: list[str | Path], variables: dict[str, str] | None = None) -> str:
        """The first test that fails in a run of pytest, or ""."""
        workers = "0" if len(arguments) <= FEW and variables is None else "auto"
        options = ["-x", "-q", "-p", "no:cacheprovider", "-n", workers, "-m", self.marked]
        environment = {**os.environ, "PYTHONPATH": str(self.tree), "PYTHONDONTWRITEBYTECODE": "1"} | (
            variables or {}
        )
        listed = self.tree / "arguments.txt"
        listed.write_text("\n".join(map(str, arguments)), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *options, f"@{listed}"],
                cwd=self.tree, env=environment, timeout=TIMEOUT, capture_output=True, text=True,
                errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return "it does not end"
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        return "" if done.returncode == 0 else failed[0].split(" - ")[0] if failed else "pytest stops"


def copied(commit: str, tests: Path | None, folder: Path) -> Path:
    """A tree of its own to break."""
    tree = folder / "tree"
    if commit:
        subprocess.run(
            ["git", "-C", ROOT, "worktree", "add", "--force", "--detach", tree, commit], check=True
        )
    else:
        ignored = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache", ".hypothesis")
        shutil.copytree(ROOT, tree, ignore=ignored, symlinks=True)
    if tests:
        shutil.rmtree(tree / "tests")
        shutil.copytree(tests, tree / "tests")
    return tree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="how many mutants to draw")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first of those drawn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--commit", default="", help="package and tests of a commit; default: the working tree"
    )
    parser.add_argument("--tests", type=Path, help="tests of another folder")
    parser.add_argument("--marked", default="not rest", help="tests as pytest -m chooses them")
    parser.add_argument("--measured", type=Path, help="folder that keeps the coverage, to go on with")
    given = parser.parse_args()
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(given.commit, given.tests, Path(folder))
        suite = Suite(tree, given.marked, given.measured and given.measured.resolve())
        mutants = drawn(tree, given.count, given.seed)[given.skip :]
        for number, mutant in enumerate(mutants, given.skip + 1):
            path, began = tree / mutant.module, time.monotonic()
            right = path.read_text(encoding="utf-8")
            path.write_text(right[: mutant.start] + mutant.new + right[mutant.end :], encoding="utf-8")
            tests = suite.that_run(mutant.module, statement_lines(right, mutant.line))
            by = suite.noticed(tests)
            path.write_text(right, encoding="utf-8")
            survivors += [] if by else [mutant.told(right)]
            took = f"{len(tests)} tests, {time.monotonic() - began:.0f} s"
            print(f"{number:3} {mutant.told(right)}\n    {by or 'SURVIVED'} ({took})", flush=True)
        if given.commit:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)
    killed = len(mutants) - len(survivors)
    print(f"\n{killed} of {len(mutants)} noticed ({killed / len(mutants):.0%}); not:", *survivors, sep="\n  ")


if __name__ == "__main__":
    main()

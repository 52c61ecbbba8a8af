"""Break the package in one place at a time and count how often the tests fail (mutation testing).

    python benchmarks/mutants.py --count 40 --seed 1 [--commit NAME] [--tests FOLDER]

A mutant is a copy of the package with one operator, comparison or small integer replaced, or one `not`
removed. The seed selects mutants from all modules. First, all tests run once with coverage, which tells which
tests run which line. For each mutant, the tests of its line then run, the fastest first, until one fails. If
none fails, the mutant computes the same as the correct code, or the tests have a gap.
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
LARGEST = 16  # largest integer to replace
SECONDS = 60  # total time of the tests that run for a mutant
FEW = 60  # largest number of tests to run in one process
TIMEOUT = 1800  # s; a mutant that takes longer counts as detected


class Mutant(NamedTuple):
    """One replacement in the text of a module."""

    module: str
    start: int  # index in the text
    end: int
    new: str
    line: int

    def describe(self, text: str) -> str:
        """Return the place and the replacement."""
        line, old = text.splitlines()[self.line - 1].strip(), text[self.start : self.end].strip()
        return f"{self.module}:{self.line}  {old} -> {self.new}  in  {line[:90]}"


def mutants_of(module: str, text: str) -> Iterator[Mutant]:
    """Yield all mutants of a module."""
    starts = [0]
    for line in text.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def at(line: int, column: int) -> int:
        within = text[starts[line - 1] : starts[line]].encode()[:column].decode()
        return starts[line - 1] + len(within)

    def gap(left: ast.expr, right: ast.expr, op: ast.AST) -> Iterator[Mutant]:
        """Replace the operator between two operands. Brackets around the operands stay."""
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
            operands = [node.left, *node.comparators]
            for left, right, op in zip(operands, operands[1:], node.ops, strict=False):
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
    """Yield the nodes below, but no annotations and no parts of f-strings.

    Older versions of Python do not know the places of the parts of an f-string.
    """
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns") or isinstance(value, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield child
                yield from _code(child)


def sample_mutants(tree: Path, count: int, seed: int) -> list[Mutant]:
    """Return a random sample of all mutants, in random order."""
    mutants = []
    for path in sorted((tree / PACKAGE).rglob("*.py")):
        mutants += mutants_of(str(path.relative_to(tree)), path.read_text(encoding="utf-8"))
    return random.Random(seed).sample(mutants, count)


def statement_lines(text: str, line: int) -> range:
    """Return the lines of the innermost statement around a line, or the head of a compound statement."""
    result = range(line, line + 1)
    for node in ast.walk(ast.parse(text)):  # outer statements come first
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = body[0].lineno if body else (node.end_lineno or node.lineno) + 1
            if node.lineno <= line < max(end, node.lineno + 1):
                result = range(node.lineno, max(end, node.lineno + 1))
    return result


class Suite:
    """The tests of a tree, the lines that each test runs, and the time that it takes."""

    def __init__(self, tree: Path, marked: str, measured: Path | None):
        """Run all tests once with coverage, or read the results of such a run from the folder `measured`.

        Raises SystemExit if a test fails on the correct code.
        """
        self.tree, self.marked = tree, marked
        folder = measured or tree / "measured"
        if not (folder / "coverage").exists():
            folder.mkdir(exist_ok=True)
            coverage = ["--cov", PACKAGE, "--cov-context", "test", "--cov-report="]
            times = ["--junitxml", folder / "times.xml"]
            if failure := self._run([*coverage, *times], {"COVERAGE_FILE": str(folder / "coverage")}):
                raise SystemExit(f"mutants.py: a test fails on the correct code: {failure}")
        self.coverage = CoverageData(str(folder / "coverage"))
        self.coverage.read()
        self.files = {
            Path(name).as_posix().split(f"/{PACKAGE}/")[-1]: name for name in self.coverage.measured_files()
        }
        self.seconds = {
            f"{case.get('classname', '').split('.')[-1]}::{case.get('name')}": float(case.get("time", 0))
            for case in ElementTree.parse(folder / "times.xml").iter("testcase")
        }

    def tests_of(self, module: str, lines: range) -> list[str]:
        """Return the tests that run one of the lines, the fastest first, up to SECONDS in all.

        If only the import of the module runs these lines, return the tests that run any line of the module.
        """
        by_line = self.coverage.contexts_by_lineno(self.files.get(module.split("/", 1)[1], ""))
        of_lines = {context for line in lines for context in by_line.get(line, ()) if context}
        contexts = of_lines or {context for of_line in by_line.values() for context in of_line if context}
        tests = {context.rpartition("|")[0]: 0.0 for context in contexts}
        for test in tests:
            tests[test] = self.seconds.get(test.split("/")[-1].replace(".py", ""), 0.0)
        fastest_first = sorted(tests, key=lambda test: (tests[test], test))
        total = accumulate(tests[test] for test in fastest_first)
        return [test for test, seconds in zip(fastest_first, total, strict=True) if seconds < SECONDS]

    def first_failure(self, tests: list[str]) -> str:
        """Run the fastest tests, then the others. Return the first test that fails, or "" if all pass."""
        return next((by for some in (tests[:FEW], tests[FEW:]) if some and (by := self._run(some))), "")

    def _run(self, arguments: list[str | Path], variables: dict[str, str] | None = None) -> str:
        """Run pytest and return the first test that fails, or ""."""
        workers = "0" if len(arguments) <= FEW and variables is None else "auto"
        options = ["-x", "-q", "-p", "no:cacheprovider", "-n", workers, "-m", self.marked]
        environment = os.environ | {"PYTHONPATH": str(self.tree), "PYTHONDONTWRITEBYTECODE": "1"}
        file = self.tree / "arguments.txt"
        file.write_text("\n".join(map(str, arguments)), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *options, f"@{file}"],
                cwd=self.tree, env=environment | (variables or {}), timeout=TIMEOUT, capture_output=True,
                text=True, errors="replace",
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"did not end within {TIMEOUT} s"
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        if done.returncode == 0:
            return ""
        return failed[0].split(" - ")[0] if failed else "pytest failed without a failed test"


def copy_tree(commit: str, tests: Path | None, folder: Path) -> Path:
    """Copy the commit, or else the working tree, to a folder in which the mutants can be written."""
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
    parser.add_argument("--count", type=int, default=40, help="number of mutants in the sample; default: 40")
    parser.add_argument("--skip", type=int, default=0, help="leave out the first N mutants of the sample")
    parser.add_argument("--seed", type=int, default=1, help="seed of the sample; default: 1")
    parser.add_argument("--commit", default="", help="test this commit; default: the working tree")
    parser.add_argument("--tests", type=Path, help="folder with other tests to use")
    parser.add_argument("--marked", default="not rest", help="pytest -m expression; default: not rest")
    parser.add_argument(
        "--measured", type=Path, help="folder for the coverage, so that a later run can use it"
    )
    options = parser.parse_args()
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        tree = copy_tree(options.commit, options.tests, Path(folder))
        suite = Suite(tree, options.marked, options.measured and options.measured.resolve())
        mutants = sample_mutants(tree, options.count, options.seed)[options.skip :]
        for number, mutant in enumerate(mutants, options.skip + 1):
            path, start = tree / mutant.module, time.monotonic()
            original = path.read_text(encoding="utf-8")
            path.write_text(original[: mutant.start] + mutant.new + original[mutant.end :], encoding="utf-8")
            tests = suite.tests_of(mutant.module, statement_lines(original, mutant.line))
            failure = suite.first_failure(tests)
            path.write_text(original, encoding="utf-8")
            survivors += [] if failure else [mutant.describe(original)]
            cost = f"{len(tests)} tests, {time.monotonic() - start:.0f} s"
            print(f"{number:3} {mutant.describe(original)}\n    {failure or 'SURVIVED'} ({cost})", flush=True)
        if options.commit:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)
    count = len(mutants) - len(survivors)
    print(f"\nThe tests detected {count} of {len(mutants)} mutants ({count / len(mutants):.0%}). Survivors:")
    print(*survivors, sep="\n")


if __name__ == "__main__":
    main()

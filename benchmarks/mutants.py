"""Breaks the package in one place at a time and counts how often the tests notice.

    python benchmarks/mutants.py --count 40 --seed 1 [--commit NAME] [--tests FOLDER]

A mutant is a copy of the package in which one operator, comparison, small integer or `not` is another; which
ones is drawn by the seed over all modules. The tests that read the broken module run first, then all of
them; the first failure ends it. --commit takes package and tests of a commit (else the working tree's),
--tests those of another folder. A mutant that survives does the same as the right code, or is a hole in the
tests.
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
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PACKAGE = "microgpt_trace"
SWAPS = {
    ast.Add: "-", ast.Sub: "+", ast.Mult: "/", ast.Div: "*", ast.FloorDiv: "*", ast.Mod: "*", ast.Pow: "*",
    ast.BitAnd: "|", ast.LShift: ">>", ast.RShift: "<<", ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=",
    ast.GtE: ">", ast.Eq: "!=", ast.NotEq: "==", ast.Is: "is not", ast.IsNot: "is", ast.In: "not in",
    ast.NotIn: "in", ast.And: "or", ast.Or: "and",
}  # fmt: skip
LARGEST = 16  # integer that is replaced
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


def nearest_tests(tree: Path, module: str) -> list[str]:
    """The test files that speak of a module, those that do so most first."""
    path = Path(module).with_suffix("")
    words = [f".{path.name} import", f"import {path.name}", f"{path.parent.name} {path.name}"]
    counts = {
        test: sum(test.read_text(encoding="utf-8").count(word) for word in words)
        for test in sorted((tree / "tests").rglob("test_*.py"))
    }
    return [
        str(test.relative_to(tree)) for test in sorted(counts, key=counts.__getitem__)[::-1] if counts[test]
    ]


def noticed(tree: Path, tests: list[str]) -> str:
    """The first test that fails, or "" where all pass."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        "-n",
        "auto",
        "-m",
        "",
        *tests,
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
        )
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
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--skip", type=int, default=0, help="of those drawn, to go on")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commit", default="", help="default: the working tree")
    parser.add_argument("--tests", type=Path, help="another folder's")
    given = parser.parse_args()
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        tree = copied(given.commit, given.tests, Path(folder))
        if by := noticed(tree, []):
            raise SystemExit(f"the tests fail on the right code: {by}")
        mutants = drawn(tree, given.count, given.seed)[given.skip :]
        for number, mutant in enumerate(mutants, given.skip + 1):
            path, began = tree / mutant.module, time.monotonic()
            right = path.read_text(encoding="utf-8")
            path.write_text(right[: mutant.start] + mutant.new + right[mutant.end :], encoding="utf-8")
            near = nearest_tests(tree, mutant.module)
            by = (near and noticed(tree, near)) or noticed(tree, [])
            path.write_text(right, encoding="utf-8")
            survivors += [] if by else [mutant.told(right)]
            print(
                f"{number:3} {mutant.told(right)}\n    {by or 'SURVIVED'} ({time.monotonic() - began:.0f} s)",
                flush=True,
            )
        if given.commit:
            subprocess.run(["git", "-C", ROOT, "worktree", "remove", "--force", tree], check=True)
    killed = len(mutants) - len(survivors)
    print(f"\n{killed} of {len(mutants)} noticed ({killed / len(mutants):.0%}); not:", *survivors, sep="\n  ")


if __name__ == "__main__":
    main()

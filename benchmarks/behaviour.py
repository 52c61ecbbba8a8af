"""Shows every byte in which two commits differ for a user: stdout, stderr, exit code, files, saved arrays.

    python benchmarks/behaviour.py BASE [OTHER]     make behaviour BASE=main

BASE and OTHER are commits; without OTHER it is the working tree as it stands. Each gets the same command
lines (behaviour.txt and those of the attacks), the same inputs, one BLAS thread and the same environment.
Times, ids drawn for a run and the names of temporary folders are made equal. What a commit does is kept in
the system's temporary folder, so that the base runs once; --fresh forgets it. Exit code 1: they differ. For
systems that can fork.
"""

from __future__ import annotations

import argparse
import difflib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from behaviour_commands import ROOT, Line, lines, make_inputs
from safetensors.numpy import load

HERE = Path(__file__).parent
KEPT = Path(tempfile.gettempdir()) / "microgpt-behaviour"
SHOWN, WIDEST = 12, 160  # lines of a difference, and characters of one
# What no two runs have in common
VARIES = (
    (re.compile(rb"[\d.,]+ \S{1,2}s for (?=[\d,]+ steps)"), b"TIME for "),
    (re.compile(rb"[\d.,]+ \S+ for (?=[\d,]+ steps)"), b"TIME for "),
    (re.compile(rb"[\d.,]+ \S+ a step"), b"TIME a step"),
    (re.compile(rb"[\d.,]+ steps/s"), b"RATE steps/s"),
    (re.compile(rb'(run_id\\?": \\?")[0-9a-f]{16}'), rb"\1RUN"),
)
TIMED = re.compile(rb"[\d.,]+| +|-+")
PROGRESS = re.compile(
    rb"^(removing each part: )?(layer|token|event|parameter|prompt|pair|tensor) [\d,]+ of [\d,]+$\n?",
    re.MULTILINE,
)  # a line a second


def git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout


def place(asked: list[Line]) -> Path:
    """The folder for these lines, with their inputs, which are made where it is new."""
    tests = (path for path in (ROOT / "tests").rglob("*.py") if not path.name.startswith("test_"))
    making = sorted([*HERE.glob("behaviour*.py"), *tests])
    content = [json.dumps(asked), sys.version, np.__version__, *(path.read_text() for path in making)]
    digest = hashlib.sha256("".join(content).encode()).hexdigest()[:12]
    folder = KEPT / digest
    if not (folder / "inputs").exists():
        shutil.rmtree(folder, ignore_errors=True)
        print("making the inputs", file=sys.stderr)
        make_inputs(folder / "making")
        (folder / "lines.json").write_text(json.dumps([line._asdict() for line in asked]))
        (folder / "making").rename(folder / "inputs")
    return folder


def start(tree: Path, folder: Path, results: Path, workers: int) -> list[subprocess.Popen[bytes]]:
    """Processes that run all lines with the package of a tree."""
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    fixed = {
        "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": os.environ["PATH"], "TMPDIR": str(results), "COLUMNS": "80", "LC_ALL": "C",
        **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }  # fmt: skip
    command = [sys.executable, HERE / "behaviour_run.py", folder / "lines.json", folder / "inputs", results]
    return [subprocess.Popen([*command, f"{i}/{workers}"], env=fixed, cwd=results) for i in range(workers)]


def state_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def run_all(wanted: list[str | None], folder: Path) -> list[Path]:
    """Results of commits, or of the working tree for None; those that are known do not run again."""
    found, running, trees = [], [], []
    names = [git("rev-parse", "--verify", f"{name}^{{commit}}").strip() if name else None for name in wanted]
    missing = [name for name in dict.fromkeys(names) if name is None or not (folder / name / "done").exists()]
    for name in missing:
        tree = folder / "trees" / (name or f"working {os.getpid()}")
        if name and not tree.exists():
            git("worktree", "add", "--force", "--detach", str(tree), name)
        elif not name:
            shutil.copytree(ROOT / "microgpt_trace", tree / "microgpt_trace")
            shutil.copy(ROOT / "names.txt", tree)
        trees.append(tree)
        results = folder / (name or f"working {os.getpid()}")
        running += start(tree, folder, results, max((os.cpu_count() or 1) // len(missing), 1))
    failed = [child.args for child in running if child.wait()]
    for tree in trees:
        if (tree / ".git").exists():
            git("worktree", "remove", "--force", str(tree))
        shutil.rmtree(tree, ignore_errors=True)
    if failed:
        raise SystemExit(f"it did not run to its end: {failed[0]}")
    for name in names:
        found.append(folder / (name or f"working {os.getpid()}"))
        (found[-1] / "done").touch()
    return found


def plain(name: str, data: bytes, results: Path, folder: Path, line: Line) -> bytes:
    """What two runs have to have in common."""
    if name.endswith(".safetensors"):
        data = in_order(data)
    for path, word in ((results, b"RESULTS"), (folder / "inputs", b"INPUTS")):
        data = data.replace(str(path).encode(), word)
    for pattern, word in VARIES:
        data = pattern.sub(word, data)
    if name == "stderr":
        data = PROGRESS.sub(b"", data)
    return TIMED.sub(b"#", data) if "--time" in line.words else data


def in_order(data: bytes) -> bytes:
    """A safetensors file with its header in order of names: the library writes it in any."""
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True).encode()
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    except ValueError:
        return data


def left(results: Path, number: int, folder: Path, line: Line) -> dict[str, bytes]:
    """Everything that a line left, by name."""
    base = results / f"{number:04}"
    kinds = {"exit code": "code", "stdout": "out", "stderr": "err", "inputs that are gone": "gone"}
    paths = {name: Path(f"{base}.{end}") for name, end in kinds.items()}
    paths |= {f"file {path.relative_to(base)}": path for path in sorted(base.rglob("*"))}
    return {
        name: plain(name, path.read_bytes(), results, folder, line)
        for name, path in paths.items()
        if path.is_file()
    }


def arrays(data: bytes) -> dict[str, np.ndarray] | None:
    """The arrays of a safetensors or .npy file."""
    try:
        return {"": np.load(io.BytesIO(data))} if data.startswith(b"\x93NUMPY") else dict(load(data))
    except Exception:
        return None


def told(before: bytes, after: bytes) -> Iterator[str]:
    """A difference in lines: of text as a diff, of arrays by name, of anything else where it begins."""
    a, b = arrays(before), arrays(after)
    if a is not None and b is not None:
        for name in dict.fromkeys([*a, *b]):
            if name not in a or name not in b:
                yield f"array {name}: only {'before' if name in a else 'after'}"
            elif a[name].tobytes() != b[name].tobytes() or a[name].shape != b[name].shape:
                same = a[name].shape == b[name].shape
                apart = np.abs(a[name].astype(float) - b[name]).max() if same else np.nan
                yield f"array {name}: {a[name].shape} {b[name].shape}, at most {apart:.3g} apart"
        return
    try:
        texts = [data.decode().splitlines() for data in (before, after)]
    except UnicodeDecodeError:
        at = next((i for i, (x, y) in enumerate(zip(before, after, strict=False)) if x != y), None)
        yield f"{len(before):,} and {len(after):,} bytes, different from byte {at} on"
        return
    yield from list(difflib.unified_diff(*texts, "before", "after", n=0, lineterm=""))[2:]


def differences(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """Everything in which the two sides of a line differ."""
    found = []
    for name in dict.fromkeys([*before, *after]):
        if name not in before or name not in after:
            found.append(f"  {name}: only {'before' if name in before else 'after'}")
        elif before[name] != after[name]:
            how = [
                text if len(text) < WIDEST else f"{text[:WIDEST]}…"
                for text in told(before[name], after[name])
            ]
            more = [f"... {len(how) - SHOWN:,} lines more"] if len(how) > SHOWN else []
            found += [f"  {name}:", *(f"    {text}" for text in (*how[:SHOWN], *more))]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("base")
    parser.add_argument("other", nargs="?", help="without it: the working tree")
    parser.add_argument("--only", default="", metavar="WORD", help="only lines with this in them")
    parser.add_argument("--fresh", action="store_true", help="forget what was kept of earlier runs")
    given = parser.parse_args()
    asked = [line for line in lines() if given.only in line.words]
    if given.fresh:
        shutil.rmtree(KEPT, ignore_errors=True)
    folder = place(asked)
    models = state_of(folder / "inputs" / "models")
    pair = run_all([given.base, given.other], folder)
    if state_of(folder / "inputs" / "models") != models:
        raise SystemExit("a command wrote to the models that all read: --fresh, and look which one")
    parted = 0
    for number, line in enumerate(asked):
        before, after = (left(results, number, folder, line) for results in pair)
        if found := differences(before, after):
            parted += 1
            said = f"python -c ... {line.words}" if line.code else f"microgpt {line.words}"
            print("\n".join([f"$ {said} {dict(line.environment) or ''}".rstrip(), *found, ""]))
    codes = [int((pair[0] / f"{number:04}.code").read_text()) for number in range(len(asked))]
    count = ", ".join(f"{codes.count(code)} with {code}" for code in sorted(set(codes)))
    if given.other is None:
        shutil.rmtree(pair[1])
    print(f"{len(asked)} commands, exit codes of the first: {count}\n{parted} of them differ")
    raise SystemExit(bool(parted))


if __name__ == "__main__":
    main()

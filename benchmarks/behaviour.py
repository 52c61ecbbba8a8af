"""Compare two commits by what a user gets: stdout, stderr, exit codes, files and saved arrays.

    python benchmarks/behaviour.py BASE [OTHER]     make behaviour BASE=main

BASE and OTHER are commits. Without OTHER, BASE is compared with the working tree. Both run the same command
lines (behaviour.txt and the commands of tests/attacks) on the same inputs, with one BLAS thread and the same
environment. Times, random run ids and the names of temporary folders are not compared. The results of a
commit stay in the system's temporary folder, so that BASE runs only once; --fresh deletes them. The exit
code is 1 if the commits differ. Needs a system that can fork.
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
SHOWN, WIDEST = 12, 160  # largest number of lines to print of a difference, and of characters in a line
VARIES = (  # parts of the output that change from run to run
    (re.compile(rb"[\d.,]+ \S{1,2}s for (?=[\d,]+ steps)"), b"TIME for "),
    (re.compile(rb"[\d.,]+ \S+ for (?=[\d,]+ steps)"), b"TIME for "),
    (re.compile(rb"[\d.,]+ \S+ (?:a|per) step"), b"TIME a step"),
    (re.compile(rb"[\d.,]+ steps/s"), b"RATE steps/s"),
    (re.compile(rb'(run_id\\?": \\?")[0-9a-f]{16}'), rb"\1RUN"),
)
TIMED = re.compile(rb"[\d.,]+| +|-+")
PROGRESS = re.compile(
    rb"^(removing each part: )?(layer|token|event|parameter|prompt|pair|tensor) [\d,]+ of [\d,]+$\n?",
    re.MULTILINE,
)  # printed once a second, so their number varies


def git(*words: str) -> str:
    return subprocess.run(["git", "-C", str(ROOT), *words], check=True, capture_output=True, text=True).stdout


def folder_of(commands: list[Line]) -> Path:
    """Return the folder for the results of these commands, and write their inputs into a new folder."""
    tests = (path for path in (ROOT / "tests").rglob("*.py") if not path.name.startswith("test_"))
    sources = sorted([*HERE.glob("behaviour*.py"), *tests])
    content = [json.dumps(commands), sys.version, np.__version__, *(path.read_text() for path in sources)]
    digest = hashlib.sha256("".join(content).encode()).hexdigest()[:12]
    folder = KEPT / digest
    if not (folder / "inputs").exists():
        shutil.rmtree(folder, ignore_errors=True)
        print("Writing the inputs", file=sys.stderr)
        make_inputs(folder / "making")
        (folder / "lines.json").write_text(json.dumps([line._asdict() for line in commands]))
        (folder / "making").rename(folder / "inputs")
    return folder


def start(tree: Path, folder: Path, results: Path, workers: int) -> list[subprocess.Popen[bytes]]:
    """Start processes that run all commands with the package in `tree`."""
    shutil.rmtree(results, ignore_errors=True)
    results.mkdir(parents=True)
    environment = {
        "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1",
        "PATH": os.environ["PATH"], "TMPDIR": str(results), "COLUMNS": "80", "LC_ALL": "C",
        **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    }  # fmt: skip
    command = [sys.executable, HERE / "behaviour_run.py", folder / "lines.json", folder / "inputs", results]
    shares = (f"{i}/{workers}" for i in range(workers))
    return [subprocess.Popen([*command, share], env=environment, cwd=results) for share in shares]


def file_states(folder: Path) -> dict[str, tuple[int, int]]:
    """Return the size and the modification time of every file."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def run_all(commits: list[str | None], folder: Path) -> list[Path]:
    """Return the result folder of each commit, or of the working tree for None.

    Commits whose results exist do not run again.
    """
    working, running, trees = f"working {os.getpid()}", [], []
    shutil.rmtree(folder / working, ignore_errors=True)  # of an earlier process with this id
    hashes = [git("rev-parse", "--verify", f"{name}^0").strip() if name else working for name in commits]
    missing = [name for name in dict.fromkeys(hashes) if not (folder / name / "done").exists()]
    for name in missing:
        tree = folder / "trees" / name
        if name == working:
            shutil.copytree(ROOT / "microgpt_trace", tree / "microgpt_trace")
            shutil.copy(ROOT / "names.txt", tree)
        elif not tree.exists():
            git("worktree", "add", "--force", "--detach", str(tree), name)
        trees.append(tree)
        running += start(tree, folder, folder / name, max((os.cpu_count() or 1) // len(missing), 1))
    failed = [child.args for child in running if child.wait()]
    for tree in trees:
        if (tree / ".git").exists():
            git("worktree", "remove", "--force", str(tree))
        shutil.rmtree(tree, ignore_errors=True)
    if failed:
        raise SystemExit(f"behaviour.py: this process failed: {failed[0]}")
    for name in hashes:
        (folder / name / "done").touch()
    return [folder / name for name in hashes]


def comparable(name: str, data: bytes, results: Path, folder: Path, line: Line) -> bytes:
    """Replace everything that differs between two runs of the same code."""
    if name.endswith(".safetensors"):
        data = with_sorted_header(data)
    for path, word in ((results, b"RESULTS"), (folder / "inputs", b"INPUTS")):
        data = data.replace(str(path).encode(), word)
    for pattern, word in VARIES:
        data = pattern.sub(word, data)
    if name == "stderr":
        data = PROGRESS.sub(b"", data)
    return TIMED.sub(b"#", data) if "--time" in line.words else data


def with_sorted_header(data: bytes) -> bytes:
    """Sort the header of a safetensors file by name, since the library writes it in any order."""
    try:
        size = int.from_bytes(data[:8], "little")
        header = json.dumps(json.loads(data[8 : 8 + size]), sort_keys=True).encode()
        return len(header).to_bytes(8, "little") + header + data[8 + size :]
    except ValueError:
        return data


def outputs(results: Path, number: int, folder: Path, line: Line) -> dict[str, bytes]:
    """Return all output of a command by name."""
    base = results / f"{number:04}"
    kinds = {"exit code": "code", "stdout": "out", "stderr": "err", "deleted inputs": "gone"}
    paths = {name: Path(f"{base}.{end}") for name, end in kinds.items()}
    paths |= {f"file {path.relative_to(base)}": path for path in sorted(base.rglob("*"))}
    return {
        name: comparable(name, path.read_bytes(), results, folder, line)
        for name, path in paths.items()
        if path.is_file()
    }


def arrays(data: bytes) -> dict[str, np.ndarray] | None:
    """Return the arrays of a safetensors or .npy file, or None if the data is neither."""
    try:
        return {"": np.load(io.BytesIO(data))} if data.startswith(b"\x93NUMPY") else dict(load(data))
    except Exception:
        return None


def describe(before: bytes, after: bytes) -> Iterator[str]:
    """Describe a difference: by name for arrays, as a diff for text, and by the first byte for other data."""
    a, b = arrays(before), arrays(after)
    if a is not None and b is not None:
        for name in dict.fromkeys([*a, *b]):
            if name not in a or name not in b:
                yield f"array {name}: only {'before' if name in a else 'after'}"
            elif a[name].tobytes() != b[name].tobytes() or a[name].shape != b[name].shape:
                same = a[name].shape == b[name].shape
                distance = np.abs(a[name].astype(float) - b[name]).max() if same else np.nan
                yield f"array {name}: {a[name].shape} {b[name].shape}, largest difference {distance:.3g}"
        return
    try:
        texts = [data.decode().splitlines() for data in (before, after)]
    except UnicodeDecodeError:
        at = next((i for i, (x, y) in enumerate(zip(before, after, strict=False)) if x != y), None)
        yield f"{len(before):,} and {len(after):,} bytes, the first difference is at byte {at}"
        return
    yield from list(difflib.unified_diff(*texts, "before", "after", n=0, lineterm=""))[2:]


def differences(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """List all differences between the outputs of one command."""
    result = []
    for name in dict.fromkeys([*before, *after]):
        if name not in before or name not in after:
            result.append(f"  {name}: only {'before' if name in before else 'after'}")
        elif before[name] != after[name]:
            lines = list(describe(before[name], after[name]))
            cut = [text if len(text) < WIDEST else f"{text[:WIDEST]}…" for text in lines[:SHOWN]]
            more = [f"... {len(lines) - SHOWN:,} more lines"] if len(lines) > SHOWN else []
            result += [f"  {name}:", *(f"    {text}" for text in (*cut, *more))]
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("base", help="commit to compare with")
    parser.add_argument("other", nargs="?", help="commit to check; default: the working tree")
    parser.add_argument("--only", default="", metavar="WORD", help="run only commands that contain this text")
    parser.add_argument("--fresh", action="store_true", help="first delete the results of earlier runs")
    options = parser.parse_args()
    commands = [line for line in lines() if options.only in line.words]
    if options.fresh:
        shutil.rmtree(KEPT, ignore_errors=True)
    folder = folder_of(commands)
    models = file_states(folder / "inputs" / "models")
    pair = run_all([options.base, options.other], folder)
    if file_states(folder / "inputs" / "models") != models:
        raise SystemExit("A command changed the shared models. Find it, and run again with --fresh.")
    changed = 0
    for number, line in enumerate(commands):
        before, after = (outputs(results, number, folder, line) for results in pair)
        if report := differences(before, after):
            changed += 1
            command = f"python -c ... {line.words}" if line.code else f"microgpt {line.words}"
            print("\n".join([f"$ {command} {dict(line.environment) or ''}".rstrip(), *report, ""]))
    codes = [int((pair[0] / f"{number:04}.code").read_text()) for number in range(len(commands))]
    count = ", ".join(f"{codes.count(code)} with {code}" for code in sorted(set(codes)))
    if options.other is None:
        shutil.rmtree(pair[1])
    print(f"{len(commands)} commands; exit codes of BASE: {count}\n{changed} commands differ")
    raise SystemExit(bool(changed))


if __name__ == "__main__":
    main()

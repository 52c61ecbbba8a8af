"""Interrupt commands at random moments, and check how they end.

They must end with exit code 130, or 0 if they had finished. They may only report what they saved, and must
leave complete files.

    python tests/attacks/interruptions.py --count 300 --seed 1

Before the first line of the program runs, Python handles Ctrl-C. The process reports through a pipe when that
line has run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

from safetensors import safe_open

from microgpt_trace import init, save, trace
from microgpt_trace.dumps.stored_arrays import save_arrays

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "trace emma", "trace emma --save a.safetensors --plot probs=a.svg --html a.html --json --out a.json",
    "train --steps 3000 --log a.jsonl --out a.safetensors --autosave 0.05", "patch emma emmy --html a.html",
    "survey --limit 2000 --out a.safetensors", "survey --limit 2000 --workers 2 --out a.safetensors",
    "sample -n 300 --model m.safetensors", "diff m.safetensors d.safetensors --json --out a.json", "--help",
)  # fmt: skip
NOTES = ("step ", "interrupted at step ", "interrupted: a.safetensors contains ", "saved ")
REPORT_START = """
import os, sys
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "microgpt_trace.cli" and sys.argv[0] != "-c":
            os.write(int(os.environ["STARTED"]), b"started")
sys.meta_path.insert(0, Finder())
"""


def interrupt(base: Path, command: str, number: int, seconds: float) -> tuple[bool, int, list[str]]:
    """Run a command in a folder with a model and its dump, and send it a signal after some seconds.

    Returns True if the program had started by then, the exit code, and the problems.
    """
    with tempfile.TemporaryDirectory(dir=base) as name:
        folder = Path(name)
        for path in base.glob("*.safetensors"):
            (folder / path.name).symlink_to(path)
        reader, writer = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "microgpt_trace", *command.split()], cwd=folder, encoding="utf-8",
            env={**os.environ, "PYTHONPATH": f"{base}:{ROOT}", "STARTED": str(writer)}, pass_fds=[writer],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        os.close(writer)
        started = False
        try:
            _, stderr = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            started = select.select([reader], [], [], 0)[0] != []
            os.killpg(process.pid, number)  # to all processes of the command, as a terminal does
            _, stderr = process.communicate(timeout=60)
        os.close(reader)
        return started, process.returncode, [*_problems(process.returncode, number, stderr, folder)]


def _duration(base: Path, command: str) -> float:
    """Return the seconds that a command takes without an interruption."""
    interrupt(base, command, signal.SIGKILL, 60.0)
    start = time.monotonic()
    assert interrupt(base, command, signal.SIGKILL, 60.0)[1:] == (0, []), command
    return time.monotonic() - start


def _problems(code: int, number: int, stderr: str, folder: Path) -> Iterator[str]:
    codes = [0, 130, -15] if number == signal.SIGTERM else [0, 130]
    if code not in codes:
        yield f"exit code {code}"
    if code != 0 and [line for line in stderr.splitlines() if not line.startswith(NOTES)]:
        yield f"stderr: {stderr}"
    for path in folder.iterdir():
        if path.name.startswith(".") or path.suffix in (".tmp", ".lock") or ".2" in path.name:
            yield f"left behind: {path.name}"
        elif path.suffix == ".safetensors":
            with safe_open(path, "np") as file:
                file.keys()
        elif path.suffix in (".json", ".jsonl"):
            text = path.read_text("utf-8")
            for document in text.splitlines() if path.suffix == ".jsonl" else [text]:
                json.loads(document)
        elif not path.read_bytes().rstrip().endswith(b">"):
            yield f"cut short: {path.name}"
    log, checkpoint = folder / "a.jsonl", folder / "a.safetensors"
    if log.exists() and number == signal.SIGINT and not checkpoint.exists():
        yield "a log without a checkpoint"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng, ends, broken = random.Random(options.seed), Counter[tuple[bool, int]](), 0
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "sitecustomize.py").write_text(REPORT_START)
        save(init(), base / "m.safetensors")
        save_arrays(trace(init(), "emma", values=True), base / "d.safetensors")
        seconds_of = cache(partial(_duration, base))
        for _ in range(options.count):
            command, number = rng.choice(COMMANDS), signal.SIGTERM if rng.random() < 0.1 else signal.SIGINT
            seconds = rng.uniform(0.0, 1.05) * seconds_of(command)
            started, code, problems = interrupt(base, command, number, seconds)
            ends[started, code] += 1
            if problems and started:
                broken += 1
                what = f"{command} ({number.name} after {seconds:.3f} s): {code}"
                print(what, *problems, sep="\n", flush=True)
    for (started, code), count in sorted(ends.items()):
        when = "in the program" if started else "before the program started or after it ended"
        print(f"{count} {when}: exit code {code}")
    print(f"{sum(ends.values())} interruptions, {broken} broken promises")
    sys.exit(broken > 0)


if __name__ == "__main__":
    main()

"""Interrupt commands at random moments from their start to their end, and check how they end: with exit code
130, or with 0 if they were done; with no word but of what was saved; and with whole files only.

    python tests/attacks/interruptions.py --count 300 --seed 1

Until the first line of the program has run, Ctrl-C belongs to Python. The process of the command tells by a
pipe when that line has run.
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
NOTES = ("step ", "interrupted at step ", "interrupted: a.safetensors holds ", "saved ")
BEGUN = """
import os, sys
class Told:
    def find_spec(self, name, path=None, target=None):
        if name == "microgpt_trace.cli" and sys.argv[0] != "-c":
            os.write(int(os.environ["TOLD"]), b"begun")
sys.meta_path.insert(0, Told())
"""


def interrupted(base: Path, command: str, number: int, seconds: float) -> tuple[bool, int, list[str]]:
    """Run a command in an empty folder beside a model and a dump of it, and send it a signal after a time.
    Return whether the program had begun by then, how it ended, and what is wrong with that."""
    with tempfile.TemporaryDirectory(dir=base) as name:
        folder = Path(name)
        for path in base.glob("*.safetensors"):
            (folder / path.name).symlink_to(path)
        told, tell = os.pipe()
        process = subprocess.Popen(
            [sys.executable, "-m", "microgpt_trace", *command.split()], cwd=folder, encoding="utf-8",
            env={**os.environ, "PYTHONPATH": f"{base}:{ROOT}", "TOLD": str(tell)}, pass_fds=[tell],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        os.close(tell)
        begun = False
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            begun = select.select([told], [], [], 0)[0] != []
            os.killpg(process.pid, number)  # as a terminal does: all processes of the command
            _, said = process.communicate(timeout=60)
        os.close(told)
        return begun, process.returncode, [*_wrong(process.returncode, number, said, folder)]


def _whole_run(base: Path, command: str) -> float:
    """The seconds that a command takes when nobody interrupts it."""
    interrupted(base, command, signal.SIGKILL, 60.0)
    began = time.monotonic()
    assert interrupted(base, command, signal.SIGKILL, 60.0)[1:] == (0, []), command
    return time.monotonic() - began


def _wrong(code: int, number: int, said: str, folder: Path) -> Iterator[str]:
    codes = [0, 130, -15] if number == signal.SIGTERM else [0, 130]
    if code not in codes:
        yield f"exit code {code}"
    if code != 0 and [line for line in said.splitlines() if not line.startswith(NOTES)]:
        yield f"stderr: {said}"
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
            yield f"cut: {path.name}"
    log, checkpoint = folder / "a.jsonl", folder / "a.safetensors"
    if log.exists() and number == signal.SIGINT and not checkpoint.exists():
        yield "a log without a checkpoint"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    rng, ends, broken = random.Random(wanted.seed), Counter[tuple[bool, int]](), 0
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        (base / "sitecustomize.py").write_text(BEGUN)
        save(init(), base / "m.safetensors")
        save_arrays(trace(init(), "emma", values=True), base / "d.safetensors")
        seconds_of = cache(partial(_whole_run, base))
        for _ in range(wanted.count):
            command, number = rng.choice(COMMANDS), signal.SIGTERM if rng.random() < 0.1 else signal.SIGINT
            seconds = rng.uniform(0.0, 1.05) * seconds_of(command)
            begun, code, wrong = interrupted(base, command, number, seconds)
            ends[begun, code] += 1
            if wrong and begun:
                broken += 1
                print(
                    f"{command} ({number.name} after {seconds:.3f} s): {code}", *wrong, sep="\n", flush=True
                )
    for (begun, code), count in sorted(ends.items()):
        print(f"{count} {'in the program' if begun else 'before it or after its end'}: exit code {code}")
    print(f"{sum(ends.values())} interruptions, {broken} broken promises")
    sys.exit(broken > 0)


if __name__ == "__main__":
    main()

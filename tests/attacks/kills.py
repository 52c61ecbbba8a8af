"""Kill a training run again and again at random moments, resume it each time, and compare what it leaves with
a run that nobody touched.

    python tests/attacks/kills.py --kills 200
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

from microgpt_trace.microgpt.checkpoint import load

ROOT = Path(__file__).parents[2]
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
OPTIONS = ("--log", "log.jsonl", "--trace-every", 500)
AUTOSAVE = ("--autosave", 0.05)


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """Start `microgpt train` in a process of its own that every signal reaches."""

    def all_signals() -> None:
        for number in SIGNALS[1:]:  # a shell's & or nohup has some ignored
            signal.signal(number, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", "microgpt_trace", "train", *map(str, (*arguments, *OPTIONS))], cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        encoding="utf-8", preexec_fn=all_signals,
    )  # fmt: skip


def wait_for_autosave(process: subprocess.Popen[str], checkpoint: Path) -> bool:
    """Wait for the first autosave of the process. False where it ends first."""

    def saved() -> int:
        return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

    before = saved()
    while process.poll() is None:
        if saved() != before:
            return True
        time.sleep(0.005)
    return False


def records(log: Path) -> list[dict[str, object]]:
    """All whole records but those that tell of a start."""
    lines = map(json.loads, log.read_text(encoding="utf-8").split("\n")[:-1])
    return [record for record in lines if record["record"] != "run"]


def killed_run(folder: Path, kills: int, seed: int, steps: int) -> Counter[str]:
    """Kill a run of so many steps so often, or to its end, and return how often by which signal. Raises
    AssertionError where it leaves anything but what an uninterrupted run leaves."""
    rng, ends = random.Random(seed), Counter[str]()
    checkpoint, saved = folder / "run.safetensors", 0
    while ends.total() < kills and saved < steps:
        new = ("--out", checkpoint.name, "--steps", steps, "--force")
        process = start(folder, *(("--resume", checkpoint.name) if checkpoint.exists() else new), *AUTOSAVE)
        begun = rng.random() < 0.8 and wait_for_autosave(process, checkpoint)
        time.sleep(rng.uniform(0.0, 0.4))
        number = rng.choice(SIGNALS if begun else SIGNALS[:3])  # Ctrl-C while Python itself starts is its own
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        ends[number.name] += 1
        assert process.returncode in (130, -number), said
        assert "Traceback" not in said, said
        if checkpoint.exists():
            saved = load(checkpoint).training.step
            logged = max(
                (int(str(record.get("step", 0))) for record in records(folder / "log.jsonl")), default=0
            )
            assert logged >= saved, f"{number.name}: the log lacks {saved - logged} steps of the checkpoint"
            if begun and number != signal.SIGKILL and saved < steps:
                assert (logged, "saved to" in said) == (saved, True), said
    whole = load(checkpoint).training.step == steps
    process = start(folder, "--resume", checkpoint.name, *AUTOSAVE)
    _, said = process.communicate(timeout=600)
    assert process.returncode == (2 if whole else 0), said
    assert ("nothing is left to resume" in said) == whole, said
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    return ends


def check_equal(folder: Path, whole: Path) -> None:
    """Parameters, moments, step and log are those of the uninterrupted run, bit for bit."""
    found, expected = load(folder / "run.safetensors"), load(whole / "run.safetensors")
    np.testing.assert_array_equal(found.params.flat, expected.params.flat)
    np.testing.assert_array_equal(found.training.moments, expected.training.moments)
    assert found.training == expected.training
    assert records(folder / "log.jsonl") == records(whole / "log.jsonl")


def uninterrupted_run(folder: Path, steps: int) -> None:
    """What the others are held against."""
    process = start(folder, "--out", "run.safetensors", "--steps", steps)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        whole = Path(base)
        uninterrupted_run(whole, wanted.steps)
        total = Counter[str]()
        for run in range(wanted.kills):
            (folder := whole / str(run)).mkdir()
            total += killed_run(folder, wanted.kills - total.total(), wanted.seed + run, wanted.steps)
            check_equal(folder, whole)
            print(f"{total.total()} kills, {run + 1} runs ({dict(total)}): equal", flush=True)
            if total.total() >= wanted.kills:
                break


if __name__ == "__main__":
    main()

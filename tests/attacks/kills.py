"""Kill a training run many times at random moments, resume it each time, and compare its files with those of
an uninterrupted run.

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
    """Start `microgpt train` in a process that receives every signal."""

    def all_signals() -> None:
        for number in SIGNALS[1:]:  # a shell's & and nohup make a process ignore some
            signal.signal(number, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", "microgpt_trace", "train", *map(str, (*arguments, *OPTIONS))], cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        encoding="utf-8", preexec_fn=all_signals,
    )  # fmt: skip


def wait_for_autosave(process: subprocess.Popen[str], checkpoint: Path) -> bool:
    """Wait for the first autosave of the process. Return False if the process ends before it."""

    def time_saved() -> int:
        return checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0

    before = time_saved()
    while process.poll() is None:
        if time_saved() != before:
            return True
        time.sleep(0.005)
    return False


def records(log: Path) -> list[dict[str, object]]:
    """Return all complete records except those of a start."""
    lines = map(json.loads, log.read_text(encoding="utf-8").split("\n")[:-1])
    return [record for record in lines if record["record"] != "run"]


def killed_run(folder: Path, kills: int, seed: int, steps: int) -> Counter[str]:
    """Kill a run until it has ended or `kills` is reached. Return the number of kills by signal.

    Raises AssertionError if a run ends in the wrong way, or its log lacks steps of its checkpoint.
    """
    rng, ends = random.Random(seed), Counter[str]()
    checkpoint, saved = folder / "run.safetensors", 0
    while ends.total() < kills and saved < steps:
        new = ("--out", checkpoint.name, "--steps", steps, "--force")
        process = start(folder, *(("--resume", checkpoint.name) if checkpoint.exists() else new), *AUTOSAVE)
        started = rng.random() < 0.8 and wait_for_autosave(process, checkpoint)
        time.sleep(rng.uniform(0.0, 0.4))
        number = rng.choice(SIGNALS if started else SIGNALS[:3])  # Python handles Ctrl-C while it starts
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        ends[number.name] += 1
        assert process.returncode in (130, -number), stderr
        assert "Traceback" not in stderr, stderr
        if checkpoint.exists():
            saved = load(checkpoint).training.step
            steps_logged = [int(str(record.get("step", 0))) for record in records(folder / "log.jsonl")]
            logged = max(steps_logged, default=0)
            assert logged >= saved, f"{number.name}: the log lacks {saved - logged} steps of the checkpoint"
            if started and number != signal.SIGKILL and saved < steps:
                assert (logged, "saved to" in stderr) == (saved, True), stderr
    complete = load(checkpoint).training.step == steps
    process = start(folder, "--resume", checkpoint.name, *AUTOSAVE)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == (2 if complete else 0), stderr
    assert ("nothing is left to resume" in stderr) == complete, stderr
    assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
    return ends


def check_equal(folder: Path, reference: Path) -> None:
    """Check that parameters, moments, step and log equal those of the uninterrupted run, bit for bit."""
    model, expected = load(folder / "run.safetensors"), load(reference / "run.safetensors")
    np.testing.assert_array_equal(model.params.flat, expected.params.flat)
    np.testing.assert_array_equal(model.training.moments, expected.training.moments)
    assert model.training == expected.training
    assert records(folder / "log.jsonl") == records(reference / "log.jsonl")


def uninterrupted_run(folder: Path, steps: int) -> None:
    """Make the run that the others are compared with."""
    process = start(folder, "--out", "run.safetensors", "--steps", steps)
    _, stderr = process.communicate(timeout=600)
    assert process.returncode == 0, stderr


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        reference = Path(base)
        uninterrupted_run(reference, options.steps)
        total = Counter[str]()
        for run in range(options.kills):
            (folder := reference / str(run)).mkdir()
            total += killed_run(folder, options.kills - total.total(), options.seed + run, options.steps)
            check_equal(folder, reference)
            print(f"{total.total()} kills, {run + 1} runs ({dict(total)}): equal", flush=True)
            if total.total() >= options.kills:
                break


if __name__ == "__main__":
    main()

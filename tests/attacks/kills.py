"""Kill a training run again and again at random moments, go on with it each time, and hold what it leaves
against a run that nobody touched.

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
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from microgpt_trace.microgpt.checkpoint import load

ROOT = Path(__file__).parents[2]
SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT]
AUTOSAVE = 0.05  # seconds


@dataclass
class Outcome:
    """What a chain of kills did."""

    kills: dict[str, int] = field(default_factory=dict)
    lost: int = 0  # steps at most that were logged and not saved
    before_a_checkpoint: int = 0  # kills that came before there was anything to go on with


def start(folder: Path, *arguments: object) -> subprocess.Popen[str]:
    """`microgpt train` in a process of its own that every signal reaches."""
    command = [sys.executable, "-m", "microgpt_trace", "train", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        encoding="utf-8", preexec_fn=_all_signals,
    )  # fmt: skip


def _all_signals() -> None:
    for number in SIGNALS[1:]:  # a shell's & or nohup has some ignored
        signal.signal(number, signal.SIG_DFL)


def records(log: Path) -> list[dict[str, object]]:
    """All records but those that tell of a start."""
    lines = map(json.loads, log.read_text(encoding="utf-8").splitlines())
    return [record for record in lines if record["record"] != "run"]


def _changed(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _has_saved(process: subprocess.Popen[str], checkpoint: Path, before: int) -> bool:
    """Wait for the first autosave of the process. False where it ends first."""
    while process.poll() is None:
        if _changed(checkpoint) != before:
            return True
        time.sleep(0.005)
    return False


def _last_step(log: Path) -> int:
    """The last step of a log whose last line may be cut."""
    *whole, _ = log.read_text(encoding="utf-8").split("\n")
    return max((record.get("step", 0) for record in map(json.loads, whole)), default=0)


def killed_run(folder: Path, kills: int, seed: int, steps: int) -> Outcome:
    """A run of so many steps that is killed so often, or to its end. Raises AssertionError where it leaves
    anything but what an uninterrupted run leaves."""
    rng, outcome = random.Random(seed), Outcome()
    options = ["--log", "log.jsonl", "--autosave", AUTOSAVE, "--trace-every", 500]
    checkpoint, log = folder / "run.safetensors", folder / "log.jsonl"
    while sum(outcome.kills.values()) < kills:
        new = ["--out", checkpoint.name, "--steps", steps, "--force"]
        how = ["--resume", checkpoint.name] if checkpoint.exists() else new
        before = _changed(checkpoint)
        process = start(folder, *how, *options)
        begun = rng.random() < 0.8 and _has_saved(process, checkpoint, before)
        time.sleep(rng.uniform(0.0, 0.4))
        number = rng.choice(SIGNALS if begun else SIGNALS[:3])  # Ctrl-C while Python itself starts is its own
        running = process.poll() is None
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
        if not running or process.returncode == 0:
            assert process.returncode == 0, said
            break
        outcome.kills[number.name] = outcome.kills.get(number.name, 0) + 1
        assert process.returncode in (130, -number), said
        assert "Traceback" not in said, said
        if not checkpoint.exists():
            outcome.before_a_checkpoint += 1
            continue
        saved = load(checkpoint).training.step
        lost = _last_step(log) - saved
        assert lost >= 0, f"{number.name}: the log lacks {-lost} steps of the checkpoint"
        if begun and number != signal.SIGKILL and saved < steps:
            assert lost == 0, f"{number.name}: {lost} steps"
            assert "saved to" in said, said
        outcome.lost = max(outcome.lost, lost)
        if saved == steps:  # it was killed while it wrote its report
            break
    whole = load(checkpoint).training.step == steps
    process = start(folder, "--resume", checkpoint.name, *options)
    _, said = process.communicate(timeout=600)
    assert process.returncode == (2 if whole else 0), said
    assert ("nothing is left to resume" in said) == whole, said
    leftovers = [path.name for path in folder.iterdir() if path.name.startswith(".")]
    assert leftovers == [], leftovers
    return outcome


def check_equal(folder: Path, whole: Path) -> None:
    """Parameters, moments, step and log are those of the uninterrupted run, bit for bit."""
    found, expected = load(folder / "run.safetensors"), load(whole / "run.safetensors")
    np.testing.assert_array_equal(found.params.flat, expected.params.flat)
    np.testing.assert_array_equal(found.training.moments, expected.training.moments)
    assert found.training == expected.training
    assert records(folder / "log.jsonl") == records(whole / "log.jsonl")


def uninterrupted_run(folder: Path, steps: int) -> None:
    """What the others are held against."""
    options = ["--log", "log.jsonl", "--trace-every", 500]
    process = start(folder, "--out", "run.safetensors", "--steps", steps, *options)
    _, said = process.communicate(timeout=600)
    assert process.returncode == 0, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--steps", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        whole = Path(base) / "whole"
        whole.mkdir()
        uninterrupted_run(whole, wanted.steps)
        total: dict[str, int] = {}
        lost, runs = 0, 0
        while sum(total.values()) < wanted.kills:
            folder = Path(base) / str(runs)
            folder.mkdir()
            left = wanted.kills - sum(total.values())
            outcome = killed_run(folder, left, wanted.seed + runs, wanted.steps)
            check_equal(folder, whole)
            runs, lost = runs + 1, max(lost, outcome.lost)
            total = {
                name: total.get(name, 0) + outcome.kills.get(name, 0) for name in {*total, *outcome.kills}
            }
            said = ", ".join(f"{count} {name}" for name, count in sorted(total.items()))
            print(
                f"{sum(total.values())} kills, {runs} runs ({said}): equal; at most {lost} logged steps lost",
                flush=True,
            )


if __name__ == "__main__":
    main()

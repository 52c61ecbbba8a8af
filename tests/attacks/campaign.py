"""Attack the tool with hostile files and command lines, each attack in a child process of limited memory,
and report every promise that it broke with what shows it again.

    python tests/attacks/campaign.py --seconds 600 --seed 7
    python tests/attacks/campaign.py --seed 7 --only 1234              make one attack of that run again
    python tests/attacks/campaign.py --seed 7 --only 1234 --keep DIR   leave its files in the folder instead
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
LAST = 30  # lines of a child's stderr that are shown where it dies


@dataclass
class Campaign:
    """What the children have told so far."""

    seed: int
    base: Path
    step: int
    until: float | None
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    broken: dict[str, list[str]] = field(default_factory=dict)  # promise -> what shows it
    lock: threading.Lock = field(default_factory=threading.Lock)

    def child(self, *arguments: object) -> subprocess.Popen[str]:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS.parent), str(TESTS)))}
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            environment[name] = "1"
        command = [sys.executable, "-m", "attacks.shard", str(self.base), *map(str, arguments)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, encoding="utf-8",
            errors="replace",
        )  # fmt: skip

    def attack_from(self, first: int) -> None:
        """Every step-th attack from the first; a child that dies is followed by another."""
        while True:
            begun = self._one_child(first)
            if begun is None or self.until is None or time.time() > self.until:
                return
            first = begun + self.step

    def _one_child(self, first: int) -> int | None:
        """The attack that the child died of, None where it ended well."""
        until = [] if self.until is None else ["--until", self.until]
        process = self.child("--seed", self.seed, "--first", first, "--step", self.step, *until)
        assert process.stdout is not None
        assert process.stderr is not None
        said: list[str] = []
        reader = threading.Thread(target=lambda: said.extend(process.stderr or ()))
        reader.start()
        begun: dict[str, Any] | None = None
        for line in process.stdout:
            record = json.loads(line)
            begun = record.get("begun")
            if begun is None:
                self._note(record)
        code = process.wait()
        reader.join()
        if code == 0:
            return None
        if begun is None:
            raise SystemExit(f"the child itself failed with exit code {code}\n{''.join(said)}")
        broken = [f"it ends the process, exit code {code}\n{''.join(said[-LAST:])}"]
        self._note(begun | {"code": None, "broken": broken})
        return int(begun["number"])

    def _note(self, record: dict[str, Any]) -> None:
        with self.lock:
            self.ends[record["kind"], str(record["code"])] += 1
            for promise in record["broken"]:
                shown = self.broken.setdefault(summary(promise), [])
                shown.append(f"attack {record['number']}: {record['command']}  {record['done']}\n{promise}")
                if len(shown) == 1:
                    print(f"\n{shown[0]}", flush=True)

    def report(self, seconds: float) -> str:
        total = self.ends.total()
        lines = [f"{total:,} attacks in {seconds:,.0f} s, {total / max(seconds, 1e-9):.1f} a second"]
        for kind in sorted({kind for kind, _ in self.ends}):
            counts = sorted((code, count) for (one, code), count in self.ends.items() if one == kind)
            lines.append(f"  {kind}: " + ", ".join(f"{count:,} ended with {code}" for code, count in counts))
        lines.append(f"{len(self.broken):,} kinds of broken promises")
        lines += [
            f"  {len(shown):,} x {promise}\n    {shown[0].splitlines()[0]}"
            for promise, shown in self.broken.items()
        ]
        return "\n".join(lines)


def summary(promise: str) -> str:
    """What is the same in two ways of breaking a promise: its first line, or where an exception came from."""
    lines = promise.rstrip().splitlines()
    places = [
        line.strip() for line in lines if line.lstrip().startswith("File ") and "microgpt_trace" in line
    ]
    place = places[-1].rpartition("microgpt_trace")[2] if places else ""
    return f"{lines[0][:90]} {lines[-1][:120] if place else ''} {place}".strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--first", type=int, default=0, help="The first attack's number.")
    parser.add_argument("--only", type=int, metavar="N", help="This attack alone.")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="With --only: leave its files here.")
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = wanted.keep or Path(folder)
        until = None if wanted.only is not None else time.time() + wanted.seconds
        jobs = 1 if wanted.only is not None else wanted.jobs
        campaign = Campaign(wanted.seed, base, jobs, until)
        _, said = (process := campaign.child("--prepare")).communicate()
        if process.returncode:
            raise SystemExit(said)
        if wanted.keep is not None:
            print(campaign.child("--seed", wanted.seed, "--first", wanted.only, "--keep").communicate()[0])
            return
        first = wanted.first if wanted.only is None else wanted.only
        began = time.monotonic()
        with ThreadPoolExecutor(jobs) as pool:
            for _ in pool.map(campaign.attack_from, range(first, first + jobs)):
                pass
        print(campaign.report(time.monotonic() - began))
    raise SystemExit(1 if campaign.broken else 0)


if __name__ == "__main__":
    main()

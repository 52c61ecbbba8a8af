"""Attack the tool with hostile files and command lines, in processes with limited memory. Report each broken
promise with the command that repeats it. Run with PYTHONPATH=tests:

    python -m attacks.campaign --seconds 600 --seed 7
    python -m attacks.campaign --seed 7 --only 1234              repeat one attack of that campaign
    python -m attacks.campaign --seed 7 --only 1234 --keep DIR   only write its files to DIR
"""

from __future__ import annotations

import argparse
import faulthandler
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from multiprocessing import get_context
from pathlib import Path

from .attack import Attack, Attacker, prepare
from .surroundings import memory_limited

AT_ONCE = 50  # attacks per process between two looks at the clock


def run_attack(base: Path, seed: int, number: int) -> Attack:
    """Run one attack. If it hangs, the process ends."""
    attacker = Attacker(base, seed)
    faulthandler.dump_traceback_later(3 * attacker.seconds, exit=True)
    try:
        with memory_limited():
            return attacker(number)
    finally:
        faulthandler.cancel_dump_traceback_later()


def attacks(base: Path, seed: int, numbers: Sequence[int], jobs: int) -> Iterator[Attack]:
    """Run these attacks. Repeat those whose process ended, each in a process of its own."""
    lost = []
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = [pool.submit(run_attack, base, seed, number) for number in numbers]
        for number, future in zip(numbers, futures, strict=True):
            try:
                yield future.result()
            except BrokenProcessPool:
                lost.append(number)
    if len(numbers) > 1:
        for number in lost:
            yield from attacks(base, seed, [number], 1)
    elif lost:
        attack = Attacker(base, seed).prepare(lost[0])
        attack.ended.broken.append("it ends the process")
        yield attack


def summary(promise: str) -> str:
    """Return what equal broken promises have in common: the first line, or the place of an exception."""
    lines = promise.rstrip().splitlines()
    files = [line.strip() for line in lines if line.lstrip().startswith("File ") and "microgpt_trace" in line]
    place = files[-1].rpartition("microgpt_trace")[2] if files else ""
    return f"{lines[0][:90]} {lines[-1][:120] if place else ''} {place}".strip()


def campaign(base: Path, seed: int, seconds: float, jobs: int) -> Iterator[Attack]:
    """Run attacks from number 0 on until the time is over."""
    until = time.monotonic() + seconds
    for first in count(0, AT_ONCE * jobs):
        yield from attacks(base, seed, range(first, first + AT_ONCE * jobs), jobs)
        if time.monotonic() > until:
            return


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", type=int, metavar="N", help="Run only the attack with this number.")
    keep = "With --only: only write the files of the attack to this folder."
    parser.add_argument("--keep", type=Path, metavar="DIR", help=keep)
    options = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    with tempfile.TemporaryDirectory() as folder:
        base, start = options.keep or Path(folder), time.monotonic()
        prepare(base)
        if options.keep is not None:
            attacker = Attacker(base, options.seed)
            attack = attacker.prepare(options.only)
            print(f"{attacker.folder}\n{attack.shell}  {attack.damage}")
            return
        if options.only is None:
            results = campaign(base, options.seed, options.seconds, options.jobs)
        else:
            results = attacks(base, options.seed, [options.only], 1)
        ends, broken = Counter[tuple[str, str]](), Counter[str]()
        for attack in results:
            ends[attack.kind, str(attack.ended.code)] += 1
            for promise in attack.ended.broken:
                broken[summary(promise)] += 1
                if broken[summary(promise)] == 1:
                    print(f"\nattack {attack.number}: {attack.shell}  {attack.damage}\n{promise}", flush=True)
    seconds = time.monotonic() - start
    print(f"{ends.total():,} attacks in {seconds:,.0f} s, {ends.total() / seconds:.1f} per second")
    for (kind, code), times in sorted(ends.items()):
        print(f"  {kind}: {times:,} ended with {code}")
    print(f"{len(broken):,} kinds of broken promises")
    for promise, times in broken.items():
        print(f"  {times:,} x {promise}")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()

"""Attack the tool with hostile files and command lines, in processes of limited memory, and report each
promise that it broke with what shows it again. With PYTHONPATH=tests:

    python -m attacks.campaign --seconds 600 --seed 7
    python -m attacks.campaign --seed 7 --only 1234              make one attack of that run again
    python -m attacks.campaign --seed 7 --only 1234 --keep DIR   leave its files in the folder instead
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

AT_ONCE = 50  # attacks a process makes before the time is looked at


def attacked(base: Path, seed: int, number: int) -> Attack:
    """Make one attack; a process that hangs in it ends."""
    attacker = Attacker(base, seed)
    faulthandler.dump_traceback_later(3 * attacker.seconds, exit=True)
    try:
        with memory_limited():
            return attacker(number)
    finally:
        faulthandler.cancel_dump_traceback_later()


def attacks(base: Path, seed: int, numbers: Sequence[int], jobs: int) -> Iterator[Attack]:
    """Make these attacks; those that a process did not live to tell of once more, each in one of its own."""
    lost = []
    with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
        futures = [pool.submit(attacked, base, seed, number) for number in numbers]
        for number, future in zip(numbers, futures, strict=True):
            try:
                yield future.result()
            except BrokenProcessPool:
                lost.append(number)
    if len(numbers) > 1:
        for number in lost:
            yield from attacks(base, seed, [number], 1)
    elif lost:
        attack = Attacker(base, seed).prepared(lost[0])
        attack.ended.broken.append("it ends the process")
        yield attack


def summary(promise: str) -> str:
    """What is the same in two ways of breaking a promise: its first line, or where an exception came from."""
    lines = promise.rstrip().splitlines()
    places = [
        line.strip() for line in lines if line.lstrip().startswith("File ") and "microgpt_trace" in line
    ]
    place = places[-1].rpartition("microgpt_trace")[2] if places else ""
    return f"{lines[0][:90]} {lines[-1][:120] if place else ''} {place}".strip()


def campaign(base: Path, seed: int, seconds: float, jobs: int) -> Iterator[Attack]:
    """Attacks from the first on, while there is time."""
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
    parser.add_argument("--only", type=int, metavar="N", help="This attack alone.")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="With --only: leave its files here.")
    wanted = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    with tempfile.TemporaryDirectory() as folder:
        base, began = wanted.keep or Path(folder), time.monotonic()
        prepare(base)
        if wanted.keep is not None:
            attacker = Attacker(base, wanted.seed)
            attack = attacker.prepared(wanted.only)
            print(f"{attacker.folder}\n{attack.shell}  {attack.done}")
            return
        if wanted.only is None:
            made = campaign(base, wanted.seed, wanted.seconds, wanted.jobs)
        else:
            made = attacks(base, wanted.seed, [wanted.only], 1)
        ends, broken = Counter[tuple[str, str]](), Counter[str]()
        for attack in made:
            ends[attack.kind, str(attack.ended.code)] += 1
            for promise in attack.ended.broken:
                broken[summary(promise)] += 1
                if broken[summary(promise)] == 1:
                    print(f"\nattack {attack.number}: {attack.shell}  {attack.done}\n{promise}", flush=True)
    taken = time.monotonic() - began
    print(f"{ends.total():,} attacks in {taken:,.0f} s, {ends.total() / taken:.1f} a second")
    for (kind, code), times in sorted(ends.items()):
        print(f"  {kind}: {times:,} ended with {code}")
    print(f"{len(broken):,} kinds of broken promises")
    for promise, times in broken.items():
        print(f"  {times:,} x {promise}")
    sys.exit(bool(broken))


if __name__ == "__main__":
    main()

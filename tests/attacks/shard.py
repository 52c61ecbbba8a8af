"""Attacks one after another in a process of limited memory, a line of JSON of each; see campaign.py."""

from __future__ import annotations

import argparse
import faulthandler
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from .attack import Attacker, prepare
from .surroundings import memory_limited


def _put(record: dict[str, object]) -> None:
    """To the parent, whatever stands in the place of stdout."""
    sys.__stdout__.write(json.dumps(record) + "\n")  # type: ignore[union-attr]
    sys.__stdout__.flush()  # type: ignore[union-attr]


def numbers(first: int, step: int, until: float | None) -> Iterator[int]:
    """first, first + step ... while there is time; the first alone without a time."""
    yield first
    while until is not None and time.time() < until:
        first += step
        yield first


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--until", type=float, help="A time since the epoch; without it one attack is made.")
    parser.add_argument("--keep", action="store_true", help="Leave the attack's files and do not run it.")
    wanted = parser.parse_args()
    if wanted.prepare:
        prepare(wanted.folder)
        return
    with memory_limited():
        make_attacks(wanted)


def make_attacks(wanted: argparse.Namespace) -> None:
    """Make all that are wanted, and tell of each."""
    attacker = Attacker(wanted.folder, wanted.seed)
    for number in numbers(wanted.first, wanted.step, wanted.until):
        faulthandler.dump_traceback_later(3 * attacker.seconds, exit=True)
        attack = attacker.prepared(number)
        told = {"number": number, "kind": attack.kind, "done": attack.done, "command": attack.shell}
        if wanted.keep:
            _put(told | {"folder": str(attacker.folder)})
            return
        _put({"begun": told})
        attack.ended = ended = attacker.run(attack)
        _put(told | {"code": ended.code, "seconds": round(ended.seconds, 3), "broken": ended.broken})


if __name__ == "__main__":
    main()

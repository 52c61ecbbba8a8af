"""One attack: damaged files and a command line, which are always the same for a seed and a number."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from .command_lines import RISKY, command_line, option
from .good_files import READERS, make, restore
from .hostile_values import NAMES
from .mutations import mutate_again, replace
from .promise import Ended, Snapshot, run_command, snapshot

KINDS = ("content", "content", "content", "place", "name", "command", "command", "command")


@dataclass
class Attack:
    """An attack and its result."""

    number: int
    kind: str
    damage: str  # in words
    words: list[str]
    environment: dict[str, str]
    ended: Ended = field(default_factory=Ended)

    @property
    def shell(self) -> str:
        """The command line to type in the folder of the attack."""
        setting = " ".join(f"{name}={value}" for name, value in self.environment.items())
        words = " ".join(map(shlex.quote, self.words))
        printable = "".join(c if c.isprintable() else f"<{ord(c):x}>" for c in words)
        return f"{setting} microgpt {printable if len(printable) < 3000 else printable[:3000] + '...'}"


class Attacker:
    """Makes attacks in a folder of its own below `base`, which also has the good files."""

    def __init__(self, base: Path, seed: int, seconds: float = 20.0) -> None:
        self.good, self.folder = base / "good", base / f"work{os.getpid()}"
        self.seed, self.seconds = seed, seconds
        self._clean: Snapshot = {}
        self._damaged: set[str] = set()  # items

    def __call__(self, number: int) -> Attack:
        """Prepare the attack with this number and run it."""
        attack = self.prepare(number)
        attack.ended = self.run(attack)
        return attack

    def clean(self) -> None:
        """Restore the folder to its state before any attack. Restores only the items that the last attack
        damaged or its command changed: the clock may be too coarse to show the damage."""
        if not self._clean:
            shutil.rmtree(self.folder, ignore_errors=True)
            shutil.copytree(self.good, self.folder)
        now = snapshot(self.folder)
        if now == self._clean and not self._damaged:
            return
        if self._clean:
            changed = {name for name in now.keys() | self._clean if now.get(name) != self._clean.get(name)}
            for item in {name.partition("/")[0] for name in changed} | self._damaged:
                restore(self.good / item, self.folder / item)
        make_odd_places(self.folder)
        self._clean, self._damaged = snapshot(self.folder), set()

    def prepare(self, number: int) -> Attack:
        """Return the attack with this number, with its files in the folder."""
        self.clean()
        rng = Random(f"{self.seed}/{number}")
        kind = rng.choice(KINDS)
        environment = {"COLUMNS": rng.choice(("100", "100", "100", "40", "1"))}
        if rng.random() < 0.2:
            environment["FORCE_COLOR"] = "1"
        if kind == "command":
            return Attack(number, kind, "", command_line(rng), environment)
        item = rng.choice(list(READERS))
        words = rng.choice(READERS[item]).split(" ")
        self._damaged = {item}
        damage, name = self._damage(rng, kind, item)
        words = [word.replace("FILE", name) for word in words]
        words += option(rng, words[0]) if rng.random() < 0.2 else []
        return Attack(number, kind, damage, words, environment)

    def run(self, attack: Attack) -> Ended:
        """Run the command of the attack. Raises errors of the harness itself."""
        return run_command(
            attack.words, self.folder, environment=attack.environment, seconds=self.seconds,
            may_need_memory=any(word in RISKY for word in attack.words),
        )  # fmt: skip

    def _damage(self, rng: Random, kind: str, item: str) -> tuple[str, str]:
        """Damage the item, and return the damage in words and the item's name after it."""
        path, here = self.folder / item, Path.cwd()
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        others = sorted(file for file in self.good.rglob("*") if file.is_file())
        if kind == "content":
            return mutate_again(rng, rng.choice(files), rng.choice(others)), item
        if kind == "place":
            os.chdir(self.folder)
            try:
                return replace(rng, rng.choice((path, *files)), rng.choice(others)), item
            finally:
                os.chdir(here)
        name = rng.choice(NAMES).replace("/", "|") + rng.choice(("", path.suffix))
        while len(os.fsencode(name)) > 255:
            name = name[1:]
        path.rename(self.folder / name)
        return f"{item} is renamed to {name!r}", rng.choice((name, f"./{name}"))


def make_odd_places(folder: Path) -> None:
    """Make the other files and folders that command lines may name, unless they are there."""
    places: dict[str, Callable[[Path], None]] = {"folder": Path.mkdir, "empty": Path.touch}
    if sys.platform != "win32":
        places |= {
            "loop": lambda path: path.symlink_to("loop"),
            "dangling": lambda path: path.symlink_to("nowhere"),
            "fifo": os.mkfifo,
            "locked": lambda path: path.mkdir(mode=0o500),
        }
    for name, make_place in places.items():
        if not os.path.lexists(folder / name):
            make_place(folder / name)


def prepare(base: Path) -> None:
    """Make the good files below `base`."""
    shutil.rmtree(base / "good", ignore_errors=True)
    (base / "good").mkdir(parents=True)
    make(base / "good")

"""Measure the time of a training step beside peers, after checking that each peer computes the same."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from statistics import median
from typing import Any

import numpy as np
from peers import PEERS, Peer, Values, installed
from runs import LR, new_trainer, rows_of
from table import print_markdown, print_table

from microgpt_trace import Config

SCHEDULE_STEPS = 1_000_000  # so many that the learning rate hardly falls
COMPARED = 20  # number of first steps whose losses and parameters must equal ours
LOSS_TOLERANCE = 5e-6
UPDATE_TOLERANCE = 1e-3  # as a share of the distance that our parameters moved
TURNS = 8
SLOW = {"plain Python": 2}  # number of turns, of COMPARED steps each
OURS = "microgpt-trace"

Clock = Callable[[], float]


@dataclass(frozen=True)
class Workload:
    """A model and its batch size, with the number of steps per turn."""

    name: str
    config: Config
    batch_size: int
    steps: int
    lr: float = LR
    seed: int = 42
    peers: tuple[str, ...] = tuple(name for name in PEERS if name not in SLOW)


WORKLOADS = (
    Workload("one name", Config(), 1, 1000, peers=tuple(PEERS)),
    Workload("32 names", Config(), 32, 100),
    Workload("256 names", Config(), 256, 20),
    Workload("one name, 2 layers of width 32", Config(n_layer=2, n_head=2, n_embd=32), 1, 400),
    # At a rate of 0.01, 8 layers amplify rounding, so that any two programs differ after 20 steps.
    Workload("one name, 8 layers of width 64", Config(n_layer=8, n_head=4, n_embd=64), 1, 40, 0.001),
    Workload("256 letters, 4 layers of width 32", Config(n_embd=32, n_layer=4, block_size=256), 1, 40, 0.001),
    # With some seeds, programs round an input of a ReLU to different sides of 0, and differ from there on.
    Workload(
        "512 letters, 4 layers of width 128", Config(n_embd=128, n_layer=4, block_size=512), 1, 5, 1e-5, 2
    ),
)


class Ours:
    """Our training in the form of a peer. It prepares its batches while it trains."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.begin()

    def begin(self) -> None:
        work = self.workload
        self.trainer = new_trainer(work.config, SCHEDULE_STEPS, work.batch_size, work.lr, work.seed)
        self.run = self.trainer.run()

    def prepare(self, batches: Sequence[np.ndarray]) -> int:
        return len(batches)

    def train(self, prepared: int) -> list[float]:
        return [record.loss for record in islice(self.run, prepared)]

    def values(self) -> Values:
        return dict(self.trainer.params.items())


@dataclass
class Contender:
    """An implementation and its measurements. Each turn trains on the same names from the same values."""

    name: str
    peer: Peer
    prepared: Any
    steps: int  # per turn
    turns: int
    loss_gap: float
    update_gap: float
    first: float  # s for the first steps, with compilation
    seconds: list[float] = field(default_factory=list)  # seconds per step in each turn

    def take_turn(self, clock: Clock) -> None:
        """Time one turn without garbage collection, which takes two thirds of plain Python's time."""
        self.peer.begin()
        gc.collect()
        gc.disable()
        start = clock()
        self.peer.train(self.prepared)
        self.seconds.append((clock() - start) / self.steps)
        gc.enable()

    @property
    def best(self) -> float:
        return min(self.seconds)


@dataclass(frozen=True)
class Start:
    """Initial values, and the losses and parameters of our first steps."""

    batches: list[np.ndarray]
    values: Values
    losses: list[float]
    after: Values

    @classmethod
    def of(cls, workload: Workload) -> Start:
        ours = Ours(workload)
        values = {name: value.copy() for name, value in ours.values().items()}
        batches = [rows_of(ours.trainer.batch(step), workload.config) for step in range(workload.steps)]
        losses = ours.train(ours.prepare(batches[:COMPARED]))
        return cls(batches, values, losses, ours.values())

    def gaps(self, losses: Sequence[float], after: Values) -> tuple[float, float]:
        """Return the largest difference of a loss, and the distance of the parameters from ours.

        The distance is a share of the distance that our parameters moved.
        """
        assert after.keys() == self.after.keys()
        loss_gap = max(abs(a - b) for a, b in zip(losses, self.losses, strict=True))
        distance = sum(np.square(after[name] - value).sum() for name, value in self.after.items())
        moved = sum(np.square(value - self.values[name]).sum() for name, value in self.after.items())
        return float(loss_gap), float(np.sqrt(distance / moved))


def enter(name: str, peer: Peer, initial: Start) -> Contender:
    """Check the first steps of a peer, and let it take an untimed turn.

    Raises SystemExit if the peer computes something else.
    """
    first_batches = peer.prepare(initial.batches[:COMPARED])
    start = time.perf_counter()
    losses = peer.train(first_batches)
    first = time.perf_counter() - start
    loss_gap, update_gap = initial.gaps(losses, peer.values())
    if not (loss_gap <= LOSS_TOLERANCE and update_gap <= UPDATE_TOLERANCE):
        raise SystemExit(
            f"{name} computes something else. After {COMPARED} steps its losses differ by {loss_gap:.1e} "
            f"(tolerance {LOSS_TOLERANCE}), its parameters by {update_gap:.1e} of the distance "
            f"that ours moved (tolerance {UPDATE_TOLERANCE})."
        )
    batches = initial.batches[:COMPARED] if name in SLOW else initial.batches
    contender = Contender(
        name, peer, peer.prepare(batches), len(batches), SLOW.get(name, TURNS), loss_gap, update_gap, first
    )
    if name not in SLOW:
        peer.begin()
        peer.train(contender.prepared)
    return contender


def contend(workload: Workload, clock: Clock) -> list[Contender]:
    """Measure ours and the installed peers in turns. Ours is the first of the result."""
    initial = Start.of(workload)
    contenders = [enter(OURS, Ours(workload), initial)]
    for name, peer_class in installed(*workload.peers).items():
        peer = peer_class(workload.config, initial.values, SCHEDULE_STEPS, workload.lr)
        contenders.append(enter(name, peer, initial))
    for turn in range(TURNS):
        for contender in contenders:
            if turn < contender.turns:
                contender.take_turn(clock)
    return contenders


def report(clock: Clock, conditions: str) -> None:
    """Print each workload in detail, then the table of docs/benchmarks.md and the peers that are faster."""
    results = {}
    for workload in WORKLOADS:
        results[workload.name] = contenders = contend(workload, clock)
        tokens = np.mean([np.count_nonzero(rows[:, 1:] >= 0) for rows in Start.of(workload).batches])
        ratios = ["ratio of best", "median ratio"]
        header = ["", "best", "median", *ratios, "loss gap", "parameter gap", "steps", f"first {COMPARED}"]
        title = f"One Adam step on {workload.name} ({tokens:,.1f} tokens), {conditions}"
        print_table(title, header, [details(c, contenders[0]) for c in contenders])
    print("The table of docs/benchmarks.md:\n")
    columns = [OURS, *PEERS]
    rows = [[name, *cells(contenders, columns)] for name, contenders in results.items()]
    print_markdown([conditions, *columns], rows)
    print("Faster than ours: " + faster(results) + ".\n", flush=True)


def details(contender: Contender, ours: Contender) -> list[str]:
    turns = zip(contender.seconds, ours.seconds, strict=False)
    return [
        contender.name,
        in_microseconds(contender.best),
        in_microseconds(median(contender.seconds)),
        ratio(contender.best / ours.best),
        ratio(median(theirs / our_time for theirs, our_time in turns)),
        f"{contender.loss_gap:.0e}",
        f"{contender.update_gap:.0e}",
        f"{contender.turns} x {contender.steps:,}",
        f"{contender.first:.1f} s",
    ]


def cells(contenders: Sequence[Contender], columns: Sequence[str]) -> list[str]:
    """Return one row: the best time of each column, and its ratio to ours."""
    ours, *others = contenders
    by_name = {c.name: f"{in_microseconds(c.best)} ({ratio(c.best / ours.best)})" for c in others}
    by_name[ours.name] = in_microseconds(ours.best)
    return [by_name.get(name, "") for name in columns]


def faster(results: dict[str, list[Contender]]) -> str:
    """List the peers that are faster than ours, by workload."""
    parts = []
    for workload, (ours, *others) in results.items():
        names = [f"{c.name} ({ratio(c.best / ours.best)})" for c in others if c.best < ours.best]
        parts += [f"{workload}: {', '.join(names)}"] if names else []
    return "; ".join(parts) or "none"


def in_microseconds(seconds: float) -> str:
    """Return a time in µs, or in s from 0.01 s on."""
    if seconds >= 0.01:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e6:,.0f} µs"


def ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2f}"

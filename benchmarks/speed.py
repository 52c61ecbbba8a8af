"""Time of a training step beside that of the peers, each of which first shows that it computes the same."""

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

SCHEDULE_STEPS = 1_000_000  # a rate that hardly falls: what is measured is a step, not a run
COMPARED = 20  # first steps, whose losses and parameters must be ours
LOSS_TOLERANCE = 5e-6
UPDATE_TOLERANCE = 1e-3  # of the way that our parameters went
TURNS = 8
SLOW = {"plain Python": 2}  # turns of COMPARED steps
OURS = "microgpt-trace"

Clock = Callable[[], float]


@dataclass(frozen=True)
class Workload:
    """What is trained, and how many steps a turn takes."""

    name: str
    config: Config
    batch_size: int
    steps: int
    lr: float = LR
    peers: tuple[str, ...] = tuple(name for name in PEERS if name not in SLOW)


WORKLOADS = (
    Workload("one name", Config(), 1, 1000, peers=tuple(PEERS)),
    Workload("32 names", Config(), 32, 100),
    Workload("256 names", Config(), 256, 20),
    Workload("one name, 2 layers of width 32", Config(n_layer=2, n_head=2, n_embd=32), 1, 400),
    # At a rate of 0.01 a model of 8 layers makes much of rounding: 20 steps then part any two programs.
    Workload("one name, 8 layers of width 64", Config(n_layer=8, n_head=4, n_embd=64), 1, 40, 0.001),
)


class Ours:
    """The package's own training, in the form of a peer: it makes its batches while it trains."""

    def __init__(self, workload: Workload) -> None:
        self.workload = workload
        self.begin()

    def begin(self) -> None:
        work = self.workload
        self.trainer = new_trainer(work.config, SCHEDULE_STEPS, work.batch_size, work.lr)
        self.run = self.trainer.run()

    def prepare(self, batches: Sequence[np.ndarray]) -> int:
        return len(batches)

    def train(self, prepared: int) -> list[float]:
        return [record.loss for record in islice(self.run, prepared)]

    def values(self) -> Values:
        return dict(self.trainer.params.items())


@dataclass
class Contender:
    """A way to train, and what was measured of it. Every turn trains on the same names from the start."""

    name: str
    peer: Peer
    prepared: Any
    steps: int  # in one turn
    turns: int
    loss_gap: float
    update_gap: float
    first: float  # s until the first steps were done: what compiles does it then
    seconds: list[float] = field(default_factory=list)  # per step, one for each turn

    def take_turn(self, clock: Clock) -> None:
        """Without the garbage collector, as in timeit: it takes two thirds of plain Python's time."""
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
class Beginning:
    """Initial values, and what the first steps of ours made of them."""

    batches: list[np.ndarray]
    values: Values
    losses: list[float]
    after: Values

    @classmethod
    def of(cls, workload: Workload) -> Beginning:
        ours = Ours(workload)
        values = {name: value.copy() for name, value in ours.values().items()}
        batches = [rows_of(ours.trainer.batch(step), workload.config) for step in range(workload.steps)]
        losses = ours.train(ours.prepare(batches[:COMPARED]))
        return cls(batches, values, losses, ours.values())

    def gaps(self, losses: Sequence[float], after: Values) -> tuple[float, float]:
        """The largest distance of a loss, and that of all parameters as a share of the way they went."""
        assert after.keys() == self.after.keys()
        loss_gap = max(abs(a - b) for a, b in zip(losses, self.losses, strict=True))
        apart = sum(np.square(after[name] - value).sum() for name, value in self.after.items())
        way = sum(np.square(value - self.values[name]).sum() for name, value in self.after.items())
        return float(loss_gap), float(np.sqrt(apart / way))


def enter(name: str, peer: Peer, beginning: Beginning) -> Contender:
    """Let a peer take the first steps, and a turn to get warm. SystemExit if it computes something else."""
    first_batches = peer.prepare(beginning.batches[:COMPARED])
    start = time.perf_counter()
    losses = peer.train(first_batches)
    first = time.perf_counter() - start
    loss_gap, update_gap = beginning.gaps(losses, peer.values())
    if not (loss_gap <= LOSS_TOLERANCE and update_gap <= UPDATE_TOLERANCE):
        raise SystemExit(
            f"{name} computes something else: after {COMPARED} steps its losses are off by {loss_gap:.1e} "
            f"(allowed {LOSS_TOLERANCE}), its parameters by {update_gap:.1e} of their way "
            f"(allowed {UPDATE_TOLERANCE})"
        )
    batches = beginning.batches[:COMPARED] if name in SLOW else beginning.batches
    contender = Contender(
        name, peer, peer.prepare(batches), len(batches), SLOW.get(name, TURNS), loss_gap, update_gap, first
    )
    if name not in SLOW:
        peer.begin()
        peer.train(contender.prepared)
    return contender


def contend(workload: Workload, clock: Clock) -> list[Contender]:
    """Ours first, then the peers that are installed: all take turns until each has had its own."""
    beginning = Beginning.of(workload)
    contenders = [enter(OURS, Ours(workload), beginning)]
    for name, peer_class in installed(*workload.peers).items():
        peer = peer_class(workload.config, beginning.values, SCHEDULE_STEPS, workload.lr)
        contenders.append(enter(name, peer, beginning))
    for turn in range(TURNS):
        for contender in contenders:
            if turn < contender.turns:
                contender.take_turn(clock)
    return contenders


def report(clock: Clock, conditions: str) -> None:
    """Each workload in detail, then the table of docs/benchmarks.md, and where ours is slower."""
    results = {}
    for workload in WORKLOADS:
        results[workload.name] = contenders = contend(workload, clock)
        tokens = np.mean([np.count_nonzero(rows[:, 1:] >= 0) for rows in Beginning.of(workload).batches])
        header = [
            "",
            "best",
            "median",
            "to ours: best",
            "median",
            "loss gap",
            "parameter gap",
            "steps",
            "first 20",
        ]
        title = f"One Adam step on {workload.name} ({tokens:,.1f} tokens), {conditions}"
        print_table(title, header, [details(c, contenders[0]) for c in contenders])
    print("In docs/benchmarks.md:\n")
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
        ratio(median(theirs / own for theirs, own in turns)),
        f"{contender.loss_gap:.0e}",
        f"{contender.update_gap:.0e}",
        f"{contender.turns} x {contender.steps:,}",
        f"{contender.first:.1f} s",
    ]


def cells(contenders: Sequence[Contender], columns: Sequence[str]) -> list[str]:
    """Of one row, by column: the best time, and how many times ours that is."""
    by_name, ours = {c.name: c for c in contenders}, contenders[0]
    found = [by_name.get(name) for name in columns]
    return [
        ""
        if c is None
        else in_microseconds(c.best) + (f" ({ratio(c.best / ours.best)})" if c is not ours else "")
        for c in found
    ]


def faster(results: dict[str, list[Contender]]) -> str:
    lost = {
        workload: [
            f"{c.name} ({ratio(c.best / contenders[0].best)})"
            for c in contenders
            if c.best < contenders[0].best
        ]
        for workload, contenders in results.items()
    }
    return (
        "; ".join(f"{workload}: {', '.join(names)}" for workload, names in lost.items() if names) or "nobody"
    )


def in_microseconds(seconds: float) -> str:
    """Three digits."""
    if seconds >= 0.01:
        return f"{seconds:.2f} s"
    return f"{seconds * 1e6:,.0f} µs"


def ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 9.95 else f"{value:.2f}"

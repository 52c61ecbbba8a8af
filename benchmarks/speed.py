"""CPU time of a training step, at one name and at 256 names, beside that of the peers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
from peers import installed
from runs import new_trainer, rows_of
from table import print_table

from microgpt_trace import Config

SCHEDULE_STEPS = 1_000_000  # a rate that hardly falls: what is measured is a step, not a run
COMPARED = 20  # first losses


@dataclass
class Contender:
    """A way to train, and what was measured of it. Peers train on from turn to turn."""

    name: str
    start: Callable[[], Iterator[float]]  # the losses of the same names at every turn
    steps: int  # in one turn
    turns: int
    seconds: list[float] = field(default_factory=list)  # CPU time per step, one for each turn
    losses: list[float] = field(default_factory=list)  # of the first turn

    def take_turn(self) -> None:
        steps = self.start()
        start = time.process_time()
        losses = list(islice(steps, self.steps))
        self.seconds.append((time.process_time() - start) / self.steps)
        self.losses = self.losses or losses

    @property
    def best(self) -> float:
        return min(self.seconds)


def contend(contenders: Sequence[Contender]) -> None:
    """Take turns until each has had its own."""
    for turn in range(max(c.turns for c in contenders)):
        for contender in contenders:
            if turn < contender.turns:
                contender.take_turn()


def line_up(
    config: Config, batch_size: int, names: Sequence[str], steps: int, turns: int
) -> tuple[list[Contender], list[np.ndarray]]:
    """Ours first, then the peers by name; with them the rows of every step."""
    trainer = new_trainer(config, SCHEDULE_STEPS, batch_size)
    rows = [rows_of(trainer.batch(step), config) for step in range(steps)]
    values = {name: value.copy() for name, value in trainer.params.items()}

    def ours() -> Iterator[float]:
        fresh = new_trainer(config, SCHEDULE_STEPS, batch_size)
        return (record.loss for record in fresh.run())

    contenders = [Contender("ours", ours, steps, turns)]
    for name, peer_class in installed(*names).items():
        step = peer_class(config, values, SCHEDULE_STEPS, 0.01).step
        own_steps, own_turns = (COMPARED, 2) if name == "scalar autograd" else (steps, turns)
        contenders.append(Contender(name, lambda step=step: map(step, rows), own_steps, own_turns))
    return contenders, rows


def report_step() -> None:
    names = ("scalar autograd", "PyTorch eager", "JAX jit")
    report_step_of("One Adam step on one name: 1 layer, 4 heads, width 16", Config(), names, 1000)
    config = Config(n_layer=2, n_head=2, n_embd=32)
    report_step_of("One Adam step on one name: 2 layers, 2 heads, width 32", config, names[1:], 400)


def report_step_of(title: str, config: Config, names: Sequence[str], steps: int) -> None:
    contenders, _ = line_up(config, 1, names, steps, turns=8)
    contend(contenders)
    ours = contenders[0].best
    rows = [
        [
            c.name,
            f"{c.best * 1e6:,.1f} µs",
            f"{c.best / ours:,.2f} x",
            f"{c.steps:,}",
            loss_gap(c, contenders),
        ]
        for c in contenders
    ]
    header = ["", "CPU time", "to ours", "names", "largest gap in loss"]
    print_table(title, header, rows)


def report_batch() -> None:
    contenders, rows = line_up(Config(), 256, ("PyTorch eager", "JAX jit"), steps=COMPARED, turns=8)
    contend(contenders)
    tokens = sum(np.count_nonzero(r[:, 1:] >= 0) for r in rows) / len(rows)
    ours = contenders[0].best
    table = [
        [
            c.name,
            f"{c.best * 1e6:,.0f} µs",
            f"{tokens / c.best:,.0f}",
            f"{c.best / ours:.2f} x",
            loss_gap(c, contenders),
        ]
        for c in contenders
    ]
    title = f"One Adam step on 256 names, {tokens:,.0f} tokens, preparation included"
    print_table(title, ["", "CPU time", "tokens/s", "to ours", "largest gap in loss"], table)


def loss_gap(contender: Contender, contenders: Sequence[Contender]) -> str:
    """How far the first losses lie from ours: it shows that all compute the same."""
    ours = contenders[0]
    if contender is ours:
        return ""
    both = zip(contender.losses[:COMPARED], ours.losses[:COMPARED], strict=True)
    return f"{max(abs(theirs - own) for theirs, own in both):.1e} in {COMPARED} steps"

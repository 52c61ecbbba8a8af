"""A decoder's layers at a glance: a hook that measures what the overview, the insights and the rules
need, as the values pass. Keeps a few numbers a layer."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np

from ..architecture.plans.kinds import Activation, Softmax
from ..arrays.stats import Array, median, row_medians
from ..hooks.event import TraceEvent
from ..measuring.definitions import NEAR_ZERO
from ..measuring.norms import NormMeter
from .findings import FEWEST_TOKENS
from .result import Compared, LayerRow

if TYPE_CHECKING:
    from ..architecture.plans.plan import Plan

MOST = 16  # positions that the rules compare: more tell no more
RULING = 150  # times the median magnitude of its row: SmolLM2 has up to 140 and, where massive, 200 to 750
SQUARED_SAFELY = 1e-15  # a norm from which on its largest squares have their full precision in float32


class Overview:
    """Subscribe it to `names` with statistics; then `rows`.

    `parameter` gives the gains of norms by their names; `tokens` are those that are read.
    """

    def __init__(self, plan: Plan, parameter: Callable[[str], Array], tokens: Sequence[int]) -> None:
        self._plan = plan
        self._meter = NormMeter(plan, parameter, [(read, own) for own, read in plan.branches.items()])
        self.norms = self._meter.rows  # what the norms made of every row
        wanted = {*self._meter.names, *plan.streams, *plan.branches}
        wanted.update(row.name for row in plan.of_kind(Softmax, Activation))
        self.names = [name for name in plan if name in wanted]
        self._witnesses = compared_positions(tokens)
        self._usual = np.ones(len(self._witnesses), bool)  # those that carried no massive activation so far
        self._entered = np.empty((0, 0))  # the stream before the layer
        self._measured: dict[str, Any] = {}
        self._compared: dict[str, Array] = {}  # by witness
        # of every layer: what its row has, which witnesses are usual up to there, and what each says
        self._layers: list[tuple[dict[str, Any], Array, dict[str, Array]]] = []

    def __call__(self, event: TraceEvent, value: Array) -> None:
        self._meter(event, value)
        kind = self._plan[event.name].kind
        if event.name in self._plan.branches:
            stream = self._meter.read[self._plan.branches[event.name]]
            self._measured[f"{event.stage}_share"] = median(row_norms(value) / row_norms(stream))
            self._compared[event.stage] = typical_of_rows(value[self._witnesses])
        if event.name == self._plan.streams[0]:
            self._enter(value)
        elif event.name in self._plan.streams:
            self._finish(event, value)
        elif isinstance(kind, Softmax):
            self._measured["sink"] = float(value[:, 1:, 0].mean()) if value.shape[1] > 1 else None
        elif isinstance(kind, Activation):
            small = np.abs(value) <= NEAR_ZERO
            share = float(np.count_nonzero(small) / small.size)
            self._measured |= {"near_zero": share, "near_zero_threshold": NEAR_ZERO}
            self._compared["passing"] = 1 - small[self._witnesses].mean(axis=1)

    def _enter(self, stream: Array) -> None:
        """Begin a layer that reads this stream."""
        self._entered = stream.copy()
        self._measured, self._compared = {}, {}
        self._usual = self._usual & ~ruled_by_one(stream[self._witnesses])

    def _finish(self, event: TraceEvent, value: Array) -> None:
        place = int(np.abs(value).argmax())
        norms = row_norms(value)
        products = np.einsum("tc,tc->t", value, self._entered)
        cosines = np.clip(products / (norms * row_norms(self._entered)), -1, 1)  # but for rounding
        before, after = (typical_of_rows(x[self._witnesses]) for x in (self._entered, value))
        growth = np.divide(after, before, out=np.full(len(before), math.nan), where=before > 0)
        compared = self._compared | {"turn": cosines[self._witnesses], "growth": growth}
        row = self._measured | {
            "layer": event.layer,
            "stream": event.stats,
            "row_norm": median(norms),
            "typical": median(np.abs(value)),
            "turn": median(cosines),
            "peak": float(value.flat[place]),
            "peak_position": place // value.shape[1],
            "peak_channel": place % value.shape[1],
        }
        self._enter(value)  # which tells who carries a massive activation from here on
        self._layers.append((row, self._usual, compared))

    def rows(self, events: Iterable[TraceEvent]) -> tuple[LayerRow, ...]:
        """A row per layer, with what is not finite in any of the events."""
        nans, infs = Counter[int | None](), Counter[int | None]()
        for event in events:
            assert event.stats is not None
            nans[event.layer] += event.stats.nan_count
            infs[event.layer] += event.stats.inf_count
        several = takewhile(lambda layer: layer[1].sum() >= FEWEST_TOKENS, self._layers)
        enough = [usual for _, usual, _ in several]
        return tuple(
            LayerRow(
                **row, compared=_compared(enough[-1] if i < len(enough) else usual, found),
                nan_count=nans[row["layer"]], inf_count=infs[row["layer"]],
            )
            for i, (row, usual, found) in enumerate(self._layers)
        )  # fmt: skip


def _compared(chosen: Array, found: Mapping[str, Array]) -> Compared | None:
    """What the rules compare of a layer: the same positions in all, up to where too few are left. A position
    whose massive activation a layer writes is none of its witnesses."""
    if not chosen.any():
        return None
    return Compared(int(chosen.sum()), **{name: median(values[chosen]) for name, values in found.items()})


def compared_positions(tokens: Sequence[int]) -> Array:
    """Where each token stands last, at most MOST positions spread evenly, and never position 0.

    In sound models position 0 carries massive activations, and so does a token repeated from there on,
    which sees nothing else: many equal tokens are one witness.
    """
    last = sorted({token: position for position, token in enumerate(tokens)}.values())
    later = [position for position in last if position > 0]
    count = min(len(later), MOST)
    return np.array([later[i * len(later) // count] for i in range(count)], dtype=np.intp)


def ruled_by_one(rows: Array) -> Array:
    """Which rows one element rules: [n, C] -> [n] of booleans"""
    size = np.abs(rows)
    return size.max(axis=1) > RULING * np.partition(size, size.shape[1] // 2, axis=1)[:, size.shape[1] // 2]


def row_norms(x: Array) -> Array:
    """The L2 norm of every row: [T, C] -> [T]"""
    norms = np.sqrt(np.einsum("tc,tc->t", x, x))
    if not ((norms > SQUARED_SAFELY) & (norms < np.inf)).all():  # squares that leave float32
        norms = np.sqrt(np.einsum("tc,tc->t", x, x, dtype=np.float64))
    return norms


def typical_of_rows(x: Array) -> Array:
    """The median magnitude of each row, which the few massive elements of sound models do not move:
    [n, C] -> [n]"""
    return row_medians(np.abs(x))

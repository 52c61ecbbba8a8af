"""Measure each layer of a decoder by a few numbers, for the overview, the insights and the anomaly rules."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import takewhile
from typing import Any

import numpy as np

from ..arrays.stats import Array, median, row_medians
from ..hooks.event import TraceEvent
from ..measuring.definitions import NEAR_ZERO
from ..measuring.norm_meter import NormMeter
from ..plans.kinds import Activation, Softmax
from ..plans.plan import Plan
from .findings import FEWEST_TOKENS
from .result import Compared, LayerRow

MOST = 16  # the largest number of positions that the rules compare
RULING = 150  # multiple of a row's median. SmolLM2: massive activations reach 200 to 750, other values 140
SQUARED_SAFELY = 1e-15  # a row with a smaller norm loses precision if its elements are squared in float32


class Overview:
    """A hook that measures every layer. Subscribe an Overview to `names` with statistics, then call `rows`.
    `parameter` returns the gain of a norm by its name, and `tokens` are the tokens of the prompt."""

    def __init__(self, plan: Plan, parameter: Callable[[str], Array], tokens: Sequence[int]) -> None:
        self._plan = plan
        self._meter = NormMeter(plan, parameter, [(read, name) for name, read in plan.branches.items()])
        self.norms = self._meter.rows
        needed = {*self._meter.names, *plan.streams, *plan.branches}
        needed.update(row.name for row in plan.of_kind(Softmax, Activation))
        self.names = [name for name in plan if name in needed]
        self._positions = compared_positions(tokens)
        self._usual = np.ones(len(self._positions), bool)  # positions without a massive activation so far
        self._entered = np.empty((0, 0))  # the residual stream before the layer
        self._first_key = list[Array]()  # the weights of position 0, if weights come in parts: [H, n] each
        self._measured: dict[str, Any] = {}
        self._compared: dict[str, Array] = {}  # numbers at each of the compared positions
        # For each layer: the fields of its row, the positions without a massive activation, the numbers to
        # compare.
        self._layers: list[tuple[dict[str, Any], Array, dict[str, Array]]] = []

    def __call__(self, event: TraceEvent, value: Array) -> None:
        self._meter(event, value)
        kind = self._plan[event.name].kind
        if event.name in self._plan.branches:
            stream = self._meter.read[self._plan.branches[event.name]]
            self._measured.setdefault(f"{event.stage}_share", median(row_norms(value) / row_norms(stream)))
            self._compared.setdefault(event.stage, row_medians(np.abs(value[self._positions])))
        if event.name == self._plan.streams[0]:
            self._enter(value)
        elif event.name in self._plan.streams:
            self._finish(event, value)
        elif isinstance(kind, Softmax):
            first = np.concatenate(self._first_key, axis=1) if self._first_key else value[:, :, 0]
            self._measured["sink"] = float(first[:, 1:].mean()) if first.shape[1] > 1 else None
            self._first_key.clear()
        elif isinstance(kind, Activation) and "near_zero" not in self._measured:
            small = (value <= NEAR_ZERO) & (value >= -NEAR_ZERO)
            share = float(np.count_nonzero(small) / small.size)
            self._measured |= {"near_zero": share, "near_zero_threshold": NEAR_ZERO}
            self._compared["passing"] = 1 - small[self._positions].mean(axis=1)

    def part(self, event: TraceEvent, value: Array) -> None:
        """Receive the attention weights of some queries: [H, n, S]"""
        self._first_key.append(value[:, :, 0].copy())

    def _enter(self, stream: Array) -> None:
        self._entered = stream.copy()
        self._measured, self._compared = {}, {}
        self._usual = self._usual & ~ruled_by_one(stream[self._positions])

    def _finish(self, event: TraceEvent, value: Array) -> None:
        place = int(np.abs(value).argmax())
        norms = row_norms(value)
        products = np.einsum("tc,tc->t", value, self._entered)
        cosines = np.clip(products / (norms * row_norms(self._entered)), -1, 1)  # rounding may exceed 1
        before, after = (row_medians(np.abs(x[self._positions])) for x in (self._entered, value))
        growth = np.divide(after, before, out=np.full(len(before), math.nan), where=before > 0)
        compared = self._compared | {"turn": cosines[self._positions], "growth": growth}
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
        self._enter(value)  # updates the positions without a massive activation
        self._layers.append((row, self._usual, compared))

    def rows(self, events: Iterable[TraceEvent]) -> tuple[LayerRow, ...]:
        """Return a row per layer, with the counts of values in `events` that are not finite."""
        nans, infs = Counter[int | None](), Counter[int | None]()
        for event in events:
            assert event.stats is not None
            nans[event.layer] += event.stats.nan_count
            infs[event.layer] += event.stats.inf_count
        masks = [usual for _, usual, _ in self._layers]
        enough = list(takewhile(lambda usual: usual.sum() >= FEWEST_TOKENS, masks))
        return tuple(
            LayerRow(
                **row, compared=_compared(enough[-1] if i < len(enough) else usual, numbers),
                nan_count=nans[row["layer"]], inf_count=infs[row["layer"]],
            )
            for i, (row, usual, numbers) in enumerate(self._layers)
        )  # fmt: skip


def _compared(chosen: Array, numbers: Mapping[str, Array]) -> Compared | None:
    """Return the medians of a layer over the chosen positions. The layers that the rules compare share one
    set of positions without massive activations. Every later layer uses the few positions that remain."""
    if not chosen.any():
        return None
    return Compared(int(chosen.sum()), **{name: median(values[chosen]) for name, values in numbers.items()})


def compared_positions(tokens: Sequence[int]) -> Array:
    """Return the positions that the rules compare: at most MOST, spread evenly, and never position 0. If a
    token is repeated, only the last of its positions is used. Position 0 has massive activations even in
    sound models. If the first token is repeated right after position 0, the repetitions also have massive
    activations, because they see no other token."""
    last = sorted({token: position for position, token in enumerate(tokens)}.values())
    later = [position for position in last if position > 0]
    count = min(len(later), MOST)
    return np.array([later[i * len(later) // count] for i in range(count)], dtype=np.intp)


def ruled_by_one(rows: Array) -> Array:
    """Mark the rows with an element above RULING times the row's median magnitude: [n, C] -> booleans [n]"""
    size = np.abs(rows)
    return size.max(axis=1) > RULING * np.partition(size, size.shape[1] // 2, axis=1)[:, size.shape[1] // 2]


def row_norms(x: Array) -> Array:
    """Return the L2 norm of every row: [T, C] -> [T]"""
    norms = np.sqrt(np.einsum("tc,tc->t", x, x))
    if not ((norms > SQUARED_SAFELY) & (norms < np.inf)).all():  # squares may exceed the range of float32
        norms = np.sqrt(np.einsum("tc,tc->t", x, x, dtype=np.float64))
    return norms

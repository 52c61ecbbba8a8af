"""What takes the pieces of two sides as they come and tells how far they lie apart: RowComparer row by row,
StatisticsComparer where a side left nothing but statistics; PairKeeper keeps the values that a page shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..architecture.model import LanguageModel
from ..architecture.plans.catalogue import kind_named
from ..architecture.plans.kinds import Linear, Rotation, Softmax
from ..architecture.plans.plan import HEAD_EVENTS
from ..architecture.plans.rope import rope_turns, turn
from ..arrays.stats import Array, TensorStats, causal_mask
from ..errors import InputError
from ..hooks.event import EventSpec
from ..rounding.bands import Bands, is_peaked
from ..rounding.row_differences import RowDifferences, compare_rows, join, with_predictions
from ..running.event_stream import Piece
from .compared_runs import ComparedRun, RecordedRun
from .differences import Agreeing, EventDifference, difference


class _ComparedRows(NamedTuple):
    """What was compared of an event at some positions; `thirds` are third runs' distances from a side."""

    rows: RowDifferences
    thirds: list[RowDifferences]
    positions: Sequence[int]
    shape: tuple[int, ...]


class RowComparer:
    """Compares values row by row. `model` tells the biases that were added to rows, `base` which of the
    two sides a third one's distance is taken from."""

    def __init__(
        self, specs: Mapping[str, EventSpec], bands: Bands, model: LanguageModel | None, base: int = 0
    ) -> None:
        self.agreeing = Agreeing()
        self._specs, self._bands, self._model, self._base = specs, bands, model, base
        self._parts: dict[str, list[_ComparedRows]] = {}

    def add(self, pieces: Sequence[Piece | None]) -> None:
        """Compare what the sides have of an event: a, b and third runs that give the band."""
        a, *rest = (piece for piece in pieces if piece is not None)
        spec = self._specs[a.name]
        self._bands.note(spec, [piece.value for piece in (a, *rest)])
        common = [p for p in a.positions if all(p in piece.positions for piece in rest)]
        if not rest or (a.value.ndim and not common):
            return
        if self._model is None and len(common) < min(len(a.positions), len(rest[0].positions)):
            held = f"A {list(a.positions)}, B {list(rest[0].positions)}"
            raise InputError(f"{a.name}: the two sides hold different positions of it, {held}")
        at = [piece.at(common) for piece in (a, *rest)]
        bias = self._bias(spec, common)
        options: dict[str, Any] = {"bias": bias, "outliers": not is_peaked(spec)}
        options["seen"] = causal_mask(*at[0].shape[-2:]) if spec.causal else None
        options["zero_elsewhere"] = isinstance(kind_named(spec), Softmax)
        rows = compare_rows(at[0], at[1], **options)
        thirds = [compare_rows(at[self._base], third, **options) for third in at[2:]]
        if a.name == "logits":
            self.agreeing.add(at[0], at[1], common)
            if len(thirds) > 1:
                rows, *thirds = with_predictions(
                    [rows, *thirds], at[self._base], [at[1 - self._base], *at[2:]]
                )
        part = _ComparedRows(rows, thirds, common, at[0].shape)
        self._parts.setdefault(a.name, []).append(part)

    def _bias(self, spec: EventSpec, positions: Sequence[int]) -> Array | None:
        """What a product added to every row, where there is such a bias: [K], or turned as q and k are by
        RoPE, [n, K]"""
        row = None if self._model is None else self._model.plan.get(spec.name)
        if self._model is None or row is None:
            return None
        turning = row.kind if isinstance(row.kind, Rotation) else None
        product = row if turning is None else self._model.plan[row.inputs[0]]
        if not isinstance(product.kind, Linear) or product.bias is None:
            return None
        bias = self._model.parameter(product.bias)
        if turning is None:
            return bias
        turns = rope_turns(turning.rope, turning.head_dim, np.array(positions))
        return turn(np.broadcast_to(bias, (len(positions), len(bias))), turns, turning.head_dim)

    def finish(self, names: Sequence[str]) -> Iterator[EventDifference]:
        """The differences in order of computation. Raises InputError where two sides share no position."""
        for name in names:
            spec, parts = self._specs[name], self._parts.get(name)
            if not parts:
                raise InputError(f"{name}: the two sides hold different positions of it, none in common")
            rows = join([part.rows for part in parts])
            thirds = [join(of_run) for of_run in zip(*(part.thirds for part in parts), strict=True)]
            bands = self._bands.of(spec, rows, thirds)
            positions = [position for part in parts for position in part.positions]
            shape = parts[0].shape
            if len(parts) > 1:
                shape = (len(positions), *shape[1:])
            yield difference(spec, shape, rows, bands, positions, self._bands.atol)


# --- Statistics alone -------------------------------------------------------------------------------


class StatisticsComparer:
    """Compares the statistics of two sides: those that a side was saved with, or those of its values.

    What third runs are apart from side `base` gives the band.
    """

    def __init__(
        self, sides: Sequence[ComparedRun], specs: Mapping[str, EventSpec], bands: Bands, base: int = 0
    ) -> None:
        self.agreeing = Agreeing()  # of statistics nothing is known of single predictions
        self._sides, self._specs, self._bands, self._base = sides, specs, bands, base
        self._held: list[dict[str, tuple[TensorStats, tuple[int, ...]]]] = [
            {name: (e.stats, e.shape) for name, e in side.statistics.items() if e.stats is not None}
            for side in sides
        ]
        saved = (s.recording for s in sides if isinstance(s, RecordedRun) and s.statistics)
        self._positions = next((recording.positions for recording in saved), None)

    def add(self, pieces: Sequence[Piece | None]) -> None:
        """Take values into account, the logits at the positions that the statistics have."""
        there = [piece for piece in pieces if piece is not None]
        self._bands.note(self._specs[there[0].name], [piece.value for piece in there])
        self._held += [{} for _ in pieces[len(self._held) :]]  # runs that bring values alone
        for piece, held in zip(pieces, self._held, strict=False):
            if piece is None:
                continue
            name, value, spec = piece.name, piece.value, self._specs[piece.name]
            if name in HEAD_EVENTS and self._positions is not None:
                value = piece.at([p for p in piece.positions if p in self._positions])
            seen, shape = causal_mask(*value.shape[-2:]) if spec.causal else None, value.shape
            own = TensorStats.of(value, seen)
            if name in held:
                before, earlier = held[name]
                own, shape = before.merge(own), (earlier[0] + len(value), *shape[1:])
            held[name] = own, shape

    def finish(self, names: Sequence[str]) -> Iterator[EventDifference]:
        """The differences in order of computation. Raises InputError for other shapes: then these are
        statistics of other positions, or of another tensor."""
        for name in names:
            for side, held in zip(self._sides[:2], self._held, strict=False):
                if name not in held:
                    raise InputError(f"{name}: {side.origin} has no statistics of it")
            (a, shape), (b, other), *others = (held[name] for held in self._held if name in held)
            if shape != other:
                raise InputError(
                    f"{name}: statistics of {list(shape)} in {self._sides[0].origin}, of {list(other)} "
                    f"in {self._sides[1].origin}: of other positions, or of another tensor"
                )
            rows, statistic = statistics_rows(a, b)
            base = (a, b)[self._base]
            thirds = [statistics_rows(base, third)[0] for third, _ in others]
            bands = self._bands.of(self._specs[name], rows, thirds)
            yield difference(self._specs[name], shape, rows, bands, (), self._bands.atol, statistic)


def statistics_rows(a: TensorStats, b: TensorStats) -> tuple[RowDifferences, str]:
    """Two summaries as a row: its distance is the largest relative difference of a statistic, whose
    name comes with it."""
    counts = (float(a.nonfinite_count), float(b.nonfinite_count))
    if (a.nan_count, a.inf_count) != (b.nan_count, b.inf_count):
        return _one_row(np.inf, *counts, a, odd=0), "NaN/Inf counts of the statistics"
    known = [(name, getattr(a, name), getattr(b, name)) for name in ("l2_norm", "std", "mean", "min", "max")]
    pairs = {name: (x, y) for name, x, y in known if x is not None and y is not None}
    if not pairs:
        return _one_row(0.0, *counts, a), "statistics"
    largest = max(a.max_abs or 0.0, b.max_abs or 0.0)
    sizes = dict.fromkeys(pairs, largest) | {"l2_norm": max(a.l2_norm or 0.0, b.l2_norm or 0.0)}
    apart = {name: abs(x - y) / (sizes[name] or 1.0) for name, (x, y) in pairs.items()}
    name = max(apart, key=lambda n: apart[n])
    return _one_row(apart[name], *pairs[name], a), f"{name.replace('l2_norm', 'L2')} of the statistics"


def _one_row(apart: float, a: float, b: float, of: TensorStats, odd: int = -1) -> RowDifferences:
    one, nan = np.ones(1), np.full(1, np.nan)
    size, first = np.array([abs(a - b) if odd < 0 else np.inf]), np.zeros(1, np.intp)
    return RowDifferences(
        one, one, one * apart, nan, one * 0, nan, nan, size, first,
        np.array([a]), np.array([b]), np.array([odd]), np.array([of.count]), np.array([of.nonfinite_count]),
        nan,
    )  # fmt: skip


Judge = Callable[[str], EventDifference]  # the difference of an event as far as it was compared


@dataclass(frozen=True, eq=False, repr=False)
class KeptPair:
    """What two sides have of an event at some positions, and of some heads where it has any: [n, W] or
    [H, n, S]; of a number alone []"""

    a: Array
    b: Array
    positions: tuple[int, ...]
    heads: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        return self.a.size + self.b.size

    def narrowed(self, difference: EventDifference) -> KeptPair:
        """The position, or the head, at which the sides part or lie farthest apart."""
        if self.heads is not None and difference.head in self.heads:
            at = self.heads.index(difference.head)
            return KeptPair(self.a[at : at + 1], self.b[at : at + 1], self.positions, (difference.head,))
        if self.heads is None and difference.position in self.positions:
            at = self.positions.index(difference.position)
            return KeptPair(self.a[at : at + 1], self.b[at : at + 1], (difference.position,))
        return self

    def joined(self, other: KeptPair) -> KeptPair:
        """This and another part of the same event; the other one where it has other heads."""
        if other.heads != self.heads:
            return other
        a, b = (np.concatenate(both, axis=-2) for both in ((self.a, other.a), (self.b, other.b)))
        return KeptPair(a, b, (*self.positions, *other.positions), self.heads)


class PairKeeper:
    """Takes what two sides have of each event, as it is compared, and keeps so many numbers at most.
    `inputs_of` tells what an event reads."""

    def __init__(self, room: int, inputs_of: Callable[[str], Sequence[str]]) -> None:
        self.pairs: dict[str, KeptPair] = {}
        self._room, self.inputs_of = room, inputs_of
        self._excess: dict[str, float] = {}
        self._first: str | None = None

    def __call__(self, pieces: Sequence[Piece | None], judge: Judge) -> None:
        """Take what was compared of an event."""
        a, b = pieces[:2] if len(pieces) > 1 else (None, None)
        if a is None or b is None:
            return  # of one side there are statistics alone, or nothing was asked for
        common = [position for position in a.positions if position in b.positions]
        if a.value.ndim and not common:
            return
        difference = judge(a.name)
        self._excess[a.name] = difference.excess if not math.isnan(difference.excess) else math.inf
        if self._first is None and not difference.holds:
            self._first = a.name
        self._keep(a.name, _pair(a, b, common), difference)

    def _keep(self, name: str, pair: KeptPair, difference: EventDifference) -> None:
        known = self.pairs.get(name)
        whole = pair if known is None else known.joined(pair)
        if whole.size > self._room // 2:
            apart = pair.narrowed(difference)
            whole = apart if known is None or apart.size < pair.size else known
        if whole.size <= self._room // 2:
            self.pairs[name] = whole
        while sum(pair.size for pair in self.pairs.values()) > self._room:
            del self.pairs[min(self.pairs, key=self._worth)]

    def _worth(self, name: str) -> tuple[bool, float]:
        if self._first is None:
            return False, 0.0  # of equals the earliest goes
        return name in (self._first, *self.inputs_of(self._first)), self._excess[name]


def _pair(a: Piece, b: Piece, common: Sequence[int]) -> KeptPair:
    first, second = (np.array(piece.at(common) if piece.value.ndim else piece.value) for piece in (a, b))
    heads = tuple(range(len(first))) if first.ndim == 3 else None
    return KeptPair(first, second, tuple(common), heads)

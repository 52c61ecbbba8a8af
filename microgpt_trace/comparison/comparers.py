"""Compare the values of two runs while the values are computed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arrays.stats import Array, TensorStats, causal_mask
from ..decoder.catalogue import kind_named
from ..errors import InputError
from ..hooks.event import EventSpec
from ..interpreter.event_stream import Piece
from ..models.language_model import LanguageModel
from ..plans.kinds import Linear, Rotation, Softmax
from ..plans.plan import over_tokens
from ..plans.rope import rope_turns, turn
from ..rounding.bands import Bands, is_peaked
from ..rounding.row_differences import RowDifferences, compare_rows, join, with_predictions
from ..text.frozen import frozen
from .agreement import AgreementMeter
from .compared_runs import ComparedRun, RecordedRun
from .differences import EventDifference, difference
from .routing_comparer import RoutingComparer


class _ComparedRows(NamedTuple):
    """The differences of an event at some positions. `thirds` lists the differences of the runs that
    determine the band."""

    rows: RowDifferences
    thirds: list[RowDifferences]
    positions: Sequence[int]
    shape: tuple[int, ...]


class RowComparer:
    """Compares values row by row. Biases that were added to the rows are read from `model`. The runs that
    determine the band are compared with side `base`, 0 or 1."""

    def __init__(
        self, specs: Mapping[str, EventSpec], bands: Bands, model: LanguageModel | None, base: int = 0
    ) -> None:
        self.agreement, self.routing = AgreementMeter(), RoutingComparer(base)
        self._specs, self._bands, self._model, self._base = specs, bands, model, base
        self._parts: dict[str, list[_ComparedRows]] = {}

    def add(self, pieces: Sequence[Piece | None]) -> None:
        """Compare the values of an event in run a, in run b, and in the runs that determine the band. Raises
        InputError if no model is compared and the sides have different positions."""
        a, *rest = (piece for piece in pieces if piece is not None)
        spec = self._specs[a.name]
        self._bands.note(spec, [piece.value for piece in (a, *rest)])
        common = [p for p in a.positions if all(p in piece.positions for piece in rest)]
        if not rest or (a.value.ndim and not common):
            return
        if self._model is None and len(common) < min(len(a.positions), len(rest[0].positions)):
            positions = f"{list(a.positions)} in A and {list(rest[0].positions)} in B"
            raise InputError(f"{a.name}: expected the same positions on both sides, found {positions}")
        at = self.routing.aligned(a.name, common, [piece.at(common) for piece in (a, *rest)])
        options: dict[str, Any] = {"bias": self._bias(spec, common), "outliers": not is_peaked(spec)}
        options["seen"] = np.arange(at[0].shape[-1]) <= np.array(common)[:, None] if spec.causal else None
        options["zero_elsewhere"] = isinstance(kind_named(spec), Softmax)
        rows = compare_rows(at[0], at[1], **options)
        thirds = [compare_rows(at[self._base], third, **options) for third in at[2:]]
        if a.name == "logits" and a.value.ndim == 2:
            self.agreement.add(at[0], at[1], common)
            if len(thirds) > 1:
                others = [at[1 - self._base], *at[2:]]
                rows, *thirds = with_predictions([rows, *thirds], at[self._base], others)
        self._parts.setdefault(a.name, []).append(_ComparedRows(rows, thirds, common, at[0].shape))

    def _bias(self, spec: EventSpec, positions: Sequence[int]) -> Array | None:
        """Return the bias [K] that a product added to every row, or None. After RoPE, return the rotated bias
        of each position, [n, K]."""
        row = None if self._model is None else self._model.plan.get(spec.name)
        if self._model is None or row is None:
            return None
        rotation = row.kind if isinstance(row.kind, Rotation) else None
        product = row if rotation is None else self._model.plan[row.inputs[0]]
        if not isinstance(product.kind, Linear) or product.bias is None:
            return None
        bias = self._model.parameter(product.bias)
        if rotation is None:
            return bias
        turns = rope_turns(rotation.rope, rotation.channels, np.array(positions))
        rows = np.broadcast_to(bias, (len(positions), len(bias)))
        return turn(rows, turns, rotation.head_dim, rotation.pairs)

    def finish(self, names: Sequence[str]) -> Iterator[EventDifference]:
        """Yield the difference of each event. Raises InputError if the sides have no position in common."""
        for name in names:
            spec, parts = self._specs[name], self._parts.get(name)
            if not parts:
                raise InputError(f"{name}: expected the same positions on both sides, found none in common")
            rows = join([part.rows for part in parts])
            thirds = [join(of_run) for of_run in zip(*(part.thirds for part in parts), strict=True)]
            bands = self._bands.of(spec, rows, thirds)
            positions = [position for part in parts for position in part.positions]
            shape = parts[0].shape if len(parts) == 1 else (len(positions), *parts[0].shape[1:])
            self.routing.note(name, bands[0].band)
            yield difference(spec, shape, rows, bands, positions, self._bands.atol)


# --- Statistics alone -------------------------------------------------------------------------------


class StatisticsComparer:
    """Compares statistics, saved or computed from values, if a side has only statistics. The runs that
    determine the band are compared with side `base`, 0 or 1."""

    def __init__(
        self, sides: Sequence[ComparedRun], specs: Mapping[str, EventSpec], bands: Bands, base: int = 0
    ) -> None:
        self.agreement = AgreementMeter()  # stays empty, because statistics contain no predictions
        self._sides, self._specs, self._bands, self._base = sides, specs, bands, base
        self._stats: list[dict[str, tuple[TensorStats, tuple[int, ...]]]] = [
            {name: (e.stats, e.shape) for name, e in side.statistics.items() if e.stats is not None}
            for side in sides
        ]
        saved = (s.recording for s in sides if isinstance(s, RecordedRun) and s.statistics)
        self._positions = next((recording.positions for recording in saved), None)

    def add(self, pieces: Sequence[Piece | None]) -> None:
        """Add the statistics of values. For logits, use only the positions of the saved statistics."""
        present = [piece for piece in pieces if piece is not None]
        self._bands.note(self._specs[present[0].name], [piece.value for piece in present])
        self._stats += [{} for _ in pieces[len(self._stats) :]]  # one dict for each rounded pass
        for piece, stats in zip(pieces, self._stats, strict=False):
            if piece is None:
                continue
            name, value, spec = piece.name, piece.value, self._specs[piece.name]
            if over_tokens(name) and self._positions is not None:
                value = piece.at([p for p in piece.positions if p in self._positions])
            seen, shape = causal_mask(*value.shape[-2:]) if spec.causal else None, value.shape
            own = TensorStats.of(value, seen)
            if name in stats:
                before, earlier = stats[name]
                own, shape = before.merge(own), (earlier[0] + len(value), *shape[1:])
            stats[name] = own, shape

    def finish(self, names: Sequence[str]) -> Iterator[EventDifference]:
        """Yield the difference of each event. Raises InputError if a side lacks the statistics of an event,
        or if the statistics are from arrays of different shapes."""
        for name in names:
            for side, stats in zip(self._sides[:2], self._stats, strict=False):
                if name not in stats:
                    raise InputError(f"{name}: {side.origin} has no statistics of this event")
            (a, shape), (b, other), *others = (stats[name] for stats in self._stats if name in stats)
            if shape != other:
                first, second = (side.origin for side in self._sides[:2])
                shapes = f"{list(shape)} in {first} and {list(other)} in {second}"
                raise InputError(f"{name}: expected statistics of the same shape, found {shapes}")
            rows, statistic = statistics_rows(a, b)
            thirds = [statistics_rows((a, b)[self._base], third)[0] for third, _ in others]
            bands = self._bands.of(self._specs[name], rows, thirds)
            yield difference(self._specs[name], shape, rows, bands, (), self._bands.atol, statistic)


def statistics_rows(a: TensorStats, b: TensorStats) -> tuple[RowDifferences, str]:
    """Return the largest relative difference of a statistic, as a row, and the name of this statistic."""
    counts = (float(a.nonfinite_count), float(b.nonfinite_count))
    if (a.nan_count, a.inf_count) != (b.nan_count, b.inf_count):
        return _one_row(np.inf, *counts, a, odd=0), "NaN/Inf counts of the statistics"
    values = [(name, getattr(a, name), getattr(b, name)) for name in ("l2_norm", "std", "mean", "min", "max")]
    pairs = {name: (x, y) for name, x, y in values if x is not None and y is not None}
    if not pairs:
        return _one_row(0.0, *counts, a), "statistics"
    largest = max(a.max_abs or 0.0, b.max_abs or 0.0)
    sizes = dict.fromkeys(pairs, largest) | {"l2_norm": max(a.l2_norm or 0.0, b.l2_norm or 0.0)}
    distances = {name: abs(x - y) / (sizes[name] or 1.0) for name, (x, y) in pairs.items()}
    name = max(distances, key=distances.__getitem__)
    return _one_row(distances[name], *pairs[name], a), f"{name.replace('l2_norm', 'L2')} of the statistics"


def _one_row(relative: float, a: float, b: float, stats: TensorStats, odd: int = -1) -> RowDifferences:
    """Return the differences of a single row with this relative distance and the values a and b."""
    one, nan = np.ones(1), np.full(1, np.nan)
    size, first = np.array([abs(a - b) if odd < 0 else np.inf]), np.zeros(1, np.intp)
    return RowDifferences(
        one, one, one * relative, nan, one * 0, nan, nan, size, first, np.array([a]), np.array([b]),
        np.array([odd]), np.array([stats.count]), np.array([stats.nonfinite_count]), nan,
    )  # fmt: skip


Judge = Callable[[str], EventDifference]  # returns the current difference of an event


@frozen(slots=False, eq=False)
class KeptPair:
    """The values of an event on both sides, at n positions: [n, W], [H, n, S] for H heads, or []."""

    a: Array
    b: Array
    positions: tuple[int, ...]
    heads: tuple[int, ...] | None = None

    @property
    def size(self) -> int:
        return self.a.size + self.b.size

    def narrowed(self, difference: EventDifference) -> KeptPair:
        """Return only the values of the head in `difference`, or of the position if there are no heads.
        Return all values if this head or position is not stored here."""
        if self.heads is not None and difference.head in self.heads:
            at = self.heads.index(difference.head)
            return KeptPair(self.a[at : at + 1], self.b[at : at + 1], self.positions, (difference.head,))
        if self.heads is None and difference.position in self.positions:
            at = self.positions.index(difference.position)
            return KeptPair(self.a[at : at + 1], self.b[at : at + 1], (difference.position,))
        return self

    def joined(self, other: KeptPair) -> KeptPair:
        """Append the values of `other`, at later positions, or return `other` alone if its heads differ."""
        if other.heads != self.heads:
            return other
        a, b = (np.concatenate(both, axis=-2) for both in ((self.a, other.a), (self.b, other.b)))
        return KeptPair(a, b, (*self.positions, *other.positions), self.heads)


class PairKeeper:
    """Stores at most `room` values of both sides, which a page shows. The first event that differs and its
    inputs are dropped last. `inputs_of` returns the names of the inputs."""

    def __init__(self, room: int, inputs_of: Callable[[str], Sequence[str]]) -> None:
        self.pairs: dict[str, KeptPair] = {}
        self._room, self.inputs_of = room, inputs_of
        self._excess: dict[str, float] = {}
        self._first: str | None = None

    def __call__(self, pieces: Sequence[Piece | None], judge: Judge) -> None:
        """Store the values of an event, if both sides have values."""
        a, b = pieces[:2] if len(pieces) > 1 else (None, None)
        if a is None or b is None:
            return  # a side has only statistics, or the event is not compared
        common = [position for position in a.positions if position in b.positions]
        if a.value.ndim and not common:
            return
        difference = judge(a.name)
        self._excess[a.name] = difference.excess if not math.isnan(difference.excess) else math.inf
        if self._first is None and not difference.holds:
            self._first = a.name
        of_a, of_b = (np.array(own.at(common) if own.value.ndim else own.value) for own in (a, b))
        heads = tuple(range(len(of_a))) if of_a.ndim == 3 else None
        self._keep(a.name, KeptPair(of_a, of_b, tuple(common), heads), difference)

    def _keep(self, name: str, pair: KeptPair, difference: EventDifference) -> None:
        earlier = self.pairs.get(name)
        kept = pair if earlier is None else earlier.joined(pair)
        if kept.size > self._room // 2:
            narrow = pair.narrowed(difference)
            kept = narrow if earlier is None or narrow.size < pair.size else earlier
        if kept.size <= self._room // 2:
            self.pairs[name] = kept
        while sum(pair.size for pair in self.pairs.values()) > self._room:
            del self.pairs[min(self.pairs, key=self._worth)]

    def _worth(self, name: str) -> tuple[bool, float]:
        if self._first is None:
            return False, 0.0  # all events have the same worth, so the earliest is dropped
        return name in (self._first, *self.inputs_of(self._first)), self._excess[name]

"""StatisticsComparer: for runs of which one left nothing but statistics; nothing is known of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from ..architecture.plan import HEAD_EVENTS
from ..arrays.stats import TensorStats, causal_mask
from ..errors import InputError
from ..hooks.event import EventSpec
from ..rounding.bands import Bands
from ..rounding.row_differences import RowDifferences
from ..running.event_stream import Piece
from .compared_runs import ComparedRun
from .differences import Agreeing, EventDifference, difference


class StatisticsComparer:
    """Compares the statistics of two sides: those that a side was saved with, or those of its values.

    What third runs are apart from side `base` gives the band.
    """

    def __init__(
        self, sides: Sequence[ComparedRun], specs: Mapping[str, EventSpec], bands: Bands, base: int = 0
    ) -> None:
        self.agreeing = Agreeing()  # of statistics nothing is known of single predictions
        self._sides, self._specs, self._bands, self._base = sides, specs, bands, base
        saved = [side.statistics for side in sides]
        self._stats = [{name: e.stats for name, e in events.items()} for events in saved]
        self._shapes = [{name: e.shape for name, e in events.items()} for events in saved]
        self._positions = next((s.logit_positions for s in sides if s.statistics), None)

    def add(self, pieces: Sequence[Piece | None]) -> None:
        """Take values into account, the logits at the positions that the statistics have."""
        there = [piece for piece in pieces if piece is not None]
        self._bands.note(self._specs[there[0].name], [piece.value for piece in there])
        more = len(pieces) - len(self._stats)  # runs that bring values alone
        self._stats += [{} for _ in range(more)]
        self._shapes += [{} for _ in range(more)]
        for piece, stats, shapes in zip(pieces, self._stats, self._shapes, strict=False):
            if piece is None:
                continue
            name, value, spec = piece.name, piece.value, self._specs[piece.name]
            if name in HEAD_EVENTS and self._positions is not None:
                value = piece.at([p for p in piece.positions if p in self._positions])
            own = TensorStats.of(value, causal_mask(*value.shape[-2:]) if spec.causal else None)
            known, shape = stats.get(name), shapes.get(name)
            stats[name] = own if known is None else known.merge(own)
            shapes[name] = value.shape if shape is None else (shape[0] + len(value), *value.shape[1:])

    def finish(self, names: Sequence[str]) -> Iterator[EventDifference]:
        """The differences in order of computation. Raises InputError for other shapes: then these are
        statistics of other positions, or of another tensor."""
        for name in names:
            a, b, *others = (stats.get(name) for stats in self._stats)
            shape, other = (shapes.get(name) for shapes in self._shapes[:2])
            if a is None or b is None or shape is None:
                origin = self._sides[0 if a is None else 1].origin
                raise InputError(f"{name}: {origin} has no statistics of it")
            if shape != other:
                raise InputError(
                    f"{name}: statistics of {list(shape)} in {self._sides[0].origin}, of {list(other or ())} "
                    f"in {self._sides[1].origin}: of other positions, or of another tensor"
                )
            rows, statistic = statistics_rows(a, b)
            base = (a, b)[self._base]
            thirds = [statistics_rows(base, other)[0] for other in others if other is not None]
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

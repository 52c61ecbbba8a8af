"""RowComparer: takes the pieces of two sides as they come and tells how far the rows lie apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..architecture.catalogue import kind_named
from ..architecture.kinds import Linear, Rotation, Softmax
from ..architecture.model import LanguageModel
from ..architecture.rope import rope_turns, turn
from ..arrays.stats import Array, causal_mask
from ..errors import InputError
from ..hooks.event import EventSpec
from ..rounding.bands import Bands, is_peaked
from ..rounding.row_differences import RowDifferences, compare_rows, join, with_predictions
from ..running.event_stream import Piece
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
            raise InputError(
                f"{a.name}: the two sides hold different positions of it, {_positions(a, rest[0])}"
            )
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


def _positions(a: Piece, b: Piece) -> str:
    return f"A {list(a.positions)}, B {list(b.positions)}"

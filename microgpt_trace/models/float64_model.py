"""Float64Model: a model that computes in float64. One parameter may be moved along a direction."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import reduce
from typing import Any, NamedTuple

import numpy as np

from ..arrays.logits import in_parts
from ..arrays.stats import Array, TensorStats
from ..plans.kinds import Shape
from .language_model import LanguageModel

ELEMENTS = 1 << 18  # elements of a parameter to unpack at a time: 2 MB in float64


def parts_of(shape: Shape) -> Iterator[slice]:
    """Yield slices of a parameter's rows. A slice has at most ELEMENTS elements, but at least one row."""
    return in_parts(shape[0], math.prod(shape[1:]), ELEMENTS)


def stats_of(array: Array) -> TensorStats:
    """Summarise a large array. Only parts of the array are copied."""
    return reduce(TensorStats.merge, (TensorStats.of(array[part]) for part in parts_of(array.shape)))


class Move(NamedTuple):
    """A change of a parameter or event: `size` times the outer product of a vector for each axis. A matrix of
    changes is never whole in memory."""

    size: float
    first: Array
    others: tuple[Array, ...]

    def of(self, rows: slice | Array | None = None) -> Array:
        """Return the change of the rows `rows`, or of all rows."""
        first = self.size * (self.first if rows is None else self.first[rows])
        return reduce(np.multiply.outer, self.others, first)

    def along(self, gradient: Array) -> float:
        """Return the sum of gradient times change over all elements, in float64."""
        return sum(float((gradient[part] * self.of(part)).sum()) for part in parts_of(gradient.shape))


class Float64Model:
    """A model with the same parameters, which computes in float64. Products unpack a few rows of a matrix at
    a time, or the matrix of one expert. `moves` are added to parameters. Other attributes are those of
    `model`."""

    dtype = "float64"

    def __init__(self, model: LanguageModel, **moves: Move) -> None:
        self._model, self._moves = model, moves

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def parameter(self, name: str, rows: slice | Array | None = None) -> Array:
        value = self._model.parameter(name, rows).astype(np.float64)
        return value + self._moves[name].of(rows) if name in self._moves else value

    def _blocks(self, name: str, expert: int | None) -> Iterator[tuple[slice, Array]]:
        if expert is not None:
            yield slice(None), self.parameter(name, np.array([expert]))[0]
            return
        for part in parts_of(self._model.plan.parameters[name]):
            yield part, self.parameter(name, part)

    def product(self, x: Array, name: str, expert: int | None = None) -> Array:
        return np.concatenate([x @ block.T for _, block in self._blocks(name, expert)], axis=1)

    def product_backward(self, dy: Array, name: str, expert: int | None = None) -> Array:
        return np.asarray(sum(dy[:, part] @ block for part, block in self._blocks(name, expert)))

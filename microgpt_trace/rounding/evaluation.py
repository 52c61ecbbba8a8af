"""Evaluation: events recomputed from what a dump has of their inputs, or of the nearest before them."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np

from ..architecture.operations.by_kind import reference, spread_of
from ..architecture.operations.reference_inputs import ReferenceInputs, Spread
from ..architecture.plans.kinds import Linear
from ..architecture.plans.plan import Plan, layer_of
from ..arrays.stats import Array
from .precision import Precision, ProductInputs, row_error

NOISE = 1 / 3  # of an operation's own error is what its inputs are moved by, at the most
CARRIED = 3**0.5 / NOISE  # an error over the rms of what errors evenly spread within NOISE of it move
FLOAT32 = 2.0**-22  # what two float32 engines may differ by in a value on its way to 8 bits


class Evaluation:
    """Values of a dump, and what a plan makes of them.

    With `noise`, a seed, every value that is read and every one recomputed is moved at random by NOISE of
    the error that the operation may have: another evaluation that tells how far rounding carries.
    `rounding` is what happens to the inputs of products.
    """

    def __init__(
        self, given: ReferenceInputs, plan: Plan, values: Mapping[str, Array], precision: Precision,
        noise: int | None = None, rounding: ProductInputs | None = None,
    ) -> None:  # fmt: skip
        self.given, self.plan, self.values = given, plan, values
        self.precision, self.rounding, self._seed, self._own = precision, rounding, noise, given.model.plan
        self._noise = None if noise is None else np.random.default_rng(noise)
        self._nudge = -FLOAT32 if noise and noise % 2 else FLOAT32  # both ways, for a tie falls on one side
        self._recomputed: dict[str, Array] = {}

    def under(self, plan: Plan) -> Evaluation:
        """The same by another plan; what does not change by that is not worked out again."""
        other = Evaluation(self.given, plan, self.values, self.precision, self._seed, self.rounding)
        same = alike(self.plan, plan, self._recomputed, self.values)
        other._recomputed = {name: self._recomputed[name] for name in same}
        return other

    def between(self, name: str, *known: Container[str]) -> list[str]:
        """The events before `name` that the dump lacks, back to those that it has or that are known besides,
        in order."""
        found, open_ = set[str](), [name]
        while open_:
            for own in self.plan[open_.pop()].inputs:
                if own not in found and not any(own in place for place in (self.values, *known)):
                    found.add(own)
                    open_.append(own)
        return sorted(found, key=self._own.order.__getitem__)

    def sources(self, name: str) -> tuple[str, ...]:
        """The dump's own events that `name` is computed from, in order."""
        read = {own for n in (*self.between(name), name) for own in self.plan[n].inputs}
        return tuple(sorted(read & set(self.values), key=self._own.order.__getitem__))

    def value(self, name: str) -> Array:
        """The dump's own value, or what follows for one that it lacks; float64."""
        if name in self._recomputed:
            return self._recomputed[name]
        return np.asarray(self.values[name], np.float64) if name in self.values else self.output(name)

    def output(self, name: str, rows: Sequence[int] | None = None) -> Array:
        """What follows for `name`, or for some rows of it where each row follows from the same row."""
        for missing in self.between(name, self._recomputed):
            (self._recomputed[missing],) = self._moved(missing, [self._apply(missing)])
        return self._apply(name, rows)

    def _apply(self, name: str, rows: Sequence[int] | None = None) -> Array:
        row = self.plan[name]
        inputs = [self.value(own) for own in row.inputs]
        if rows is not None:
            inputs = [own[list(rows)] for own in inputs]
        if self.rounding is None or not isinstance(row.kind, Linear):
            value = reference(row, self.given, *self._moved(name, inputs))
            return value if inputs or rows is None else value[list(rows)]
        nudge = 0.0 if self._noise is None else self._nudge
        rounded = self._moved(name, [self.rounding.round(row, inputs[0], nudge)])
        return reference(row, self.given, *rounded) + self._of_sums(name, inputs[0])

    def _of_sums(self, name: str, x: Array) -> Array | float:
        """What rounding of the blocks' sums adds to a product. Nobody knows it of a matrix that stands in
        the place of the model's, but for its size."""
        row = self.plan[name]
        assert self.rounding is not None
        assert isinstance(row.kind, Linear)
        if row.read(row.kind.weight) is None:
            return self.rounding.of_sums(row, x)
        if self._noise is None:
            return 0.0
        return self.rounding.of_sums(row, x) * self._noise.uniform(-1, 1, (len(x), 1))

    def _moved(self, name: str, values: list[Array]) -> list[Array]:
        """Values moved at random by a share of the error that an operation may have."""
        if self._noise is None:
            return values
        by = self.floor(name) * NOISE
        return [value * (1 + by * self._noise.uniform(-1, 1, value.shape)) for value in values]

    def forget_before(self, layer: int) -> None:
        """Drop what was recomputed in earlier layers but their output."""
        for name in list(self._recomputed):
            own = layer_of(name)
            if own is not None and own < layer - 1:
                del self._recomputed[name]

    def floor(self, name: str) -> float:
        """The error that the operation alone may have, as the model has it."""
        return row_error(self.precision, self.spread(name), len(self.given.tokens))

    def spread(self, name: str) -> Spread:
        """How rounding spreads through the operation, as the model has it."""
        return spread_of(self._own[name], self.given)

    def chain_floor(self, name: str) -> float:
        """The error that the operation and those recomputed before it may have together."""
        return math.hypot(*(self.floor(own) for own in (*self.between(name), name)))


def alike(one: Plan, other: Plan, names: Iterable[str], given: Container[str]) -> set[str]:
    """The names, in order of computation, whose values are the same by both plans, those of `given` events
    being given."""
    same = set[str]()
    for name in names:
        row = other[name]
        if row is one[name] and all(source in given or source in same for source in row.inputs):
            same.add(name)
    return same

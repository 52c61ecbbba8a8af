"""Recompute events of a dump from their inputs. Missing inputs are recomputed from earlier events."""

from __future__ import annotations

import math
import zlib
from collections.abc import Container, Mapping, Sequence
from copy import copy
from dataclasses import replace
from functools import partial

import numpy as np

from ..arrays.stats import Array
from ..operations.by_kind import reference, spread_of
from ..operations.choice import follows, numbers, otherwise
from ..operations.reference_inputs import ReferenceInputs, Spread
from ..plans.kinds import Choice, Experts, Linear, Probabilities
from ..plans.plan import Plan, layer_of
from .precision import CHANCE, NONE, Partial, Precision, ProductInputs, row_error

NOISE = 1 / 3  # largest noise on inputs, as a share of the operation's own error
COSTLY = Linear, Experts, Probabilities  # kinds that are computed only at the rows that are needed
CARRIED = 3**0.5 / NOISE  # converts the RMS effect of uniform noise to the effect of a full error
FLOAT32 = 2.0**-22  # relative difference between float32 engines in a value, before it is rounded to 8 bits


class Evaluation:
    """The values of a dump, and the values that a plan computes from them. If `noise` is a seed, random noise
    changes every value that is read or recomputed, by up to NOISE times the error of the operation. The
    effect of the noise shows how rounding errors spread. `rounding` rounds the inputs of products. `partial`
    contains the events that the dump has at only some positions. Other positions are recomputed."""

    def __init__(
        self, given: ReferenceInputs, plan: Plan, values: Mapping[str, Array], precision: Precision,
        noise: int | None = None, rounding: ProductInputs | None = None, partial: Partial = NONE,
    ) -> None:  # fmt: skip
        self.given, self.plan, self.values, self.partial = given, plan, values, partial
        self.precision, self.rounding, self._seed, self._own = precision, rounding, noise, given.model.plan
        self._nudge = 0.0 if noise is None else -FLOAT32 if noise % 2 else FLOAT32  # round ties up, or down
        self._recomputed: dict[str, Array] = {}

    def under(self, plan: Plan) -> Evaluation:
        """Return an evaluation with another plan. Reuse recomputed values that are equal in both plans."""
        other, equal = copy(self), dict[str, Array]()
        other.plan, other._recomputed = plan, equal
        for name, value in self._recomputed.items():  # in order of computation
            row = plan[name]
            if row is self.plan[name] and all(own in self.values or own in equal for own in row.inputs):
                equal[name] = value
        return other

    def beside(self, name: str) -> tuple[str, ...]:
        """Return the inputs that the dump has at exactly the positions of a partial event, if the event reads
        no other positions of these inputs. Attention reads keys and values at all positions."""
        row, (_, at) = self.plan[name], self.partial.get(name, (None, ()))
        read = row.inputs[:1] if row.kind.mixes_positions else row.inputs
        return tuple(own for own in read if own in self.partial and self.partial[own][1] == at)

    def between(self, name: str, *known: Container[str], whole: bool = False) -> list[str]:
        """Return the events that must be recomputed before `name`, in order. The first inputs are the nearest
        earlier events in the dump or in `known`. With `whole`, compute a partial event at all positions."""
        missing, remaining = set[str](), [name]
        beside = () if whole else self.beside(name)
        while remaining:
            reader = remaining.pop()
            known_here = (self.values, *known, beside if reader == name else ())
            for own in self.plan[reader].inputs:
                if own not in missing and not any(own in place for place in known_here):
                    missing.add(own)
                    remaining.append(own)
        return sorted(missing, key=self._own.order.__getitem__)

    def sources(self, name: str) -> tuple[str, ...]:
        """Return the events of the dump that `name` is computed from, in order."""
        read = {own for n in (*self.between(name), name) for own in self.plan[n].inputs}
        known = {*self.values, *self.beside(name)}
        return tuple(sorted(read & known, key=self._own.order.__getitem__))

    def value(self, name: str) -> Array:
        """Return the dump's value, or the recomputed value if the dump lacks the event, in float64."""
        if name in self._recomputed:
            return self._recomputed[name]
        if name in self.values:
            return np.asarray(self.values[name], np.float64)
        return self._with_known(name, self.output(name))

    def _with_known(self, name: str, value: Array) -> Array:
        """Return a recomputed value, with the rows of a partial event from the dump."""
        if name in self.partial:
            array, positions = self.partial[name]
            value = value.copy()
            value[..., list(positions), :] = array
        return value

    def output(self, name: str, rows: Sequence[int] | None = None) -> Array:
        """Compute `name` from its inputs. With `rows`, compute only these rows."""
        for missing in self.between(name, self._recomputed, whole=rows is None):
            value = self._with_known(missing, self._apply(missing))
            (self._recomputed[missing],) = self._noisy(missing, [value], [missing])
        return self._apply(name, rows)

    def _apply(self, name: str, rows: Sequence[int] | None = None) -> Array:
        row, rounding = self.plan[name], self.rounding
        beside = () if rows is None else self.beside(name)
        inputs = [
            self._with_known(own, np.zeros(self.given.shapes[own])) if own in beside else self.value(own)
            for own in row.inputs
        ]
        from_rows = isinstance(row.kind, COSTLY)
        if rows is not None and from_rows:
            inputs = [own[list(rows)] for own in inputs]
        if rounding is None or not isinstance(row.kind, Linear | Experts):
            value = reference(row, self.given, *self._noisy(name, inputs, row.inputs))
            return value if rows is None or from_rows else value[..., list(rows), :]
        rounded = [rounding.round(row, inputs[0], self._nudge), *inputs[1:]]
        value = reference(row, self.given, *self._noisy(name, rounded, row.inputs))
        if row.read(row.kind.weight) is None:
            return value + rounding.sum_error(row, inputs)
        if self._seed is None:  # the plan replaces the matrix: only the size of the error is known
            return value
        share = self._random(f"{name} sums").uniform(-1, 1, (len(inputs[0]), 1))
        return value + rounding.sum_error(row, inputs) * share

    def noisy_input(self, name: str) -> Array:
        """Return the first input of an operation, with the noise of the operation."""
        first = self.plan[name].inputs[0]
        return self._noisy(name, [self.value(first)], [first])[0]

    def _noisy(self, name: str, values: list[Array], of: Sequence[str]) -> list[Array]:
        """Add random noise to the values of the events `of`, up to a share of the error that the operation
        may have. The numbers of chosen experts have no rounding errors."""
        if self._seed is None:
            return values
        by, noise, smallest = self.floor(name) * NOISE, self._random(name), self.precision.smallest
        return [
            value if isinstance(self.plan[own].kind, Choice)
            else value + np.maximum(np.abs(value), smallest) * by * noise.uniform(-1, 1, value.shape)
            for value, own in zip(values, of, strict=True)
        ]  # fmt: skip

    def _random(self, name: str) -> np.random.Generator:
        """Return the noise of an operation, which does not depend on the other operations that are judged."""
        return np.random.default_rng([self._seed or 0, zlib.crc32(name.encode())])

    def forget_before(self, layer: int) -> None:
        """Drop the recomputed values of the layers before `layer - 1`."""
        for name in list(self._recomputed):
            own = layer_of(name)
            if own is not None and own < layer - 1:
                del self._recomputed[name]

    def floor(self, name: str) -> float:
        """Return the error that the operation alone may have in the model's own plan."""
        return row_error(self.precision, self.spread(name), len(self.given.tokens))

    def spread(self, name: str) -> Spread:
        """Return how rounding spreads through the operation in the model's own plan."""
        return spread_of(self._own[name], self.given)

    def chain_floor(self, name: str) -> float:
        """Return the combined error that the operation and the operations recomputed before it may have."""
        return math.hypot(*(self.floor(own) for own in (*self.between(name), name)))


# --- Near ties between experts, which correct engines may decide differently because of rounding ---


def with_ties(
    plain: Evaluation, draws: Sequence[Evaluation], name: str, found: Array, expected: Array,
    positions: Sequence[int] | None,
) -> tuple[Array, Array]:  # fmt: skip
    """Return the expected values of an event, and the rows where a near tie is decided as in the dump.

    In a choice of experts, these are the rows where the dump's choice follows from the logits within their
    rounding error. Without the choice in the dump, these are the rows that agree better with the dump after
    the nearest tie of the position is decided otherwise.
    """
    rows = [plain.plan[own] for own in (*plain.between(name), name)]
    choices = [row for row in rows if isinstance(row.kind, Choice) and row.otherwise is None]
    none = expected, np.empty(0, np.intp)
    if not choices or not expected.ndim:
        return none
    if choices[-1].name == name:
        right = choice_follows(plain, draws, name, found, positions)
        tied, other = (found != expected).any(axis=1, keepdims=True) & right[:, None], found
    else:
        error = np.linalg.norm(found - expected, axis=-1, keepdims=True)
        tied = error > plain.chain_floor(name) * np.linalg.norm(expected, axis=-1, keepdims=True)
        if not tied.any():
            return none
        ties = {
            row.name: replace(row, otherwise=partial(otherwise, _within(draws, row.name))) for row in choices
        }
        other = plain.under(plain.plan.changed(lambda row: ties.get(row.name, row))).output(name, positions)
        tied &= np.linalg.norm(found - other, axis=-1, keepdims=True) < error
    return np.where(tied, other, expected), np.unique(np.nonzero(tied)[-2])


def choice_follows(
    plain: Evaluation, draws: Sequence[Evaluation], name: str, found: Array,
    positions: Sequence[int] | None = None, in_order: bool = True,
) -> Array:  # fmt: skip
    """Return True for each position where the dump's choice of experts follows from the logits within their
    rounding error: [n, k] -> [n]. With `in_order`, the experts must also be sorted by their logits."""
    at = slice(None) if positions is None else list(positions)
    logits, kind = plain.value(plain.plan[name].inputs[0])[at], plain.plan[name].kind
    assert isinstance(kind, Choice)
    if kind.any_order or not in_order:
        own = np.take_along_axis(logits, numbers(found, logits.shape[1]), axis=1)
        found = np.take_along_axis(found, np.argsort(-own, axis=1, kind="stable"), axis=1)
    return follows(found, logits, _within(draws, name)[at], kind)


def _within(draws: Sequence[Evaluation], name: str) -> Array:
    """Return the difference between the logits of experts that rounding explains: [T, 1]"""
    moved = np.std([draw.noisy_input(name) for draw in draws], axis=0, ddof=1)
    return CHANCE * CARRIED * np.sqrt(np.square(moved).mean(axis=1, keepdims=True))

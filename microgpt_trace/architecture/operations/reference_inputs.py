"""ReferenceInputs: what a reference reads besides events: tokens, and a model's
parameters; and Spread, what a kind tells of how rounding spreads through it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...arrays.stats import Array

if TYPE_CHECKING:
    from ..model import LanguageModel
    from ..plans.plan import Operation

ELEMENTS = 1 << 16  # of a matrix that are wide at a time: those stay in the cache of a core


class ReferenceInputs:
    """A model's parameters, and the tokens that it reads.

    Products are float64, a block of rows of a matrix at a time. Where they are to be `bounded`, `norms` are
    those of the rows of the matrices that were used.
    """

    def __init__(self, model: LanguageModel, tokens: Sequence[int] | Array, bounded: bool = False) -> None:
        self.model, self.tokens, self._bounded = model, np.asarray(tokens), bounded
        self.norms: dict[str, Array] = {}
        self._last: tuple[str, Array] | None = None

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every event over these tokens."""
        return self.model.plan.shapes(len(self.tokens))

    def parameter(self, row: Operation, name: str, rows: Array | None = None) -> Array:
        """A parameter of a row, [out, in] or [out], or some rows of it, or what is read in its place."""
        if other := row.read(name):
            return other(name) if rows is None else other(name)[rows]
        if rows is not None:
            return self.model.parameter(name, rows)
        if self._last is None or self._last[0] != name:  # all heads of a layer have slices of one
            self._last = name, self.model.parameter(name)
        return self._last[1]

    def product(self, row: Operation, x: Array, name: str) -> Array:
        """x @ W.T without a bias: [T, in] -> [T, out]"""
        if other := row.read(name):
            return x @ other(name).T
        out, width = self.model.plan.parameters[name]
        y, norms = np.empty((len(x), out)), np.empty(out)
        size = max(1, ELEMENTS // width)
        for start in range(0, out, size):
            own = slice(start, min(start + size, out))
            block = self.model.parameter(name, own).astype(np.float64)
            np.matmul(x, block.T, out=y[:, own])
            if self._bounded:
                norms[own] = np.sqrt(np.square(block).sum(axis=1))
        self.norms[name] = norms
        return y

    @property
    def targets(self) -> Array:
        """What follows each position, as far as that is known; a microGPT's name ends with BOS."""
        bos = self.model.bos
        if self.model.ends_with_bos and bos is not None:
            return np.append(self.tokens[1:], bos)
        return self.tokens[1:]


class Spread(NamedTuple):
    """What an output errs by: `terms` products in each of its sums (1: none), `alike` where these may be
    equal, so that their roundings add up; `angles` that grow with the position. `peaked`: a row may be two
    numbers that stray alike. `halves`: engines for quantised weights keep what it reads as float16.
    `factor`: each row is multiplied by a number that may be rounded."""

    terms: int = 1
    alike: bool = False
    angles: bool = False
    peaked: bool = False
    halves: bool = False
    factor: bool = False

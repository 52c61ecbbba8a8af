"""ReferenceInputs: the tokens and parameters that a reference reads. Spread: the sources of rounding errors
in an operation's output."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..arrays.logits import in_parts
from ..arrays.stats import Array

if TYPE_CHECKING:
    from ..models.language_model import LanguageModel
    from ..plans.plan import Operation

ELEMENTS = 1 << 16  # elements of a float64 block, small enough for the cache of a core


class ReferenceInputs:
    """The parameters of a model, and the tokens of a run.

    Products are computed in float64, one block of matrix rows at a time. If `bounded` is true, `norms`
    contains the L2 norm of each matrix row.
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
        """Return a parameter [out, in] or [out], or its rows `rows`. A simulated fault may change values."""
        if other := row.read(name):
            return other(name) if rows is None else other(name, rows)
        if rows is not None:
            return self.model.parameter(name, rows)
        if self._last is None or self._last[0] != name:  # all heads of a layer read the same matrix
            self._last = name, self.model.parameter(name)
        return self._last[1]

    def product(self, row: Operation, x: Array, name: str) -> Array:
        """Return x @ W.T without a bias: [T, in] -> [T, out]"""
        if other := row.read(name):
            return x @ other(name).T
        out, width = self.model.plan.parameters[name]
        y, norms = np.empty((len(x), out)), np.empty(out)
        for part in in_parts(out, width, ELEMENTS):
            block = self.model.parameter(name, part).astype(np.float64)
            np.matmul(x, block.T, out=y[:, part])
            if self._bounded:
                norms[part] = np.sqrt(np.square(block).sum(axis=1))
        self.norms[name] = norms
        return y

    @property
    def targets(self) -> Array:
        """The token after each position. A microGPT has a target at the last position, too: BOS."""
        bos = self.model.bos
        if self.model.ends_with_bos and bos is not None:
            return np.append(self.tokens[1:], bos)
        return self.tokens[1:]


class Spread(NamedTuple):
    """The sources of rounding errors in an operation's output."""

    terms: int = 1  # the number of products in each sum; 1 means no sum
    alike: bool = False  # True if the terms may be equal, so that their rounding errors add up
    angles: bool = False  # True if the operation uses angles, which grow with the position
    peaked: bool = False  # True if two large numbers with equal errors may dominate a row
    halves: bool = False  # True if engines for quantised weights store the inputs as float16
    factor: bool = False  # True if each row is multiplied by a number that may be rounded

"""What the rows of a pass share: the model's parameters, positions, sequences, cache. Computes no event."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ...arrays.linear import PARALLEL, linear
from ...arrays.stats import Array
from ...arrays.threads import available_cores
from ...hooks.bus import SILENT, Tap
from ..kinds import Rotation
from ..plan import NOTHING
from ..rope import rope_turns

if TYPE_CHECKING:
    from ..cache import Cache
    from ..model import LanguageModel

ELEMENTS = 1 << 20  # of a stored matrix that are decoded at a time


class Gradients(NamedTuple):
    """d loss / d what an operation reads: its inputs in their order, its parameters by name where wanted."""

    inputs: tuple[Array, ...]
    parameters: Mapping[str, Array] = NOTHING


@dataclass
class Shared:
    """A pass of n sequences of the same tokens, one after another, that differ by what the tap makes of them.

    With a cache, which is for one sequence, the tokens follow those that it has seen.
    """

    model: LanguageModel
    tokens: Array = field(default_factory=lambda: np.empty(0, np.intp))  # [T]
    n: int = 1
    tap: Tap = SILENT
    cache: Cache | None = None
    targets: Sequence[int | None] = ()  # what follows each position, as far as that is known
    wanted: frozenset[str] = frozenset()  # the parameters whose gradients are

    def __post_init__(self) -> None:
        self.workers = min(2, available_cores())
        start = self.cache.length if self.cache else 0
        self.positions = np.arange(start, start + len(self.tokens))
        self._turns: dict[object, tuple[Array, Array]] = {}
        self._tiled: dict[object, tuple[Array, Array]] = {}
        self._groups: dict[object, Array] = {}
        self._last: tuple[str, Array] | None = None

    @property
    def attention_workers(self) -> int:
        """How many threads share the heads."""
        return self.workers if self.n * len(self.tokens) > PARALLEL else 1

    def rows(self, table: str, indices: Array) -> Array:
        """Rows of a table for every sequence: [T] -> [n*T, C]"""
        tensor = self.model.tensors.get(table)
        return np.tile(tensor.take(indices) if tensor else self.model.parameter(table, indices), (self.n, 1))

    def vector(self, name: str) -> Array:
        """A gain or a bias, [C]"""
        tensor = self.model.tensors.get(name)
        return tensor.read() if tensor else self.model.parameter(name)

    def matrix(self, name: str) -> Array:
        """A whole matrix, [out, in]: all heads of a layer have their shares of one."""
        if self._last is None or self._last[0] != name:
            self._last = name, self.vector(name)
        return self._last[1]

    def forget(self) -> None:
        """Let go of the matrix that was read last."""
        self._last = None

    def product(self, x: Array, weight: str, bias: str | None) -> Array:
        """x @ W.T + b: [N, in] -> [N, out]"""
        known = None if bias is None else self.vector(bias)
        if (tensor := self.model.tensors.get(weight)) is not None:
            return linear(x, tensor, known, self.workers)
        y = x @ self.model.parameter(weight).T
        return y if known is None else y + known

    def product_back(self, dy: Array, weight: str) -> Array:
        """dy @ W, of a stored matrix a block of rows at a time: [N, out] -> [N, in]"""
        if (tensor := self.model.tensors.get(weight)) is None:
            return dy @ self.model.parameter(weight)
        out, width = tensor.shape
        dx, size = np.zeros((len(dy), width), dy.dtype), max(1, ELEMENTS // width)
        for start in range(0, out, size):
            own = slice(start, min(start + size, out))
            dx += dy[:, own] @ tensor.rows(own.start, own.stop)
        return dx

    def turns(self, kind: Rotation) -> tuple[Array, Array]:
        """cos and sin of every position of every sequence, [n*T, 1, D/2] each."""
        key = kind.rope, kind.head_dim
        turns = self._turns.get(key)
        if turns is None:
            turns = self._turns[key] = rope_turns(*key, self.positions, self.model.dtype)
        if self.n == 1:
            return turns
        tiled = self._tiled.get(key)
        if tiled is None or len(tiled[0]) != self.n * len(self.positions):
            cos, sin = (np.tile(a, (self.n, 1, 1)) for a in turns)
            tiled = self._tiled[key] = cos, sin
        return tiled

    def groups(self, group: tuple[int, ...], count: int) -> Array:
        """Whose keys and values each head has, `count` of them in a sequence: [n*H]"""
        key = group, count, self.n
        found = self._groups.get(key)
        if found is None:
            found = self._groups[key] = np.add.outer(np.arange(self.n) * count, group).ravel()
        return found

"""PassState: what the rows of a pass share: parameters, tokens, positions, cache."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...arrays.linear import PARALLEL, linear
from ...arrays.stats import Array
from ...arrays.threads import available_cores
from ...hooks.bus import SILENT, Tap
from ..plans.kinds import Rotation
from ..plans.plan import NOTHING
from ..plans.rope import rope_turns

if TYPE_CHECKING:
    from ..model import LanguageModel
    from .kv_cache import Cache

ELEMENTS = 1 << 20  # of a stored matrix that are decoded at a time


class Gradients(NamedTuple):
    """d loss / d what an operation reads: its inputs in their order, its parameters by name where wanted."""

    inputs: tuple[Array, ...]
    parameters: Mapping[str, Array] = NOTHING


@dataclass
class PassState:
    """A pass of n sequences of T tokens each, one after another: [N], N = n*T.

    With a cache, which is for one sequence, the tokens follow those that it has seen. A pack has sequences of
    several lengths: `groups` are passes of those of equal length, each with its rows of all N.
    """

    model: LanguageModel
    tokens: Array = field(default_factory=lambda: np.empty(0, np.intp))  # [N]
    n: int = 1
    tap: Tap = SILENT
    cache: Cache | None = None
    targets: Sequence[int | None] = ()  # what follows each position, as far as that is known
    wanted: frozenset[str] = frozenset()  # the parameters whose gradients are
    groups: Sequence[tuple[slice, PassState]] = ()

    def under(self, tap: Tap) -> PassState:
        """The same pass under another tap, with what was worked out once."""
        other = replace(self, tap=tap)
        other._once = self._once
        return other

    def __post_init__(self) -> None:
        self.workers = min(2, available_cores())
        self._once: dict[Hashable, Any] = {}
        self._last: tuple[str, Array] | None = None

    @property
    def positions(self) -> Array:
        """Where each row stands in its sequence: [N]"""
        found: Array = self.once("positions", self._positions)
        return found

    def _positions(self) -> Array:
        if self.groups:
            return np.concatenate([own.positions for _, own in self.groups])
        start = self.cache.length if self.cache else 0
        return np.tile(np.arange(start, start + len(self.tokens) // self.n), self.n)

    @property
    def attention_workers(self) -> int:
        """How many threads share the heads."""
        return self.workers if len(self.tokens) > PARALLEL else 1

    def rows(self, table: str, indices: Array) -> Array:
        """Rows of a table: [N] -> [N, C]"""
        tensor = self.model.tensors.get(table)
        return tensor.take(indices) if tensor else self.model.parameter(table, indices)

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

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        """What is worked out once for all layers."""
        if key not in self._once:
            self._once[key] = make()
        return self._once[key]

    def turns(self, kind: Rotation) -> tuple[Array, Array]:
        """cos and sin of every row's position, [N, 1, D/2] each."""
        turns: tuple[Array, Array] = self.once(
            (kind.rope, kind.head_dim),
            lambda: rope_turns(kind.rope, kind.head_dim, self.positions, self.model.dtype),
        )
        return turns

    def keys_of_heads(self, group: tuple[int, ...], count: int) -> Array:
        """Whose keys and values each head has, `count` of them in a sequence: [n*H]"""
        keys: Array = self.once(
            (group, count), lambda: np.add.outer(np.arange(self.n) * count, group).ravel()
        )
        return keys

"""PassState: what the rows of one forward or backward pass share. The KV cache is in kv_cache.py."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ...arrays.linear import PARALLEL
from ...arrays.stats import Array
from ...arrays.threads import available_cores
from ...hooks.bus import SILENT, Tap
from ..plans.kinds import Rotation
from ..plans.plan import NOTHING
from ..plans.rope import rope_turns
from .kv_cache import KVCache

if TYPE_CHECKING:
    from ..model import LanguageModel


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
    cache: KVCache | None = None
    targets: Sequence[int | None] = ()  # what follows each position, as far as that is known
    wanted: frozenset[str] = frozenset()  # the parameters whose gradients are
    groups: Sequence[tuple[slice, PassState]] = ()
    _once: dict[Hashable, Any] = field(default_factory=dict)  # which a copy of the pass shares
    _last: tuple[str, Array] | None = None  # the matrix that was asked for last

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
        return min(2, available_cores()) if len(self.tokens) > PARALLEL else 1

    def matrix(self, name: str) -> Array:
        """A whole matrix, [out, in], kept until another is asked for: heads have their shares of one."""
        if self._last is None or self._last[0] != name:
            self._last = name, self.model.parameter(name)
        return self._last[1]

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

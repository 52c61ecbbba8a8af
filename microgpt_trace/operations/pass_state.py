"""PassState: the state that the rows of one forward or backward pass share. KVCache: the keys and values of
the positions that a model has processed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np

from ..arrays.stats import Array
from ..arrays.threads import PARALLEL, available_cores
from ..hooks.bus import SILENT, Tap
from ..plans.kinds import Rotation, first_key
from ..plans.plan import NOTHING
from ..plans.rope import Rope, rope_turns

if TYPE_CHECKING:
    from ..models.language_model import LanguageModel

T = TypeVar("T")
BLOCK = 1 << 20  # elements of the scores of a block of queries: 4 MB


class Gradients(NamedTuple):
    """The gradients of an operation's inputs, in order, and of its requested parameters, by name."""

    inputs: tuple[Array, ...]
    parameters: Mapping[str, Array] = NOTHING


@dataclass
class KVCache:
    """The KV cache of one sequence. `rows` stores keys and values by the names of their events, which several
    layers may read."""

    capacity: int  # positions
    length: int = 0  # the number of positions whose pass is complete
    text_length: int = 0  # in longrope, the length of the text if more positions follow
    rows: dict[str, Array] = field(default_factory=dict)  # the name of the event -> [G, capacity, D]

    def extend(self, name: str, new: Array) -> Array:
        """Append keys or values [G, T, D] of new positions. Return the array [G, S, D] of all positions.

        `length` does not change here. The interpreter's `forward` increases `length` after the pass.
        """
        if name not in self.rows:
            self.rows[name] = np.empty((new.shape[0], self.capacity, new.shape[2]), new.dtype)
        stop = self.length + new.shape[1]
        self.rows[name][:, self.length : stop] = new
        return self.rows[name][:, :stop]


class QueryBlock(NamedTuple):
    """Queries whose attention is computed together. They see no key after the last of them."""

    queries: slice  # the queries, among the positions of the pass
    rows: slice  # the rows of scores, weights and context that are computed
    keys: int  # the number of keys up to the last query

    def first(self, window: int | None) -> int:
        """Return the first key in the window of the first query."""
        start = self.keys - (self.queries.stop - self.queries.start)
        return max(0, first_key(start, window))


@dataclass
class PassState:
    """A pass over n sequences of T tokens each. The N = n*T rows of a pass are sorted by sequence.

    If there is a KV cache, n is 1 and the tokens continue the cached tokens. A pack contains sequences of
    several lengths. For each length, `groups` contains rows and the state of a pass.
    """

    model: LanguageModel
    tokens: Array = field(default_factory=lambda: np.empty(0, np.intp))  # [N]
    n: int = 1
    tap: Tap = SILENT
    cache: KVCache | None = None
    targets: Sequence[int | None] = ()  # the token after each position, or None
    wanted: frozenset[str] = frozenset()  # the parameters whose gradients are requested
    groups: Sequence[tuple[slice, PassState]] = ()
    block: QueryBlock | None = None  # the only queries whose attention is computed, or None for all queries
    lasting: dict[str, Array] = field(default_factory=dict)  # values for later layers; shared with copies
    _once: dict[Hashable, Any] = field(default_factory=dict)  # results of `once`, shared with copies
    _last: tuple[str, Array] | None = None  # name and value of the last requested matrix

    @property
    def positions(self) -> Array:
        """The position of each row in its sequence: [N]"""
        return self.once("positions", self._positions)

    def _positions(self) -> Array:
        if self.groups:
            return np.concatenate([group.positions for _, group in self.groups])
        start = self.cache.length if self.cache else 0
        return np.tile(np.arange(start, start + len(self.tokens) // self.n), self.n)

    @property
    def attention_workers(self) -> int:
        """The number of threads that share the heads."""
        return min(2, available_cores()) if len(self.tokens) > PARALLEL else 1

    def blocks(self, heads: int) -> list[QueryBlock]:
        """Return the blocks of queries of a layer with this number of heads. A short text has one block."""
        if self.block is not None:
            queries = self.block.queries
            return [self.block._replace(rows=slice(queries.stop - queries.start))]
        length, past = len(self.tokens) // self.n, self.cache.length if self.cache else 0
        size = max(1, BLOCK // (heads * (past + length)))
        slices = [slice(start, min(start + size, length)) for start in range(0, length, size)]
        return [QueryBlock(queries, queries, past + queries.stop) for queries in slices]

    def matrix(self, name: str) -> Array:
        """Return a whole matrix [out, in]. The matrix is cached until another matrix is requested, since all
        heads of a layer read the same matrix."""
        if self._last is None or self._last[0] != name:
            self._last = name, self.model.parameter(name)
        return self._last[1]

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return the result of `make`. In each pass, `make` is called only once per key."""
        if key not in self._once:
            self._once[key] = make()
        result: T = self._once[key]
        return result

    def turns(self, kind: Rotation) -> tuple[Array, Array]:
        """Return cos and sin for the position of every row, [N, 1, n/2] each."""
        return self.once((kind.rope, kind.channels), lambda: self._turns(kind.rope, kind.channels))

    def _turns(self, rope: Rope, channels: int) -> tuple[Array, Array]:
        if rope.kind == "longrope" and self.groups:  # the frequencies depend on the length of a text
            cos, sin = zip(*(group._turns(rope, channels) for _, group in self.groups), strict=True)
            return np.concatenate(cos), np.concatenate(sin)
        longer = (self.cache.text_length,) if self.cache and rope.kind == "longrope" else ()
        return rope_turns(rope, channels, self.positions, self.model.dtype, *longer)

    def keys_of_heads(self, group: tuple[int, ...], count: int) -> Array:
        """Return the number of each head's key-value head: [n*H]. A sequence has `count` key-value heads."""
        return self.once((group, count), lambda: np.add.outer(np.arange(self.n) * count, group).ravel())

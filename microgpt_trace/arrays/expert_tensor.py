"""ExpertTensor: the matrices or biases of all experts of a layer, which a file stores in several pieces."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import field, replace

import numpy as np

from ..text.frozen import frozen
from .encodings import StoredTensor
from .stats import Array

NONE = np.empty(0, np.uint8)


@frozen(eq=False)
class ExpertTensor(StoredTensor):
    """The matrices [experts, out, in] or the biases [experts, out] of a layer. `part` returns the tensor of
    an expert, without reading its bytes. `stored` is empty."""

    part: Callable[[int], StoredTensor] = field(repr=False, kw_only=True)

    @classmethod
    def of(cls, name: str, experts: int, part: Callable[[int], StoredTensor]) -> ExpertTensor:
        """Return the tensor of `experts` parts, which have equal shapes and encodings."""
        first = part(0)
        return cls(name, first.encoding, (experts, *first.shape), NONE, part=part)

    def of_expert(self, expert: int) -> StoredTensor:
        return self.part(expert)

    @property
    def size_in_bytes(self) -> int:
        return math.prod(self.shape) // self.encoding.block_size * self.encoding.block_bytes

    @property
    def by_columns(self) -> bool:
        return self.part(0).by_columns

    def column(self, column: int) -> Array:
        return self.read()[:, column]

    def _decode(self, start: int, stop: int) -> Array:
        return self._gather(np.arange(start, stop))

    def _gather(self, indices: Array) -> Array:
        rows = [self.part(int(e)).read().reshape(1, -1) for e in indices]
        return np.concatenate(rows) if rows else np.empty((0, self.row_length), np.float32)


@frozen(eq=False)
class TurnedHeads(StoredTensor):
    """A matrix [heads * out, in] that a file stores head by head as [heads, in, out]. `stored` is empty."""

    whole: StoredTensor = field(repr=False, kw_only=True)

    @property
    def size_in_bytes(self) -> int:
        return self.whole.size_in_bytes

    def column(self, column: int) -> Array:
        return self.read()[:, column]

    def _decode(self, start: int, stop: int) -> Array:
        return self._gather(np.arange(start, stop))

    def _gather(self, indices: Array) -> Array:
        rows = np.empty((len(indices), self.row_length), np.float32)
        heads, columns = np.divmod(indices, self.whole.shape[2])
        for head in np.unique(heads):
            own = heads == head
            rows[own] = self.whole.of_expert(int(head)).read().T[columns[own]]
        return rows


def of_heads(tensor: StoredTensor, turned: bool) -> StoredTensor:
    """Return the matrix [heads * out, in] of a tensor [heads, out, in], or [heads, in, out] if `turned`."""
    heads, first, second = tensor.shape
    if not turned:
        return replace(tensor, shape=(heads * first, second))
    encoding = replace(tensor.encoding, unpack=None)  # products decode rows, which lie across blocks
    return TurnedHeads(tensor.name, encoding, (heads * second, first), NONE, whole=tensor)


def in_pieces(*tensors: StoredTensor) -> Iterator[tuple[StoredTensor, ...]]:
    """Yield tensors of equal shapes together. If the bytes of a tensor lie in several pieces, yield the
    tensors of each expert together."""
    if not any(isinstance(tensor, ExpertTensor) for tensor in tensors):
        yield tensors
        return
    for expert in range(tensors[0].shape[0]):
        yield tuple(tensor.of_expert(expert) for tensor in tensors)

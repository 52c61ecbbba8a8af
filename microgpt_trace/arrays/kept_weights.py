"""KeptWeights: the matrices that a model keeps ready for products, for models that run more than once."""

from __future__ import annotations

import math
from collections.abc import Iterable

from .encodings import StoredTensor
from .packed_tensor import packed_size
from .products import in_whole_blocks, packed


class KeptWeights:
    """Prepares matrices for products when they are used first, and keeps up to `memory` bytes of them.

    Quantised matrices are packed (PackedTensor), and others are unpacked as float32. This changes no bit of a
    product. The `tensors` with the fewest bytes per element are chosen first. Other tensors, such as those
    that replace some of them for an experiment, are returned as they are stored.
    """

    def __init__(self, tensors: Iterable[StoredTensor], memory: int) -> None:
        self._chosen: set[StoredTensor] = set()
        self._kept: dict[tuple[StoredTensor, int | None], StoredTensor] = {}
        sizes = {tensor: _size(tensor) for tensor in tensors if len(tensor.shape) > 1}
        for tensor in sorted(sizes, key=lambda own: sizes[own] / max(1, math.prod(own.shape))):
            if sizes[tensor] <= memory:
                self._chosen.add(tensor)
                memory -= sizes[tensor]

    def matrix(self, tensor: StoredTensor, expert: int | None) -> StoredTensor:
        """Return a matrix, or the matrix of an expert of a tensor [experts, out, in]."""
        if (tensor, expert) not in self._kept:
            own = tensor if expert is None else tensor.of_expert(expert)
            if tensor not in self._chosen:
                return own
            self._kept[tensor, expert] = packed(own) if in_whole_blocks(own) else own.unpacked()
        return self._kept[tensor, expert]


def _size(tensor: StoredTensor) -> int:
    """Return the number of bytes that a tensor takes once all of it is kept."""
    matrix = tensor if len(tensor.shape) == 2 else tensor.of_expert(0)
    return packed_size(tensor) if in_whole_blocks(matrix) else 4 * math.prod(tensor.shape)

"""KeptWeights: the matrices that a model keeps unpacked, for models that run more than once."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .encodings import StoredTensor

GB = 1_000_000_000
MEMORY = GB  # bytes to keep by default, however much is free, so that results do not depend on it


class KeptWeights:
    """Unpacks matrices when they are used first, and keeps up to `memory` bytes of them as float32.

    Which of the `tensors` are kept follows from their order, their sizes and `memory` alone. Other tensors,
    such as those that replace some of them for an experiment, are returned as they are stored.
    """

    def __init__(self, tensors: Iterable[StoredTensor], memory: int) -> None:
        self._chosen: set[StoredTensor] = set()
        self._unpacked: dict[tuple[StoredTensor, int | None], StoredTensor] = {}
        for tensor in tensors:
            size = 4 * math.prod(tensor.shape)
            if len(tensor.shape) > 1 and size <= memory and tensor not in self._chosen:
                self._chosen.add(tensor)
                memory -= size

    def matrix(self, tensor: StoredTensor, expert: int | None) -> StoredTensor:
        """Return a matrix, or the matrix of an expert of a tensor [experts, out, in]."""
        if (tensor, expert) not in self._unpacked:
            own = tensor if expert is None else tensor.of_expert(expert)
            if tensor not in self._chosen:
                return own
            self._unpacked[tensor, expert] = own.unpacked()
        return self._unpacked[tensor, expert]

"""PackedTensor: a quantised matrix with a copy in memory that products unpack in less time."""

from __future__ import annotations

from dataclasses import field, fields
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..text.frozen import frozen
from .encodings import Encoding, StoredTensor
from .stats import Array

Chunk: TypeAlias = tuple[Array, Array, Array | None]  # q [K/2 or K, R], d [K/run, R], m [minima, R]


@frozen(eq=False)
class PackedTensor(StoredTensor):
    """A matrix whose stored rows are also in memory, R rows at a time. There, the elements of a row are a
    column, scales d and minima m are float32, and two integers q share a byte if four bits can store every
    integer of the encoding. Then d is divided by 16. With these copies, a token of Qwen2.5-1.5B takes 0.3
    times as long, and a token of SmolLM2 0.4 times.
    """

    chunks: tuple[Chunk, ...] = field(repr=False, kw_only=True)

    @classmethod
    def of(cls, tensor: StoredTensor, chunks: tuple[Chunk, ...]) -> PackedTensor:
        return cls(*_fields(tensor), chunks=chunks)

    def columns(self, rows: slice) -> Chunk:
        """Return q, d and m of stored rows. Nothing is copied if the rows are in one chunk."""
        size = self.chunks[0][0].shape[1]
        first, last = rows.start // size, -(-rows.stop // size)
        if rows.start == first * size and self.chunks[first][0].shape[1] == rows.stop - rows.start:
            return self.chunks[first]
        columns = slice(rows.start - first * size, rows.stop - first * size)

        def joined(own: tuple[Array, ...]) -> Array:
            return (own[0] if len(own) == 1 else np.concatenate(own, axis=1))[:, columns]

        q, d, m = zip(*self.chunks[first:last], strict=True)
        return joined(q), joined(d), None if m[0] is None else joined(m)

    def of_rows(self, index: npt.ArrayLike) -> StoredTensor:
        return StoredTensor(*_fields(self)).of_rows(index)  # the chunks contain other rows


def _fields(tensor: StoredTensor) -> list[Any]:
    return [getattr(tensor, own.name) for own in fields(StoredTensor)]


def pack_integers(q: Array, encoding: Encoding) -> Array:
    """Copy integers: [K, R] -> [K/2, R] int8, with the second half in the high bits, or [K, R] int8 if four
    bits are too few."""
    q = q.astype(np.int8)
    low, high = q.reshape(2, -1, q.shape[1])
    return high << np.int8(4) | low & np.int8(15) if _packed_block(encoding)[0] else q


def packed_size(tensor: StoredTensor) -> int:
    """Return the number of bytes of the copy of a quantised tensor."""
    return tensor.size_in_bytes // tensor.encoding.block_bytes * _packed_block(tensor.encoding)[1]


@cache
def _packed_block(encoding: Encoding) -> tuple[bool, int]:
    """Return True if four bits can store every integer of the encoding, and the number of bytes of a packed
    block. Every integer is in one of 256 blocks that repeat a byte."""
    blocks = np.arange(256, dtype=np.uint8)[:, None, None].repeat(encoding.block_bytes, axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        q, d, m = encoding.integers(blocks)
    small = bool(q.min() >= -8 and q.max() <= 7)
    return small, encoding.block_size // (1 + small) + 4 * d.shape[1] * (1 if m is None else 2)

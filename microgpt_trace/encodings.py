"""The types of numbers in model files, and tensors as they lie there. Knows no file format.

Layouts are those of ggml (https://github.com/ggml-org/ggml) and, for AprQ4 and AprQ8, of .apr v2.
Shape letters as in unpacking.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from . import unpacking
from .brief import one_line
from .stats import Array
from .unpacking import Quants

CHUNK = 600_000  # elements decoded at once: float32 that still fits the caches


@dataclass(frozen=True, slots=True)
class Encoding:
    """A type of stored numbers: blocks of `block_bytes` bytes that hold `block_size` numbers each.

    `decode` takes blocks [N, B] uint8 and gives [N, S] float32. Quantised types have `unpack`,
    which takes [N, B, R] and leaves integers, scales and minima apart. `minima` is how many minima a
    block has, `centre` the middle of the integers of a type that has minima.
    """

    name: str
    block_size: int
    block_bytes: int
    decode: Callable[[Array], Array] = field(repr=False)
    unpack: Callable[[Array], Quants] | None = field(repr=False, default=None)
    minima: int = 0
    centre: int = 0


def _quantised(
    name: str, block_size: int, block_bytes: int, unpack: Callable[[Array], Quants], minima: int = 0,
    centre: int = 0,
) -> Encoding:  # fmt: skip
    def decode(blocks: Array) -> Array:
        return unpack(blocks[:, :, None]).values()[:, :, 0]

    return Encoding(name, block_size, block_bytes, decode, unpack, minima, centre)


ENCODINGS: dict[str, Encoding] = {
    encoding.name: encoding
    for encoding in (
        Encoding("F32", 1, 4, unpacking.f32),
        Encoding("F16", 1, 2, unpacking.f16),
        Encoding("BF16", 1, 2, unpacking.bf16),
        Encoding("AprQ8", 1, 1, unpacking.apr_q8),
        _quantised("AprQ4", 32, 18, unpacking.apr_q4),
        _quantised("Q4_0", 32, 18, unpacking.q4_0),
        _quantised("Q4_1", 32, 20, unpacking.q4_1, minima=1, centre=8),
        _quantised("Q5_0", 32, 22, unpacking.q5_0),
        _quantised("Q5_1", 32, 24, unpacking.q5_1, minima=1, centre=16),
        _quantised("Q8_0", 32, 34, unpacking.q8_0),
        _quantised("Q2_K", 256, 84, unpacking.q2_k, minima=16, centre=2),
        _quantised("Q3_K", 256, 110, unpacking.q3_k),
        _quantised("Q4_K", 256, 144, unpacking.q4_k, minima=8, centre=8),
        _quantised("Q5_K", 256, 176, unpacking.q5_k, minima=8, centre=16),
        _quantised("Q6_K", 256, 210, unpacking.q6_k),
    )
}


@dataclass(frozen=True, slots=True, eq=False)
class StoredTensor:
    """A tensor as it lies in a file: nothing is read before it is used.

    `shape` is [out, in] for matrices, whatever order the file has; `stored` is a read-only uint8 view of
    exactly the tensor's blocks, and `check` raises where the file no longer has them. `row_size` is how
    many elements a row takes up where its blocks are padded, `scale` AprQ8's one factor of all elements.
    """

    name: str  # as the file has it
    encoding: Encoding
    shape: tuple[int, ...]
    stored: Array
    row_size: int | None = None
    scale: float = 1.0
    check: Callable[[], None] = field(repr=False, default=lambda: None)

    __repr__ = one_line

    @property
    def data(self) -> Array:
        """`stored`, checked."""
        self.check()
        return self.stored

    @property
    def row_length(self) -> int:
        """How many elements a row has; 1 for a vector."""
        return math.prod(self.shape[1:])

    @property
    def stride(self) -> int:
        """How many elements a row takes up in the file."""
        return self.row_size or self.row_length

    def read(self) -> Array:
        """The whole tensor, float32, decoded a chunk of rows at a time."""
        count = self.shape[0] if self.shape else 1
        rows = max(1, CHUNK // max(1, self.stride))
        values = np.empty((count, self.row_length), np.float32)
        for start in range(0, count, rows):
            values[start : start + rows] = self._decode(start, min(start + rows, count))
        return values.reshape(self.shape)

    def rows(self, start: int, stop: int) -> Array:
        """Rows start to stop (elements, of a vector), float32; a view of the file where it holds F32."""
        return self._decode(start, stop).reshape(-1, *self.shape[1:])

    def take(self, ids: npt.ArrayLike) -> Array:
        """The rows with these indices, float32, repeats included: [n] -> [n, in]"""
        indices = np.asarray(ids)
        if self.stride % self.encoding.block_size or not indices.size:
            rows = [self._decode(i, i + 1) for i in indices.tolist()]
            return np.concatenate([np.empty((0, self.row_length), np.float32), *rows])
        return self._values(self.data.reshape(self.shape[0], -1)[indices], len(indices), 0)

    def _decode(self, start: int, stop: int) -> Array:
        """[stop - start, row_length]; rows need not begin at a block's border."""
        size, block_bytes = self.encoding.block_size, self.encoding.block_bytes
        first, last = start * self.stride // size, -(-stop * self.stride // size)
        return self._values(
            self.data[first * block_bytes : last * block_bytes],
            stop - start,
            start * self.stride - first * size,
        )

    @np.errstate(over="ignore", invalid="ignore")  # scales may be NaN or infinite
    def _values(self, data: Array, count: int, skip: int) -> Array:
        """`count` rows from whole blocks, without the first `skip` elements and the rows' padding."""
        flat = self.encoding.decode(data.reshape(-1, self.encoding.block_bytes)).reshape(-1)[skip:]
        values = flat[: count * self.stride].reshape(count, self.stride)[:, : self.row_length]
        return values if self.scale == 1.0 else values * np.float32(self.scale)

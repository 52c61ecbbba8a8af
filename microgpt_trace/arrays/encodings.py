"""The encodings of numbers in model files, and tensors as they are stored in files.

The layouts are ggml's (https://github.com/ggml-org/ggml), except AprQ4 and AprQ8, which .apr v2 defines.
dequantisation.py explains the shape letters.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import field, replace

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..text.brief import brief
from ..text.frozen import frozen
from . import dequantisation
from .dequantisation import Quants
from .stats import Array

CHUNK = 600_000  # number of elements to decode at a time; as float32 they fit the caches


@frozen
class Encoding:
    """A type of stored numbers, which come in blocks of `block_bytes` bytes with `block_size` numbers each.

    `decode` converts blocks [N, B] uint8 to [N, S] float32. If S is 1, `decode` also takes strided blocks [N,
    M, B]. Quantised types have `unpack`, which takes [N, B, R] and returns integers, scales and minima
    separately. `minima` is the number of minima in a block. For a type with minima, `centre` is the middle of
    the range of integers. With a `codebook`, the integers are the numbers of this code book, in the order of
    their codes, and `unpack` also takes another code book.
    """

    name: str
    block_size: int
    block_bytes: int
    decode: Callable[[Array], Array] = field(repr=False)
    unpack: Callable[..., Quants] | None = field(repr=False, default=None)
    minima: int = 0
    centre: int = 0
    codebook: tuple[int, ...] = field(repr=False, default=())

    def integers(self, blocks: Array) -> Quants:
        """Unpack blocks [N, B, R] of a quantised type to int8 integers around 0, which avoid differences of
        large sums: a product has an error of 4e-7 instead of 2e-6 (or 1e-5 if all inputs are positive)."""
        assert self.unpack is not None
        quants = self.unpack(blocks)
        return quants.centred(self.centre) if self.minima else quants


def _quantised(
    name: str, block_size: int, block_bytes: int, unpack: Callable[..., Quants], minima: int = 0,
    centre: int = 0, codebook: tuple[int, ...] = (),
) -> Encoding:  # fmt: skip
    def decode(blocks: Array) -> Array:
        return unpack(blocks[:, :, None]).values()[:, :, 0]

    return Encoding(name, block_size, block_bytes, decode, unpack, minima, centre, codebook)


ENCODINGS: dict[str, Encoding] = {
    encoding.name: encoding
    for encoding in (
        Encoding("F32", 1, 4, dequantisation.f32),
        Encoding("F16", 1, 2, dequantisation.f16),
        Encoding("BF16", 1, 2, dequantisation.bf16),
        Encoding("AprQ8", 1, 1, dequantisation.apr_q8),
        _quantised("AprQ4", 32, 18, dequantisation.apr_q4),
        _quantised("Q4_0", 32, 18, dequantisation.q4_0),
        _quantised("Q4_1", 32, 20, dequantisation.q4_1, minima=1, centre=8),
        _quantised("Q5_0", 32, 22, dequantisation.q5_0),
        _quantised("Q5_1", 32, 24, dequantisation.q5_1, minima=1, centre=16),
        _quantised("Q8_0", 32, 34, dequantisation.q8_0),
        _quantised("Q2_K", 256, 84, dequantisation.q2_k, minima=16, centre=2),
        _quantised("Q3_K", 256, 110, dequantisation.q3_k),
        _quantised("Q4_K", 256, 144, dequantisation.q4_k, minima=8, centre=8),
        _quantised("Q5_K", 256, 176, dequantisation.q5_k, minima=8, centre=16),
        _quantised("Q6_K", 256, 210, dequantisation.q6_k),
        _quantised("IQ4_NL", 32, 18, dequantisation.iq4_nl, codebook=dequantisation.IQ4),
        _quantised("IQ4_XS", 256, 136, dequantisation.iq4_xs, codebook=dequantisation.IQ4),
        _quantised("MXFP4", 32, 17, dequantisation.mxfp4, codebook=dequantisation.E2M1),
    )
}
# Short floats by their names in torch. The 8-bit floats are not in ENCODINGS, because weights of these types
# have scales in other tensors. Activations have none.
FLOATS: dict[str, Encoding] = {
    "float16": ENCODINGS["F16"],
    "bfloat16": ENCODINGS["BF16"],
    "float8_e4m3fn": Encoding("F8_E4M3", 1, 1, dequantisation.f8_e4m3),
    "float8_e5m2": Encoding("F8_E5M2", 1, 1, dequantisation.f8_e5m2),
}
U8 = Encoding("U8", 1, 1, dequantisation.u8)  # bytes that belong to a tensor of another type


@frozen(eq=False)
class StoredTensor:
    """A tensor as it is stored in a file. The bytes of the tensor are read only when they are used.

    `shape` is [out, in] for matrices, in any file format. `stored` is a read-only uint8 view of the tensor's
    blocks, and `check` raises an error if the file has become shorter. If rows are padded, `row_size` is the
    number of elements that a row takes in the file. AprQ8 multiplies all elements by `scale`. `plus` is added
    to all elements, because some files store the gain of a norm less 1.

    If the file stores a matrix as [in, out] (see `transposed`), a stored row is a column of the file's
    matrix, and `stored` is a view [out, in, B].

    `order` has, for each row of this tensor, the number of the stored row. If `order` is None, the tensor has
    all stored rows in the order of the file. `of_rows` sets `order`, and `rows`, `take` and `read` return
    rows in this order. Code that computes something for all stored rows (`as_stored`) must order its result
    with `ordered`.
    """

    name: str  # the tensor's name in the file
    encoding: Encoding
    shape: tuple[int, ...]
    stored: Array
    row_size: int | None = None
    scale: float = 1.0
    check: Callable[[], None] = field(repr=False, default=lambda: None)
    order: Array | None = field(repr=False, default=None)  # [out] integers
    plus: float = 0.0

    @property
    def data(self) -> Array:
        """`stored`, after `check`."""
        self.check()
        return self.stored

    @property
    def size_in_bytes(self) -> int:
        """The number of bytes in the file."""
        return self.data.size

    @property
    def row_length(self) -> int:
        """The number of elements of a row. A vector has rows of 1 element."""
        return self.shape[1] if len(self.shape) == 2 else math.prod(self.shape[1:])

    @property
    def stride(self) -> int:
        """The number of elements that a row takes in the file, including padding."""
        return self.row_size or self.row_length

    @property
    def by_columns(self) -> bool:
        """True if a stored row is a column of the file's matrix."""
        return self.stored.ndim == 3

    @property
    def permuted(self) -> bool:
        """True if the order of the rows differs from the file."""
        return self.order is not None and bool((np.diff(self.order) < 0).any())

    def in_order_of(self, other: StoredTensor) -> bool:
        """Return True if both tensors take the same stored rows in the same order."""
        if self.order is None or other.order is None:
            return self.order is other.order
        return np.array_equal(self.order, other.order)

    def transposed(self) -> StoredTensor:
        """Return a tensor [out, in] for a matrix that the file stores as [in, out]. No bytes of the matrix
        are read. Raises InputError if the tensor is not a matrix in the layout of the file, or if a block has
        several elements, because a block cannot be cut."""
        if len(self.shape) != 2 or self.by_columns or self.order is not None:
            found = f"{list(self.shape)}" + ", already transposed or reordered" * (len(self.shape) == 2)
            raise InputError(f"tensor {self.name!r}: expected a matrix [in, out], found {found}")
        if self.encoding.block_size != 1:
            raise InputError(f"tensor {self.name!r}: {self.encoding.name} cannot be stored as [in, out]")
        rows, columns = self.shape
        blocks = self.stored.reshape(rows, self.stride, self.encoding.block_bytes)[:, :columns]
        return replace(self, shape=(columns, rows), stored=blocks.swapaxes(0, 1), row_size=None)

    def of_expert(self, expert: int) -> StoredTensor:
        """Return the matrix of one expert, of a tensor [experts, out, in]. No bytes are read."""
        size = self.stored.size // self.shape[0]
        part = self.stored[expert * size : (expert + 1) * size]
        return replace(self, shape=self.shape[1:], stored=part)

    def of_rows(self, index: npt.ArrayLike) -> StoredTensor:
        """Return a tensor of the rows `index`, such as all rows in another order, or a part of a fused
        matrix. No bytes are read. Stored rows before the first and after the last row of `index` are dropped.
        Raises InputError if `index` is not a list of row numbers.
        """
        rows, count = np.asarray(index), math.prod(self.shape[:1])
        if rows.ndim != 1 or rows.dtype.kind not in "iu" or not rows.size:
            raise InputError(f"tensor {self.name!r}: expected numbers of its rows, found {brief(index)}")
        wrong = rows[(rows < 0) | (rows >= count)]
        if wrong.size:
            raise InputError(f"tensor {self.name!r}: expected rows 0 to {count - 1}, found {wrong[0]}")
        rows = rows.astype(np.intp) if self.order is None else self.order[rows]
        first, stop = int(rows.min()), int(rows.max()) + 1
        start, odd = divmod(first * self.stride, self.encoding.block_size)
        if odd:  # a row begins within a block, and blocks cannot be cut
            first = start = 0
        end, block_bytes = -(-stop * self.stride // self.encoding.block_size), self.encoding.block_bytes
        part = slice(first, stop) if self.by_columns else slice(start * block_bytes, end * block_bytes)
        rows -= first
        rows.flags.writeable = False
        order = None if np.array_equal(rows, np.arange(stop - first)) else rows
        return replace(self, shape=(rows.size, *self.shape[1:]), stored=self.stored[part], order=order)

    def in_file_order(self) -> StoredTensor:
        """Return a tensor of this tensor's rows, in the order of the file."""
        return self if self.order is None else self.of_rows(np.argsort(self.order))

    def as_stored(self) -> StoredTensor:
        """Return a tensor of all stored rows in the order of the file. The stored rows may outnumber the rows
        of this tensor."""
        if self.order is None:
            return self
        elements = self.stored.size // self.encoding.block_bytes * self.encoding.block_size
        return replace(self, shape=(elements // self.stride, *self.shape[1:]), order=None)

    def ordered(self, values: Array, axis: int = 0) -> Array:
        """Return `values`, computed for all stored rows, as values for this tensor's rows in their order."""
        return values if self.order is None else values.take(self.order, axis)

    def read(self) -> Array:
        """Return all elements as float32. Rows are decoded a chunk at a time."""
        count = self.shape[0] if self.shape else 1
        rows = max(1, CHUNK // max(1, self.stride))
        values = np.empty((count, self.row_length), np.float32)
        for start in range(0, count, rows):
            values[start : start + rows] = self._rows(start, min(start + rows, count))
        return values.reshape(self.shape)

    @property
    def is_plain(self) -> bool:
        """True if the file stores F32 row after row, so that `rows` returns a view."""
        changed = self.order is not None or self.by_columns or self.plus or self.scale != 1.0
        return self.encoding is ENCODINGS["F32"] and self.row_size is None and not changed

    def unpacked(self) -> StoredTensor:
        """Return the tensor as F32 in memory, or the tensor itself if it is plain."""
        if self.is_plain:
            return self
        return StoredTensor(self.name, ENCODINGS["F32"], self.shape, self.read().reshape(-1).view(np.uint8))

    def rows(self, start: int, stop: int) -> Array:
        """Return rows `start` to `stop`, or these elements of a vector, as float32. The result may be a view
        of the file."""
        return self._rows(start, stop).reshape(-1, *self.shape[1:])

    def take(self, ids: npt.ArrayLike) -> Array:
        """Return the rows with these indices as float32. Indices may repeat: [n] -> [n, in]"""
        indices = np.asarray(ids, np.intp)
        rows = self._gather(indices if self.order is None else self.order[indices])
        return rows.reshape(-1, *self.shape[1:]) if len(self.shape) > 2 else rows

    def column(self, column: int) -> Array:
        """Return a column of a matrix as float32 [out]. Only one block of each row is decoded."""
        size, block_bytes = self.encoding.block_size, self.encoding.block_bytes
        if self.stride % size:
            return np.array([self.rows(i, i + 1)[0, column] for i in range(self.shape[0])])
        at, within = divmod(column, size)
        blocks = self.data.reshape(self.as_stored().shape[0], -1, block_bytes)[:, at]
        values = self._values(np.ascontiguousarray(blocks)).reshape(len(blocks), -1)
        return self.ordered(values[:, within])

    def _rows(self, start: int, stop: int) -> Array:
        return self._decode(start, stop) if self.order is None else self._gather(self.order[start:stop])

    def _decode(self, start: int, stop: int) -> Array:
        """Decode stored rows `start` to `stop`, which may begin within a block: [stop - start, row_length]"""
        if self.by_columns:
            return self._values(self.data[start:stop])[:, :, 0]
        size, block_bytes, stride = self.encoding.block_size, self.encoding.block_bytes, self.stride
        first, last = start * stride // size, -(-stop * stride // size)
        blocks = self.data[first * block_bytes : last * block_bytes].reshape(-1, block_bytes)
        flat = self._values(blocks).reshape(-1)
        flat = flat[start * stride - first * size :][: (stop - start) * stride]
        return flat.reshape(stop - start, stride)[:, : self.row_length]

    def _gather(self, indices: Array) -> Array:
        """Decode the stored rows with these indices. No blocks of other rows are decoded: [n] -> [n,
        row_length]"""
        size, block_bytes = self.encoding.block_size, self.encoding.block_bytes
        if not indices.size:
            return np.empty((0, self.row_length), np.float32)
        if self.stride % size == 0:
            rows = self.data.reshape(-1, self.stride // size, block_bytes)[indices]
            values = self._values(rows.reshape(-1, block_bytes))
            return values.reshape(len(indices), self.stride)[:, : self.row_length]
        elements = indices[:, None] * self.stride + np.arange(self.row_length)
        blocks, places = np.unique(elements // size, return_inverse=True)
        values = self._values(self.data.reshape(-1, block_bytes)[blocks])
        return values[places.reshape(elements.shape), elements % size]

    @np.errstate(over="ignore", invalid="ignore")  # scales may be NaN or infinite
    def _values(self, blocks: Array) -> Array:
        """Decode blocks: [N, B] -> [N, S]"""
        values = self.encoding.decode(blocks)
        values = values if self.scale == 1.0 else values * np.float32(self.scale)
        return values if self.plus == 0.0 else values + np.float32(self.plus)

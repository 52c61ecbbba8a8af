"""Products of activations and gradients with stored weights, without unpacking a complete matrix.

Weights are unpacked a chunk of rows at a time, into memory that is reused. In shapes, T is the number of
positions and K the width of the input. A chunk has R rows of K/run runs. A run has `run` elements that share
a scale.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from functools import partial

import numpy as np

from .encodings import CHUNK, StoredTensor
from .packed_tensor import Chunk, PackedTensor, pack_integers
from .stats import Array
from .threads import PARALLEL, share

MAX_ROWS = 768  # largest number of rows of a chunk
LINES = 192  # rows to transpose at a time: each needs a line of the L1 cache. Saves 28% of SmolLM2's head
MANY = 8 * CHUNK  # use workers for more than PARALLEL positions or at least this many elements
# Activations and scales may be NaN or infinite. Used in a `with` statement, because a decorator costs 3 us.
ignoring = partial(np.errstate, over="ignore", invalid="ignore")


class _Workspace(threading.local):
    """Memory that a thread keeps between products, because allocating memory takes longer than computing with
    it."""

    def __init__(self) -> None:
        self.buffers: dict[str, Array] = {}
        self.views: dict[tuple[str, tuple[int, ...], type], Array] = {}  # 2 us less per product of a token

    def take(self, use: str, shape: tuple[int, ...], dtype: type) -> Array:
        """Return an array with undefined content. The array is valid until the next call with the same
        `use`."""
        if (view := self.views.get((use, shape, dtype))) is not None:
            return view
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if use not in self.buffers or self.buffers[use].size < size:
            self.buffers[use] = np.empty(size, np.uint8)
            self.views = {key: view for key, view in self.views.items() if key[0] != use}
        view = self.views[use, shape, dtype] = self.buffers[use][:size].view(dtype).reshape(shape)
        return view


_workspace = _Workspace()


def linear(x: Array, weight: StoredTensor, workers: int = 1) -> Array:
    """Return x @ weight.T: [T, K], [out, K] -> [T, out] float32

    The result is the same for any number of workers. If the rows of the weight have another order than in the
    file, the columns of the result are reordered, and the weight is not copied. An F32 weight that the file
    stores as [in, out] is not copied.
    """
    x, stored = np.ascontiguousarray(x, np.float32), weight.as_stored()
    y = np.empty((len(x), stored.shape[0]), np.float32)
    fill = _quantised_product(x, stored, y) if in_whole_blocks(stored) else _plain_product(x, stored, y)
    chunks = _chunks(stored, len(x))
    share(fill, chunks, workers if _is_shared(stored, len(x)) else 1)
    return weight.ordered(y, axis=1)


def linear_backward(dy: Array, weight: StoredTensor, workers: int = 1) -> Array:
    """Return dy @ weight, the gradient of the input of `linear`: [T, out], [out, K] -> [T, K] float32

    The result is the same for any number of workers, because every second chunk has a separate sum.
    """
    stored = weight.as_stored()
    if weight.order is None:
        dy = np.ascontiguousarray(dy, np.float32)
    else:  # the rows of a tensor are distinct
        own, dy = dy, np.zeros((len(dy), stored.shape[0]), np.float32)
        dy[:, weight.order] = own
    chunks, sums = _chunks(stored, len(dy)), np.zeros((2, len(dy), stored.row_length), np.float32)
    add = _add_quantised if in_whole_blocks(stored) else _add_plain

    def fill(half: int) -> None:
        with ignoring():
            for rows in chunks[half::2]:
                add(dy[:, rows], stored, rows, sums[half])

    share(fill, range(2), workers if _is_shared(stored, len(dy)) else 1)
    return sums[0] + sums[1] if len(chunks) > 1 else sums[0]


def packed(weight: StoredTensor) -> StoredTensor:
    """Return a matrix `in_whole_blocks` with the same products to the last bit, which are faster."""
    stored, chunks = weight.as_stored(), list[Chunk]()
    with ignoring():
        for rows in _chunks(stored, 1):
            q, d, m = _unpack(stored, rows)
            integers = pack_integers(q.reshape(-1, d.shape[1]), stored.encoding)
            in_nibbles = len(integers) < stored.row_length
            chunks.append((integers, d / np.float32(16) if in_nibbles else d.copy(), m))
    return PackedTensor.of(weight, tuple(chunks))


def in_whole_blocks(weight: StoredTensor) -> bool:
    """Return True if products can unpack the integers of a weight, or else decode its rows."""
    if weight.encoding.unpack is None or weight.scale != 1.0:
        return False
    return weight.stride == weight.row_length and weight.stride % weight.encoding.block_size == 0


def _is_shared(weight: StoredTensor, positions: int) -> bool:
    """Return True if workers share a product."""
    return positions > PARALLEL or weight.shape[0] * weight.stride >= MANY


def _chunks(weight: StoredTensor, positions: int) -> list[slice]:
    """Cut the rows into equal chunks of at most CHUNK elements. The number of chunks is even if workers are
    used."""
    out = weight.shape[0]
    most = min(MAX_ROWS, max(16, CHUNK // max(1, weight.stride)))
    count = -(-out // most)
    count += _is_shared(weight, positions) and count % 2
    rows = -(-out // count // 16) * 16
    return [slice(start, min(start + rows, out)) for start in range(0, out, rows)]


def _plain_product(x: Array, weight: StoredTensor, y: Array) -> Callable[[slice], None]:
    """Return a function that decodes a chunk of rows and writes the products of x with these rows to columns
    of y."""

    def fill(rows: slice) -> None:
        with ignoring():
            np.matmul(x, weight.rows(rows.start, rows.stop).T, out=y[:, rows])

    return fill


def _quantised_product(x: Array, weight: StoredTensor, y: Array) -> Callable[[slice], None]:
    """Return a function that unpacks a chunk of rows and writes the products of x with these rows to columns
    of y. The sum of (d * q + m) * x over a row has two parts: the product of d * q and x, and for each run m
    times the sum of x."""
    positions, width = x.shape
    minima = width // weight.encoding.block_size * weight.encoding.minima
    sums = x.reshape(positions, minima, -1).sum(axis=2) if minima and positions else None

    def fill(rows: slice) -> None:
        with ignoring():
            q, d, m = _unpack(weight, rows)
            # Multiply by d either the result of each run, or each weight, whichever is faster.
            scale_results = 3 * positions * len(q) < 2 * width
            product = _scale_results if scale_results else _scale_weights
            product(x, q, d, y[:, rows])
            if sums is not None and m is not None:
                y[:, rows] += sums.dot(m)

    return fill


def _add_plain(dy: Array, weight: StoredTensor, rows: slice, dx: Array) -> None:
    """Decode a chunk of rows, and add dy @ rows to dx: [T, R] -> [T, K]"""
    dx += dy @ weight.rows(rows.start, rows.stop)


def _add_quantised(dy: Array, weight: StoredTensor, rows: slice, dx: Array) -> None:
    """Unpack a chunk of rows, and add dy @ (d * q + m) to dx: [T, R] -> [T, K]"""
    q, d, m = _unpack(weight, rows)
    if 2 * len(dy) * len(q) < dx.shape[1]:  # multiply by d either dy, or each weight, whichever is faster
        products = (dy * d[:, None]) @ q.swapaxes(1, 2)
        dx.reshape(len(dx), *products.shape[::2])[...] += products.swapaxes(0, 1)
    else:
        q *= d[:, None]
        dx += dy @ q.reshape(dx.shape[1], -1).T
    if m is not None:
        dx.reshape(len(dx), len(m), -1)[...] += (dy @ m.T)[..., None]


def _unpack(weight: StoredTensor, rows: slice) -> tuple[Array, Array, Array | None]:
    """Unpack a chunk of rows: q [K/run, run, R] and d [K/run, R], and m [minima, R] if the encoding has
    minima. `q` is valid until the thread unpacks the next chunk."""
    width, count = weight.row_length, rows.stop - rows.start
    if isinstance(weight, PackedTensor):
        integers, d, m = weight.columns(rows)
        integers = integers if len(integers) == width else _from_nibbles(integers)
        q = _workspace.take("q", (len(d), width // len(d), count), np.float32)
        np.copyto(q.reshape(width, count), integers)
        return q, d, m
    quants = weight.encoding.integers(_transposed(weight, rows))
    runs = quants.d.shape[0] * quants.d.shape[1]
    q = _workspace.take("q", (runs, width // runs, count), np.float32)
    np.copyto(q.reshape(quants.runs().shape), quants.runs())
    return q, quants.d.reshape(runs, count), None if quants.m is None else quants.m.reshape(-1, count)


def _from_nibbles(nibbles: Array) -> Array:
    """Return 16 times the integers of `pack_integers`: [K/2, R] -> [K, R] int8. The scales are divided by 16:
    this changes no bit of a product, and saves 5% of a token, because nothing is shifted to the right."""
    q = _workspace.take("integers", (2, *nibbles.shape), np.int8)
    np.multiply(nibbles, np.int8(16), out=q[0])  # NumPy vectorises the product, but not a left shift
    np.bitwise_and(nibbles, np.int8(-16), out=q[1])
    return q.reshape(-1, nibbles.shape[1])


def _transposed(weight: StoredTensor, rows: slice) -> Array:
    """Copy the bytes of a chunk of rows, so that equal bytes of all rows lie side by side: [N, B, R]"""
    block_bytes = weight.encoding.block_bytes
    row_bytes = weight.stride // weight.encoding.block_size * block_bytes
    stored = weight.data[rows.start * row_bytes : rows.stop * row_bytes].reshape(-1, row_bytes)
    blocks = _workspace.take("blocks", stored.T.shape, np.uint8)
    for i in range(0, len(stored), LINES):
        np.copyto(blocks[:, i : i + LINES], stored[i : i + LINES].T)
    return blocks.reshape(-1, block_bytes, len(stored))


def _scale_results(x: Array, q: Array, d: Array, y: Array) -> None:
    """y = sum over runs of d * (x @ q): [T, K], [K/run, run, R], [K/run, R] -> [T, R]"""
    runs, run, count = q.shape
    products = _workspace.take("products", (runs, len(x), count), np.float32)
    np.matmul(x.reshape(len(x), runs, run).transpose(1, 0, 2), q, out=products)
    np.einsum("ntr,nr->tr", products, d, out=y)


def _scale_weights(x: Array, q: Array, d: Array, y: Array) -> None:
    """y = x @ (d * q): [T, K], [K/run, run, R], [K/run, R] -> [T, R]"""
    q *= d[:, None]
    np.matmul(x, q.reshape(x.shape[1], -1), out=y)

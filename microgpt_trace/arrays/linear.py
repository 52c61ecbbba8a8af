"""Products of activations with stored weights that never expand a whole matrix.

A chunk of rows at a time is unpacked into memory that is used again. Shape letters: T positions, K
width of the input; a chunk has R rows of K/run runs, a run being `run` elements that share a scale.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Callable, Iterable
from functools import cache, partial
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from .dequantisation import Quants
from .encodings import CHUNK, StoredTensor
from .stats import Array

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

Item = TypeVar("Item")
MAX_ROWS = 768  # rows whose bytes pass through the L1 cache side by side, a cache line each
PARALLEL, MANY = 32, 8  # more positions than the first, or this many chunks, are worth the workers
# Activations and scales may be NaN or infinite. A block within what is shared: as a decorator it costs 3 us.
ignoring = partial(np.errstate, over="ignore", invalid="ignore")


class _Workspace(threading.local):
    """Memory of one thread that lasts from product to product: fresh pages cost more than their use."""

    def __init__(self) -> None:
        self.buffers: dict[str, Array] = {}

    def take(self, use: str, shape: tuple[int, ...], dtype: type) -> Array:
        """An array of undefined content, valid until the same use asks again."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if use not in self.buffers or self.buffers[use].size < size:
            self.buffers[use] = np.empty(size, np.uint8)
        return self.buffers[use][:size].view(dtype).reshape(shape)


_workspace = _Workspace()


def linear(x: Array, weight: StoredTensor, workers: int = 1) -> Array:
    """x @ weight.T: [T, K], [out, K] -> [T, out] float32

    The result is the same for any number of workers. Of a weight whose rows come in another order than they
    are stored in, the columns of the result are put into that order: the weight is not copied, nor is one of
    F32 whose rows are columns of the file.
    """
    x, stored = np.ascontiguousarray(x, np.float32), weight.as_stored()
    y = np.empty((len(x), stored.shape[0]), np.float32)
    fill = _quantised_product(x, stored, y) if _in_whole_blocks(stored) else _plain_product(x, stored, y)
    chunks = _chunks(stored, len(x))
    share(fill, chunks, workers if len(x) > PARALLEL or len(chunks) >= MANY else 1)
    return weight.ordered(y, axis=1)


def share(fill: Callable[[Item], None], items: Iterable[Item], workers: int) -> None:
    """Call `fill` with every item, on so many threads."""
    if workers > 1:
        list(_pool(workers).map(fill, items))
    else:
        for item in items:
            fill(item)


@cache
def _pool(workers: int) -> ThreadPoolExecutor:
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(workers, thread_name_prefix="linear")


if hasattr(os, "register_at_fork"):  # a child has the pools, but not their threads, and would wait for them
    os.register_at_fork(after_in_child=_pool.cache_clear)


def _in_whole_blocks(weight: StoredTensor) -> bool:
    padded = weight.stride != weight.row_length or weight.stride % weight.encoding.block_size
    return not padded and weight.encoding.unpack is not None and weight.scale == 1.0


def _chunks(weight: StoredTensor, positions: int) -> list[slice]:
    """Even shares of the rows of at most CHUNK elements; pairs of them where workers may share them."""
    out = weight.shape[0]
    most = min(MAX_ROWS, max(16, CHUNK // max(1, weight.stride)))
    count = -(-out // most)
    if positions > PARALLEL:
        count += count % 2
    rows = -(-out // count // 16) * 16
    return [slice(start, min(start + rows, out)) for start in range(0, out, rows)]


def _plain_product(x: Array, weight: StoredTensor, y: Array) -> Callable[[slice], None]:
    """What fills columns of y with products of x and as many rows, decoded."""

    def fill(rows: slice) -> None:
        with ignoring():
            np.matmul(x, weight.rows(rows.start, rows.stop).T, out=y[:, rows])

    return fill


def _quantised_product(x: Array, weight: StoredTensor, y: Array) -> Callable[[slice], None]:
    """What fills columns of y with products of x and as many rows, unpacked.

    A row's sum of (d * q + m) * x is one product with q and, run by run, one of m and the sum of x.
    """
    positions, width = x.shape
    minima = width // weight.encoding.block_size * weight.encoding.minima
    sums = x.reshape(positions, minima, -1).sum(axis=2) if minima and positions else None

    def fill(rows: slice) -> None:
        with ignoring():
            quants = _unpack(weight, rows)
            runs, count = quants.d.shape[0] * quants.d.shape[1], quants.d.shape[2]
            q = _workspace.take("q", (runs, width // runs, count), np.float32)
            np.copyto(q.reshape(quants.runs().shape), quants.runs())
            # One product by d per position, run and row, or one per weight and its way through the cache?
            scale_results = 3 * positions * runs < 2 * width
            product = _scale_results if scale_results else _scale_weights
            product(x, q, quants.d.reshape(runs, count), y[:, rows])
            if sums is not None and quants.m is not None:
                y[:, rows] += sums.dot(quants.m.reshape(minima, count))

    return fill


def _unpack(weight: StoredTensor, rows: slice) -> Quants:
    """The integers and scales of some rows, element by element: rows lie side by side, [..., R]."""
    encoding, count = weight.encoding, rows.stop - rows.start
    assert encoding.unpack is not None
    row_bytes = weight.stride // encoding.block_size * encoding.block_bytes
    stored = weight.data[rows.start * row_bytes : rows.stop * row_bytes].reshape(count, row_bytes)
    blocks = _workspace.take("blocks", (row_bytes, count), np.uint8)
    np.copyto(blocks, stored.T)
    quants = encoding.unpack(blocks.reshape(-1, encoding.block_bytes, count))
    # Not to subtract large sums from each other: 4e-7 from float64 where it was 2e-6, or 1e-5 for x > 0.
    return quants.centred(encoding.centre) if encoding.minima else quants


def _scale_results(x: Array, q: Array, d: Array, y: Array) -> None:
    """y = the runs' products, weighted with their scales: [T, K], [K/run, run, R], [K/run, R] -> [T, R]"""
    runs, run, count = q.shape
    products = _workspace.take("products", (runs, len(x), count), np.float32)
    np.matmul(x.reshape(len(x), runs, run).transpose(1, 0, 2), q, out=products)
    np.einsum("ntr,nr->tr", products, d, out=y)


def _scale_weights(x: Array, q: Array, d: Array, y: Array) -> None:
    """y = one product with the scaled weights: [T, K], [K/run, run, R], [K/run, R] -> [T, R]"""
    q *= d[:, None]
    np.matmul(x, q.reshape(x.shape[1], -1), out=y)

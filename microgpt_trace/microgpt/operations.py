"""The operations of a microGPT in NumPy. The backward pass of each operation follows its forward pass.

Docstrings of the whole package use these letters for shapes:

    B names in a batch    T positions of a name    N rows: the positions of all names
    C width               H heads                  D head width, C = H * D
    F MLP width           V vocabulary             K any number of columns

Attention of one short name [T, C] stacks the heads as rows: a query becomes H copies, and each copy keeps
the channels of one head and has 0 elsewhere, so that one product computes all heads. Attention of several
names or of a long name takes each head alone: [n, H] precede the shapes below, in which then H is 1 and C is
D. A row sum is a product with a constant matrix. The product repeats the sum along the row, because
broadcasting such small arrays takes three times as long (1.5 instead of 0.5 us). Long rows have one sum.

Since zero times NaN is NaN, a NaN in the query or key of one head spreads to the scores of the other heads.
The first event with a non-finite value is still identified correctly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from ..arrays.stats import Array, DType
from ..text.frozen import frozen

RMSNORM_EPS = 1e-5
# Within +-60, softmax need not subtract the maximum: float32 does not overflow (as at e^88) or lose digits in
# subnormal sums (as at e^-87).
SAFE_EXPONENT = 60.0
SAFE_SQUARE = SAFE_EXPONENT**2
LONG = 64  # rows of more columns are summed once, and the sum is broadcast

Product = Callable[..., Array]


@frozen
class NormConstants:
    """The constants of RMSNorm: `mean` is [C, C] (or [C, 1] for long rows) of 1/C, and `eps` a 0-d array."""

    mean: Array
    eps: Array

    @classmethod
    @lru_cache(maxsize=8)
    def of(cls, width: int, dtype: DType) -> NormConstants:
        columns = width if width <= LONG else 1
        return cls(np.full((width, columns), 1 / width, dtype), np.array(RMSNORM_EPS, dtype))


def rmsnorm_forward(x: Array, c: NormConstants) -> tuple[Array, tuple[Array, Array]]:
    """y = x / sqrt(mean(x^2) + eps) for each row, without gain: [N, C] -> [N, C]

    Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).
    """
    rms = np.multiply(x, x).dot(c.mean)  # the mean of each row, repeated along the row
    np.sqrt(np.add(rms, c.eps, rms), rms)  # in place: 0.15 us faster than with operators
    y = np.divide(x, rms)
    return y, (y, rms)


def rmsnorm_backward(dy: Array, cache: tuple[Array, Array], c: NormConstants) -> Array:
    """dx = (dy - y * mean(dy * y)) / rms: [N, C] -> [N, C]"""
    y, rms = cache
    dx = np.multiply(dy, y)
    np.subtract(dy, np.multiply(dx.dot(c.mean), y, dx), dx)
    return np.divide(dx, rms, dx)


def relu_forward(x: Array, zero: Array) -> Array:
    return np.maximum(x, zero)  # a Python 0 instead of the 0-d array takes 1.5 times as long


def relu_backward(dy: Array, y: Array) -> Array:
    return dy * np.sign(y)  # since y >= 0, its sign is the derivative


@frozen
class HeadConstants:
    """The constants of causal attention over T positions with H heads of width D, stacked as rows."""

    length: int
    n_head: int
    scale: Array  # [] 1/sqrt(D)
    copies: Array  # [H*T] for each stacked row, the row of x to copy
    head_mask: Array  # [H*T, C] 1 on the channels of the head, 0 elsewhere
    head_mask_scaled: Array  # [H*T, C] head_mask / sqrt(D)
    place: Array  # [T, C] the index of each channel, in the rows of its head, in a flattened [H*T, C]
    mask: Array  # [H*T, T] 0 up to the diagonal, -inf above it
    ones: Array  # [T, T], or [T, 1] for long rows

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, length: int, n_head: int, width: int, dtype: DType, first: int = 0) -> HeadConstants:
        """Return the constants for the queries from `first` on. Stacked heads need all queries."""
        head_dim = width // n_head
        rows, channels = np.arange(length), np.arange(width)
        head_mask = np.repeat(np.kron(np.eye(n_head), np.ones((1, head_dim))), length, axis=0)[first:]
        mask = np.where(np.tri(length, dtype=bool), 0.0, -np.inf)[first:]
        return cls(
            length,
            n_head,
            np.array(1 / math.sqrt(head_dim), dtype),
            np.tile(rows, n_head),
            head_mask.astype(dtype),
            (head_mask / math.sqrt(head_dim)).astype(dtype),
            (channels // head_dim * length + rows[:, None]) * width + channels,
            np.tile(mask, (n_head, 1)).astype(dtype),
            np.ones((length, length if length <= LONG else 1), dtype),
        )


def product_for(x: Array) -> Product:
    """Return the fastest product function: for one short name ndarray.dot, which needs no dispatch."""
    return np.ndarray.dot if x.ndim == 2 else product_of_stacks


def product_of_stacks(a: Array, b: Array) -> Array:
    """a @ b for stacks of matrices. One b for all matrices takes one product, in a third of the time."""
    if b.ndim == 2:
        return a.reshape(-1, a.shape[-1]).dot(b).reshape(*a.shape[:-1], -1)
    return np.matmul(a, np.ascontiguousarray(b))  # a copy of a transposed b saves up to half of the time


def spread(x: Array, head_mask: Array, c: HeadConstants) -> Array:
    """Copy the rows for each head, and keep only the channels of the head: [T, C] -> [H*T, C]"""
    return (x.take(c.copies, 0) if c.n_head > 1 else x) * head_mask


def gather(x: Array, c: HeadConstants) -> Array:
    """Put the channels of all heads side by side: [H*T, C] -> [T, C]"""
    return x.take(c.place) if c.n_head > 1 else x


def scores_forward(mm: Product, q: Array, k: Array, c: HeadConstants) -> tuple[Array, Array]:
    """scores = q @ k.T / sqrt(D) per head, before the mask: [T, C] twice -> [H*T, T] Also returns
    `spread(q)`, which the backward pass needs.
    """
    spread_q = spread(q, c.head_mask_scaled, c)
    return mm(spread_q, k.mT), spread_q


def scores_backward(
    mm: Product, dscores: Array, spread_q: Array, k: Array, c: HeadConstants
) -> tuple[Array, Array]:
    """dq = dscores @ k / sqrt(D), dk = dscores.T @ q / sqrt(D): [H*T, T] -> [T, C] twice"""
    return gather(mm(dscores, k), c) * c.scale, mm(dscores.mT, spread_q)


def context_forward(mm: Product, weights: Array, v: Array, c: HeadConstants) -> Array:
    """context = weights @ v per head: [H*T, T], [T, C] -> [T, C]"""
    return gather(mm(weights, v), c)


def context_backward(
    mm: Product, dcontext: Array, weights: Array, v: Array, c: HeadConstants
) -> tuple[Array, Array]:
    """dweights = dcontext @ v.T, dv = weights.T @ dcontext, each per head"""
    spread_d = spread(dcontext, c.head_mask, c)
    return mm(spread_d, v.mT), mm(weights.mT, spread_d)


def exponent(x: Array, mask: Array | None = None) -> Array:
    """Return the exponents of a softmax over rows: [..., K] -> [..., K] The exponents are x plus the mask. If
    exp would overflow or lose digits, the maximum of the row is subtracted. The check for overflow costs one
    product. To subtract the maximum always would take 10 us of a training step of 65 us.
    """
    flat = x.ravel()
    if flat.dot(flat) < SAFE_SQUARE or (flat.max() < SAFE_EXPONENT and flat.min() > -SAFE_EXPONENT):
        return x if mask is None else x + mask
    if mask is not None:
        x = np.where(mask == 0, x, mask)  # a masked NaN must have no effect
    shifted = x - x.max(axis=-1, keepdims=True)
    return np.maximum(shifted, np.finfo(x.dtype).min)  # no -inf, because 0 * -inf is NaN


def attention_weights_forward(mm: Product, scores: Array, c: HeadConstants) -> Array:
    """weights = softmax(scores + causal mask): [H*T, T] -> [H*T, T]"""
    z = exponent(scores, c.mask)
    e = np.exp(z, z)
    return np.divide(e, mm(e, c.ones), e)


def softmax_backward(mm: Product, dy: Array, y: Array, ones: Array) -> Array:
    """dx = y * (dy - sum(y * dy)) over rows, which is 0 where y is masked: [..., K] -> [..., K]"""
    weighted = y * dy
    return np.subtract(weighted, y * mm(weighted, ones), weighted)


def cross_entropy_forward(logits: Array, targets: Array, ones: Array) -> tuple[Array, Any]:
    """probs = softmax(logits), loss = sum(share * (log(sum(exp(logits))) - logits[target]))

    `targets` has, in each row, the row's share of the loss (1/T for one name) at the target, and 0 elsewhere.
    `ones` sums rows by a product. [N, V], [N, V], [V, V] -> [N, V], []
    """
    z = exponent(logits)
    e = np.exp(z)
    sums = e.dot(ones)  # the sum of each row, repeated along the row
    return e / sums, (np.log(sums) - z).ravel().dot(targets.ravel())


def cross_entropy_backward(probs: Array, targets: Array, share: Array) -> Array:
    """dlogits = share * (probs - one_hot(target)): [N, V], [N, V], [] or [N, 1] -> [N, V]"""
    return probs * share - targets

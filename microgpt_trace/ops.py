"""NumPy layers, forward and backward side by side. Knows no model, no names and no hooks.

Shape letters, used on signatures throughout the package:

    B names in a batch    T positions of a name    N rows: the positions of all names
    C width of the stream H heads                  D head width, C = H * D
    F MLP width           V vocabulary             K any number of columns

Every product stays two-dimensional for one name ([T, C]), and becomes a stack of them for a group
of n names of equal length ([n, T, C]). Heads lie side by side along the columns of one [T, H*T]
matrix: keys and values are spread to H copies in which only the head's own channels are kept, so
one product serves all heads. Row sums are products with a constant: broadcasting costs three times
as much as an operation on equal shapes at this size (1.5 against 0.5 us on [5, 16]).

One consequence to know: zero times NaN is NaN, so a NaN in one head's query shows in the scores of
all heads of that row. The first event that is not finite is always the true one.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from .stats import Array, DType

RMSNORM_EPS = 1e-5
# exp stays exact without subtracting the maximum while all its arguments lie within +-60:
# float32 then neither overflows (e^88) nor loses digits to subnormal sums (e^-87).
SAFE_EXPONENT = 60.0

product = np.ndarray.dot  # the bound C method, without the dispatch of np.dot


class NormConstants(NamedTuple):
    """What RMSNorm needs besides its input: [C, C] filled with 1/C, and eps as a 0-d array."""

    mean: Array
    eps: Array


@lru_cache(maxsize=64)
def norm_constants(width: int, dtype: DType) -> NormConstants:
    return NormConstants(np.full((width, width), 1 / width, dtype), np.array(RMSNORM_EPS, dtype))


def rmsnorm_forward(x: Array, c: NormConstants) -> tuple[Array, tuple[Array, Array]]:
    """y = x / sqrt(mean(x^2) + eps), row by row, without gain: [N, C] -> [N, C]

    Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).
    """
    rms = np.sqrt((x * x).dot(c.mean) + c.eps)  # the row's value, repeated along the row
    y = x / rms
    return y, (y, rms)


def rmsnorm_backward(dy: Array, cache: tuple[Array, Array], c: NormConstants) -> Array:
    """dx = (dy - y * mean(dy * y)) / rms: [N, C] -> [N, C]"""
    y, rms = cache
    return (dy - y * (dy * y).dot(c.mean)) / rms


def relu_forward(x: Array, zero: Array) -> Array:
    return np.maximum(x, zero)  # a 0-d array: a Python 0 would cost half as much again


def relu_backward(dy: Array, y: Array) -> Array:
    return dy * np.sign(y)  # y is zero or positive: its sign is the slope


class HeadConstants(NamedTuple):
    """Constants of causal attention over T positions with H heads of width D."""

    length: int
    n_head: int
    copies: Array  # [H*T, T]: H copies of each row
    keys: Array  # [H*T, C]: 1/sqrt(D) on the head's own channels, 0 elsewhere
    values: Array  # [H*T, C]: 1 on the head's own channels, 0 elsewhere
    sum_rows: Array  # [H*T, H*T]: replaces each entry by the sum over its head's row
    mask: Array  # [T, H*T]: 0 up to the diagonal, -inf above it


@lru_cache(maxsize=256)
def head_constants(length: int, n_head: int, width: int, dtype: DType) -> HeadConstants:
    head_dim = width // n_head
    own = np.repeat(np.kron(np.eye(n_head), np.ones((1, head_dim))), length, axis=0)
    mask = np.where(np.tri(length, dtype=bool), 0.0, -np.inf)
    return HeadConstants(
        length,
        n_head,
        copies=np.tile(np.eye(length), (n_head, 1)).astype(dtype),
        keys=(own / math.sqrt(head_dim)).astype(dtype),
        values=own.astype(dtype),
        sum_rows=np.kron(np.eye(n_head), np.ones((length, length))).astype(dtype),
        mask=np.tile(mask, (1, n_head)).astype(dtype),
    )


def spread(x: Array, own: Array, c: HeadConstants) -> Array:
    """H copies of the rows, each with its head's channels only: [(n,) T, C] -> [(n,) H*T, C]"""
    mm = product if x.ndim == 2 else np.matmul
    return mm(c.copies, x) * own


def gather(x: Array, own: Array, c: HeadConstants) -> Array:
    """The inverse, and so the gradient, of spread: [(n,) H*T, C] -> [(n,) T, C]"""
    mm = product if x.ndim == 2 else np.matmul
    return mm(c.copies.T, x * own)


def scores_forward(q: Array, k: Array, c: HeadConstants) -> tuple[Array, tuple[Array, Array]]:
    """scores = q @ k.T / sqrt(D) per head, before the mask: [(n,) T, C] twice -> [(n,) T, H*T]"""
    mm = product if q.ndim == 2 else np.matmul
    keys = spread(k, c.keys, c)
    return mm(q, keys.mT), (q, keys)


def scores_backward(dscores: Array, cache: tuple[Array, Array], c: HeadConstants) -> tuple[Array, Array]:
    """dq = dscores @ k / sqrt(D), dk = dscores.T @ q / sqrt(D): [(n,) T, H*T] -> [(n,) T, C] twice"""
    q, keys = cache
    mm = product if q.ndim == 2 else np.matmul
    return mm(dscores, keys), gather(mm(dscores.mT, q), c.keys, c)


def context_forward(weights: Array, v: Array, c: HeadConstants) -> tuple[Array, tuple[Array, Array]]:
    """context = weights @ v per head: [(n,) T, H*T], [(n,) T, C] -> [(n,) T, C]"""
    mm = product if v.ndim == 2 else np.matmul
    values = spread(v, c.values, c)
    return mm(weights, values), (weights, values)


def context_backward(dcontext: Array, cache: tuple[Array, Array], c: HeadConstants) -> tuple[Array, Array]:
    """dweights = dcontext @ v.T, dv = weights.T @ dcontext, each per head"""
    weights, values = cache
    mm = product if dcontext.ndim == 2 else np.matmul
    return mm(dcontext, values.mT), gather(mm(weights.mT, dcontext), c.values, c)


def exponent(x: Array, heads: int = 1, mask: Array | None = None) -> Array:
    """What to exponentiate in a softmax over the row of each head: [..., H*K] -> [..., H*K]

    x itself (and the mask) where exp is exact, else that less its row's maximum. The check is one
    product; subtracting always would cost 10 us of a 55 us training step.
    """
    flat = x.ravel()
    bound = SAFE_EXPONENT
    if flat.dot(flat) < bound * bound or (flat.max() < bound and flat.min() > -bound):
        return x if mask is None else x + mask
    if mask is not None:
        x = np.where(mask == 0, x, mask)  # what is masked stays unseen, be it NaN
    rows = x.reshape(*x.shape[:-1], heads, -1)
    shifted = rows - rows.max(axis=-1, keepdims=True)
    return np.maximum(shifted, np.finfo(x.dtype).min).reshape(x.shape)  # -inf would spoil 0 * x


def attention_weights_forward(scores: Array, c: HeadConstants) -> Array:
    """weights = softmax(scores + causal mask) per head: [(n,) T, H*T] -> [(n,) T, H*T]"""
    mm = product if scores.ndim == 2 else np.matmul
    e = np.exp(exponent(scores, c.n_head, c.mask))
    return e / mm(e, c.sum_rows)


def attention_weights_backward(dweights: Array, weights: Array, c: HeadConstants) -> Array:
    """dscores = weights * (dweights - sum(weights * dweights)); zero above the diagonal"""
    mm = product if weights.ndim == 2 else np.matmul
    weighted = weights * dweights
    return weighted - weights * mm(weighted, c.sum_rows)


def cross_entropy_forward(logits: Array, targets: Array, ones: Array) -> tuple[Array, Any]:
    """probs = softmax(logits), loss = sum(share * (log(sum(exp(logits))) - logits[target]))

    A row of `targets` is its share of the loss (1/T for one name) at the target and 0 elsewhere;
    `ones` sums a row by a product: [N, V], [N, V], [V, V] -> [N, V], []
    """
    z = exponent(logits)
    e = np.exp(z)
    sums = e.dot(ones)  # the row's value, repeated along the row
    return e / sums, (np.log(sums) - z).ravel().dot(targets.ravel())


def cross_entropy_backward(probs: Array, targets: Array, share: Array) -> Array:
    """dlogits = share * (probs - one_hot(target)): [N, V], [N, V], [] or [N, 1] -> [N, V]"""
    return probs * share - targets


def softmax_backward(dprobs: Array, probs: Array) -> Array:
    """dlogits = probs * (dprobs - sum(probs * dprobs)): [N, V] -> [N, V]

    Only for probabilities that were replaced: the cross entropy's own gradient needs no division.
    """
    weighted = probs * dprobs
    return weighted - probs * weighted.sum(axis=-1, keepdims=True)

"""How far its roundings may move each element of one operation that has the inputs it says."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..architecture.plan import kind_of, prefix_of
from ..arrays.stats import Array
from .operations import WideWeights

# Times a unit of the size of what is added up. The roundings of a sum of unlike terms cancel, those of K
# equal ones need not.
ROUNDINGS = 16

VANISHING = 128.0  # times the least normal number: of SiLU e^-x is infinite before x*e^x is nothing

Size = Callable[..., Array]


def bound_of(
    weights: WideWeights, name: str, inputs: Sequence[Array], value: Array, dtype: np.dtype[np.floating]
) -> Array:
    """The bound of every element of an event whose `value` was worked out in float64 from its `inputs`,
    for a computation in another type."""
    known = np.finfo(dtype)
    size = _SIZES.get(kind_of(name), _own)(weights, name, value, *inputs)
    return size * (ROUNDINGS * float(known.eps) / 2) + VANISHING * float(known.tiny)


def _own(weights: WideWeights, name: str, value: Array, *inputs: Array) -> Array:
    """Of what nothing cancels in."""
    return np.abs(value)


def _norm(weights: WideWeights, name: str, value: Array, x: Array) -> Array:
    """A mean of C squares."""
    return np.abs(value) * _terms(x.shape[-1])


def _terms(count: int) -> float:
    return 1 + count / 256


def _product(weights: WideWeights, name: str, value: Array, x: Array) -> Array:
    norms = weights.norms[prefix_of(name) + weights.behind[kind_of(name)]]
    return np.linalg.norm(x, axis=-1, keepdims=True) * norms * _terms(x.shape[-1]) + np.abs(value)


def _head(weights: WideWeights, name: str, value: Array, context: Array) -> Array:
    head, dim = int(name.rpartition("head")[2]), weights.head_dim
    own = slice(head * dim, (head + 1) * dim)
    norms = np.linalg.norm(weights.array(prefix_of(name) + "attn_wo")[:, own].astype(np.float64), axis=1)
    return np.linalg.norm(context[:, own], axis=1, keepdims=True) * norms


def _rope(weights: WideWeights, name: str, value: Array, x: Array) -> Array:
    """Of a pair of channels the length."""
    halves = value.reshape(len(value), -1, 2, weights.head_dim // 2)
    length = np.linalg.norm(halves, axis=2, keepdims=True)
    return np.broadcast_to(length, halves.shape).reshape(value.shape)


def _scores(weights: WideWeights, name: str, value: Array, q: Array, k: Array) -> Array:
    dim = weights.head_dim
    of_q, of_k = (np.linalg.norm(x.reshape(len(x), -1, dim), axis=-1).T for x in (q, k))  # [H, T], [G, T]
    of_k = np.repeat(of_k, len(of_q) // len(of_k), axis=0)
    return of_q[:, :, None] * of_k[:, None] / np.sqrt(dim) + np.abs(value)


def _softmax(weights: WideWeights, name: str, value: Array, *inputs: Array) -> Array:
    """exp(z) is off by itself times what z is off by, its sum by roundings of its own."""
    return value * (_terms(value.shape[-1]) - np.log(np.where(value > 0, value, 1)))


def _context(weights: WideWeights, name: str, value: Array, attention: Array, v: Array) -> Array:
    heads, length = attention.shape[:2]
    of_v = np.abs(v).reshape(length, -1, weights.head_dim).swapaxes(0, 1)  # [G, T, D]
    summed = np.abs(attention) @ np.repeat(of_v, heads // len(of_v), axis=0) * (1 + length / ROUNDINGS)
    return summed.swapaxes(0, 1).reshape(length, -1)


_PRODUCTS = ("attn.q", "attn.k", "attn.v", "attn.out", "mlp.gate", "mlp.up", "mlp.down", "logits")
_NORMS = ("embed.norm", "attn.norm", "attn.q_norm", "attn.k_norm", "mlp.norm", "final.norm")
_SIZES: dict[str, Size] = {
    **dict.fromkeys(_PRODUCTS, _product),
    **dict.fromkeys(_NORMS, _norm),
    "attn.head": _head,
    "attn.q_rope": _rope,
    "attn.k_rope": _rope,
    "attn.scores": _scores,
    "attn.weights": _softmax,
    "attn.context": _context,
    "probs": _softmax,
}

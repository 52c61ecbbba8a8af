"""Training in numba, in float32: forward, backward and Adam, compiled by njit with fastmath.

Parameters, gradients and moments are one vector each. `Weights` are views of such a vector.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import float32
from numba_ops import (
    ONE,
    ZERO,
    attention_backward,
    attention_forward,
    jit,
    linear_backward,
    linear_forward,
    loss_and_gradient,
    norm_backward,
    norm_forward,
)
from peers import ADAM_EPS, BETA1, BETA2, Values

from microgpt_trace import Config

PER_LAYER = {"wq": "attn_wq", "wk": "attn_wk", "wv": "attn_wv", "wo": "attn_wo",
             "fc1": "mlp_fc1", "fc2": "mlp_fc2"}  # fmt: skip


class Weights(NamedTuple):
    """Parameters or their gradients. Matrices of the layers are stacked."""

    wte: np.ndarray  # [V, C]
    wpe: np.ndarray  # [block_size, C]
    lm_head: np.ndarray  # [V, C]
    wq: np.ndarray  # [L, C, C]
    wk: np.ndarray  # [L, C, C]
    wv: np.ndarray  # [L, C, C]
    wo: np.ndarray  # [L, C, C]
    fc1: np.ndarray  # [L, F, C]
    fc2: np.ndarray  # [L, C, F]


@jit
def gradients(w, g, tokens, targets, starts, n_head):
    """Write the gradients to `g` and return the loss."""
    n_layer, block_size = len(w.wq), len(w.wpe)
    x = np.empty((len(tokens), w.wte.shape[1]), np.float32)
    for b in range(len(starts) - 1):
        for n in range(starts[b], starts[b + 1]):
            x[n] = w.wte[tokens[n]] + w.wpe[n - starts[b]]
    x, factor = norm_forward(x)
    embedded, caches = x, []
    for i in range(n_layer):
        attn_in, attn_factor = norm_forward(x)
        q, k, v = (linear_forward(attn_in, w.wq[i]), linear_forward(attn_in, w.wk[i]),
                   linear_forward(attn_in, w.wv[i]))  # fmt: skip
        weights = np.empty((n_head, len(x), block_size), np.float32)
        context = attention_forward(q, k, v, starts, weights)
        x = x + linear_forward(context, w.wo[i])
        mlp_in, mlp_factor = norm_forward(x)
        hidden = np.maximum(linear_forward(mlp_in, w.fc1[i]), ZERO)
        x = x + linear_forward(hidden, w.fc2[i])
        caches.append((attn_in, attn_factor, q, k, v, weights, context, mlp_in, mlp_factor, hidden))
    loss, dlogits = loss_and_gradient(linear_forward(x, w.lm_head), targets, starts)

    dx = linear_backward(dlogits, x, w.lm_head, g.lm_head)
    for i in range(n_layer - 1, -1, -1):
        attn_in, attn_factor, q, k, v, weights, context, mlp_in, mlp_factor, hidden = caches[i]
        dhidden = linear_backward(dx, hidden, w.fc2[i], g.fc2[i]) * np.sign(hidden)
        dmlp_in = linear_backward(dhidden, mlp_in, w.fc1[i], g.fc1[i])
        dx = dx + norm_backward(dmlp_in, mlp_in, mlp_factor)
        dcontext = linear_backward(dx, context, w.wo[i], g.wo[i])
        dq, dk, dv = attention_backward(dcontext, q, k, v, starts, weights)
        dattn_in = linear_backward(dq, attn_in, w.wq[i], g.wq[i])
        dattn_in += linear_backward(dk, attn_in, w.wk[i], g.wk[i])
        dattn_in += linear_backward(dv, attn_in, w.wv[i], g.wv[i])
        dx = dx + norm_backward(dattn_in, attn_in, attn_factor)
    dx = norm_backward(dx, embedded, factor)
    g.wte[:], g.wpe[:] = ZERO, ZERO
    for b in range(len(starts) - 1):
        for n in range(starts[b], starts[b + 1]):
            g.wte[tokens[n]] += dx[n]
            g.wpe[n - starts[b]] += dx[n]
    return loss


@jit
def adam(flat, grad, m, v, number, rate):
    b1, b2, eps, rate = float32(BETA1), float32(BETA2), float32(ADAM_EPS), float32(rate)
    m_share, v_share = float32(1 - BETA1**number), float32(1 - BETA2**number)
    for i in range(len(flat)):
        m[i] = b1 * m[i] + (ONE - b1) * grad[i]
        v[i] = b2 * v[i] + (ONE - b2) * grad[i] * grad[i]
        flat[i] -= rate * (m[i] / m_share) / (np.sqrt(v[i] / v_share) + eps)


@jit
def step(flat, grad, m, v, w, g, tokens, targets, starts, n_head, number, rate):
    loss = gradients(w, g, tokens, targets, starts, n_head)
    adam(flat, grad, m, v, number, rate)
    return loss


class NumbaPeer:
    """One call per step."""

    def __init__(self, config: Config, values: Values, steps: int, lr: float) -> None:
        self.config, self.initial, self.steps, self.lr = config, values, steps, lr
        size = sum(value.size for value in values.values())
        self.flat, self.grad, self.m, self.v = (np.zeros(size, np.float32) for _ in range(4))
        self.w, self.g = self.views(self.flat), self.views(self.grad)
        self.begin()

    def views(self, flat: np.ndarray) -> Weights:
        layers, c, f = self.config.n_layer, self.config.n_embd, self.config.n_inner
        vocab, positions = (self.config.vocab_size, c), (self.config.block_size, c)
        shapes = [vocab, positions, vocab, *[(layers, c, c)] * 4, (layers, f, c), (layers, c, f)]
        parts = np.split(flat, np.cumsum([math.prod(shape) for shape in shapes])[:-1])
        return Weights(*(part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)))

    def by_name(self) -> dict[str, np.ndarray]:
        """Return views of the parameters by name."""
        views = {name: getattr(self.w, name) for name in ("wte", "wpe", "lm_head")}
        for field, name in PER_LAYER.items():
            views |= {f"layer{i}.{name}": weight for i, weight in enumerate(getattr(self.w, field))}
        return views

    def begin(self) -> None:
        for name, view in self.by_name().items():
            view[...] = self.initial[name]
        self.m[...], self.v[...], self.done = 0, 0, 0

    def prepare(self, batches: Sequence[np.ndarray]) -> list[tuple[np.ndarray, ...]]:
        """Return the tokens [N], targets [N] and starts [B + 1] of each batch."""
        prepared = []
        for rows in batches:
            real = rows[:, 1:] >= 0
            starts = np.append(0, real.sum(1).cumsum())
            prepared.append((rows[:, :-1][real], rows[:, 1:][real], starts))
        return prepared

    def train(self, prepared: list[tuple[np.ndarray, ...]]) -> list[float]:
        return [self.step(*batch) for batch in prepared]

    def step(self, tokens: np.ndarray, targets: np.ndarray, starts: np.ndarray) -> float:
        rate, self.done = self.lr * (1 - self.done / self.steps), self.done + 1
        state = (self.flat, self.grad, self.m, self.v, self.w, self.g)
        return step(*state, tokens, targets, starts, self.config.n_head, self.done, rate)

    def values(self) -> Values:
        return self.by_name()

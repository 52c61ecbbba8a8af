"""The layers of microGPT, forward and backward, as loops and np.dot, compiled by numba with fastmath.

The rows of all names follow each other without padding. Name b has the rows starts[b]:starts[b + 1]. All
values are float32.
"""

from __future__ import annotations

import math

import numpy as np
from numba import float32, njit
from peers import NORM_EPS

jit = njit(fastmath=True, error_model="numpy")
ZERO, ONE, EPS = np.float32(0), np.float32(1), np.float32(NORM_EPS)


@jit
def linear_forward(x, w):
    return np.dot(x, w.T)


@jit
def linear_backward(dy, x, w, dw):
    """Return dx. Write the gradient to dw without adding, since each weight is used once."""
    np.dot(dy.T, x, dw)
    return np.dot(dy, w)


@jit
def norm_forward(x):
    y, factor = np.empty_like(x), np.empty(len(x), np.float32)
    for n in range(len(x)):
        squares = ZERO
        for c in range(x.shape[1]):
            squares += x[n, c] * x[n, c]
        factor[n] = ONE / np.sqrt(squares / float32(x.shape[1]) + EPS)
        for c in range(x.shape[1]):
            y[n, c] = x[n, c] * factor[n]
    return y, factor


@jit
def norm_backward(dy, y, factor):
    dx = np.empty_like(y)
    for n in range(len(y)):
        mean = ZERO
        for c in range(y.shape[1]):
            mean += dy[n, c] * y[n, c]
        mean /= float32(y.shape[1])
        for c in range(y.shape[1]):
            dx[n, c] = (dy[n, c] - y[n, c] * mean) * factor[n]
    return dx


@jit
def softmax(row):
    """Replace the row by its softmax, in place."""
    largest, total = row.max(), ZERO
    for j in range(len(row)):
        row[j] = np.exp(row[j] - largest)
        total += row[j]
    for j in range(len(row)):
        row[j] /= total


@jit
def attention_forward(q, k, v, starts, weights):
    """Return the context [N, C]. Write weights [H, N, block_size], whose keys start at the name."""
    n_head, head_dim = len(weights), q.shape[1] // len(weights)
    scale, context = float32(1 / math.sqrt(head_dim)), np.zeros_like(q)
    for b in range(len(starts) - 1):
        for h in range(n_head):
            for n in range(starts[b], starts[b + 1]):
                row = weights[h, n, : n - starts[b] + 1]
                for j in range(len(row)):
                    dot = ZERO
                    for c in range(h * head_dim, (h + 1) * head_dim):
                        dot += q[n, c] * k[starts[b] + j, c]
                    row[j] = dot * scale
                softmax(row)
                for j in range(len(row)):
                    for c in range(h * head_dim, (h + 1) * head_dim):
                        context[n, c] += row[j] * v[starts[b] + j, c]
    return context


@jit
def attention_backward(dcontext, q, k, v, starts, weights):
    n_head, head_dim = len(weights), q.shape[1] // len(weights)
    dq, dk, dv = np.zeros_like(q), np.zeros_like(q), np.zeros_like(q)
    scale, drow = float32(1 / math.sqrt(head_dim)), np.empty(weights.shape[2], np.float32)
    for b in range(len(starts) - 1):
        for h in range(n_head):
            for n in range(starts[b], starts[b + 1]):
                row, mean = weights[h, n, : n - starts[b] + 1], ZERO
                for j in range(len(row)):
                    dot = ZERO
                    for c in range(h * head_dim, (h + 1) * head_dim):
                        dot += dcontext[n, c] * v[starts[b] + j, c]
                        dv[starts[b] + j, c] += row[j] * dcontext[n, c]
                    drow[j] = dot
                    mean += dot * row[j]
                for j in range(len(row)):
                    dscore = row[j] * (drow[j] - mean) * scale
                    for c in range(h * head_dim, (h + 1) * head_dim):
                        dq[n, c] += dscore * k[starts[b] + j, c]
                        dk[starts[b] + j, c] += dscore * q[n, c]
    return dq, dk, dv


@jit
def loss_and_gradient(logits, targets, starts):
    """Return the mean loss over names, and its gradient, which replaces the logits in place."""
    loss = ZERO
    for b in range(len(starts) - 1):
        share = ONE / float32((len(starts) - 1) * (starts[b + 1] - starts[b]))
        for n in range(starts[b], starts[b + 1]):
            softmax(logits[n])
            loss -= np.log(logits[n, targets[n]]) * share
            logits[n, targets[n]] -= ONE
            logits[n] *= share
    return loss, logits

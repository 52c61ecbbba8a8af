"""The forward pass and the hand-written backward pass of a microGPT, for training. A trace runs the plan.

The model is Andrej Karpathy's microgpt.py: a GPT over characters. The model has RMSNorm without gain (also
after the embedding), ReLU, no biases and an untied head. operations.py explains the shape letters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..arrays.stats import Array
from . import operations
from .batch import QUERIES, Batch, PackedRows
from .parameters import LayerWeights, Parameters


class Pass(NamedTuple):
    """The results of a forward pass, and the values that its backward pass needs."""

    batch: Batch
    loss: Any  # [] mean cross-entropy over the rows
    logits: Array  # [N, V]
    probs: Array  # [N, V]
    embed_norm: tuple[Array, Array]
    layers: list[tuple[Any, ...]]
    final: Array  # [N, C] the input of the head

    @property
    def relus(self) -> list[Array]:
        """The output of each layer's ReLU."""
        return [cache[6] for cache in self.layers]


def forward(params: Parameters, batch: Batch) -> Pass:
    """Predict every next token of the batch."""
    x = params.wte.take(batch.tokens, 0) + params.wpe.take(batch.rows.positions, 0)
    x, embed_norm = operations.rmsnorm_forward(x, params.norm)
    layers = []
    for weights in params.layers:
        x, cache = layer_forward(x, weights, params, batch.rows)
        layers.append(cache)
    logits = x.dot(params.lm_head_t)
    probs, loss = operations.cross_entropy_forward(logits, batch.targets, params.ones)
    return Pass(batch, loss, logits, probs, embed_norm, layers, x)


def backward(params: Parameters, done: Pass, grads: Parameters) -> None:
    """Write d loss / d parameter into `grads`."""
    batch = done.batch
    dlogits = operations.cross_entropy_backward(done.probs, batch.targets, batch.rows.share)
    dlogits.T.dot(done.final, grads.lm_head)
    dx = dlogits.dot(params.lm_head)
    for i in reversed(range(len(params.layers))):
        dx = layer_backward(dx, done.layers[i], params.layers[i], grads.layers[i], params, batch.rows)
    dx = operations.rmsnorm_backward(dx, done.embed_norm, params.norm)
    batch.rows.positions_onehot.T.dot(dx, grads.wpe)
    batch.tokens_onehot.T.dot(dx, grads.wte)


def layer_forward(
    x: Array, w: LayerWeights, params: Parameters, rows: PackedRows
) -> tuple[Array, tuple[Any, ...]]:
    """x + attention(norm(x)), then x + mlp(norm(x)): [N, C] -> [N, C]"""
    attn_in, attn_norm = operations.rmsnorm_forward(x, params.norm)
    context, attention = attention_forward(attn_in, w, params, rows)
    x = x + context.dot(w.wo_t)

    mlp_in, mlp_norm = operations.rmsnorm_forward(x, params.norm)
    relu = operations.relu_forward(mlp_in.dot(w.fc1_t), params.zero)
    x = x + relu.dot(w.fc2_t)
    return x, (attn_norm, attn_in, attention, context, mlp_norm, mlp_in, relu)


def layer_backward(
    dx: Array, cache: tuple[Any, ...], w: LayerWeights, g: LayerWeights, params: Parameters, rows: PackedRows
) -> Array:
    """Reverse layer_forward line by line. `g` receives the gradients of the weights `w`."""
    attn_norm, attn_in, attention, context, mlp_norm, mlp_in, relu = cache
    dx.T.dot(relu, g.fc2)
    dup = operations.relu_backward(dx.dot(w.fc2), relu)
    dup.T.dot(mlp_in, g.fc1)
    dx = dx + operations.rmsnorm_backward(dup.dot(w.fc1), mlp_norm, params.norm)

    dx.T.dot(context, g.wo)
    dqkv = attention_backward(dx.dot(w.wo), attention, rows)
    dqkv.T.dot(attn_in, g.wqkv)
    return dx + operations.rmsnorm_backward(dqkv.dot(w.wqkv), attn_norm, params.norm)


def attention_forward(x_n: Array, w: LayerWeights, params: Parameters, rows: PackedRows) -> tuple[Array, Any]:
    """Compute causal attention within each name, without the output projection: [N, C] -> [N, C]"""
    q, k, v = x_n.dot(w.wq_t), x_n.dot(w.wk_t), x_n.dot(w.wv_t)
    if not rows.groups:
        return attend_forward(q, k, v, params.heads(len(q)))
    context, caches = np.empty_like(q), []
    for group in rows.groups:
        q_g, k_g, v_g = map(group.heads, (q, k, v))
        heads, cache = blocks_forward(q_g, k_g, v_g, QUERIES)
        context[group.rows] = group.side_by_side(heads[None])
        caches.append(cache)
    return context, caches


def attention_backward(dcontext: Array, cache: Any, rows: PackedRows) -> Array:
    """Return the gradients of q, k and v side by side: [N, C] -> [N, 3C]"""
    if not rows.groups:
        dq, dk, dv = attend_backward(dcontext, cache)
    else:
        dq, dk, dv = gradients = np.empty((3, *dcontext.shape), dcontext.dtype)
        for group, blocks in zip(rows.groups, cache, strict=True):
            heads = blocks_backward(group.heads(dcontext), blocks)
            gradients[:, group.rows] = group.side_by_side(heads)
    return np.concatenate((dq, dk, dv), axis=1)


def blocks_forward(q: Array, k: Array, v: Array, size: int) -> tuple[Array, Any]:
    """Attend with each head alone: 3 times [n, H, T, D] -> [n, H, T, D]. The `size` queries of a block need
    no key after the block, which saves a quarter of a step at T = 512."""
    length, context, caches = q.shape[2], np.empty_like(q), []
    for first in range(0, length, size):
        block, before = np.s_[:, :, first : first + size], np.s_[:, :, : first + size]
        c = operations.HeadConstants.of(min(first + size, length), 1, q.shape[3], q.dtype, first)
        context[block], cache = attend_forward(q[block], k[before], v[before], c)
        caches.append(cache)
    return context, caches


def blocks_backward(dcontext: Array, caches: Any) -> Array:
    """Reverse blocks_forward: [n, H, T, D] -> the gradients of q, k and v [3, n, H, T, D]"""
    dq, dk, dv = gradients = np.zeros((3, *dcontext.shape), dcontext.dtype)
    for cache in caches:
        stop, queries = cache[0].length, len(cache[0].mask)
        block, before = np.s_[:, :, stop - queries : stop], np.s_[:, :, :stop]
        dq[block], dk_part, dv_part = attend_backward(dcontext[block], cache)
        dk[before] += dk_part
        dv[before] += dv_part
    return gradients


def attend_forward(q: Array, k: Array, v: Array, c: operations.HeadConstants) -> tuple[Array, Any]:
    """Compute scores, weights and context for one name with stacked heads, [T, C] -> [T, C], or for n names
    with each head alone, [n, H, T, D] -> [n, H, T, D]"""
    mm = operations.product_for(q)
    scores, spread_q = operations.scores_forward(mm, q, k, c)
    weights = operations.attention_weights_forward(mm, scores, c)
    return operations.context_forward(mm, weights, v, c), (c, spread_q, k, v, weights)


def attend_backward(dcontext: Array, cache: Any) -> tuple[Array, Array, Array]:
    """Reverse attend_forward line by line, and return the gradients of q, k and v."""
    c, spread_q, k, v, weights = cache
    mm = operations.product_for(dcontext)
    dweights, dv = operations.context_backward(mm, dcontext, weights, v, c)
    dscores = operations.softmax_backward(mm, dweights, weights, c.ones)
    return *operations.scores_backward(mm, dscores, spread_q, k, c), dv

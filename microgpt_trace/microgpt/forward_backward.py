"""The forward pass and the hand-written backward pass of a microGPT.

The model is Andrej Karpathy's microgpt.py: a GPT over characters. The model has RMSNorm without gain (also
after the embedding), ReLU, no biases and an untied head. operations.py explains the shape letters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..architecture.plans.microgpt import plan_of
from ..architecture.plans.plan import layer_of, stage_of
from ..arrays.stats import Array
from ..errors import InputError
from ..hooks.bus import SILENT, Tap
from ..hooks.event import EventSpec, differs
from . import operations
from .batch import Batch, PackedRows
from .parameters import Config, LayerWeights, Parameters


class Pass(NamedTuple):
    """The results of a forward pass, and the values that its backward pass needs."""

    batch: Batch
    loss: Any  # [] mean cross-entropy over the rows
    logits: Array  # [N, V]
    probs: Array  # [N, V] for the loss; a hook may have replaced probs
    softmax: Array  # [N, V] the probabilities as computed
    embed_norm: tuple[Array, Array]
    layers: list[tuple[Any, ...]]
    final: Array  # [N, C] the input of the head

    @property
    def relus(self) -> list[Array]:
        """The output of each layer's ReLU, before a hook changes it."""
        return [cache[6] for cache in self.layers]


def forward(params: Parameters, batch: Batch, tap: Tap = SILENT) -> Pass:
    """Predict every next token of the batch. A tap receives most events as one value, with the rows of all
    names. Attention scores and weights arrive once for each group of n names of one length, [n, H, T, T], the
    shortest names first.
    """
    emit, norm = tap.emit, params.norm
    tok_emb = emit("embed.tok", params.wte.take(batch.tokens, 0))
    pos_emb = emit("embed.pos", params.wpe.take(batch.rows.positions, 0))
    x = emit("embed.sum", tok_emb + pos_emb)
    x, embed_norm = operations.rmsnorm_forward(x, norm)
    x = emit("embed.norm", x)
    layers = []
    for i, weights in enumerate(params.layers):
        x, cache = layer_forward(x, weights, params, batch.rows, tap.layer(i))
        layers.append(cache)
    logits = emit("logits", x.dot(params.lm_head_t))
    computed, loss = operations.cross_entropy_forward(logits, batch.targets, params.ones)
    probs = emit("probs", computed)
    if differs(probs, computed):
        loss = -np.log(probs[batch.targets > 0]).dot(batch.targets[batch.targets > 0])
    loss = emit("loss", loss)
    return Pass(batch, loss, logits, probs, computed, embed_norm, layers, x)


def backward(params: Parameters, done: Pass, grads: Parameters, tap: Tap = SILENT) -> None:
    """Write d loss / d parameter into `grads`. The tap receives d loss / d activation for each event. Raises
    InputError if the batch has several names and a tap observes its gradients."""
    emit, batch = tap.emit, done.batch
    if tap is not SILENT and not batch.rows.alone:
        raise InputError("hooks on gradients need one name at a time, found a batch of several")
    dlogits = operations.cross_entropy_backward(done.probs, batch.targets, batch.rows.share)
    if tap is not SILENT:
        dlogits = _through_probs(dlogits, params, done, tap)
    dlogits = emit("logits", dlogits)
    dlogits.T.dot(done.final, grads.lm_head)
    dx = dlogits.dot(params.lm_head)
    for i in reversed(range(len(params.layers))):
        weights, into = params.layers[i], grads.layers[i]
        dx = layer_backward(dx, done.layers[i], weights, into, params, batch.rows, tap.layer(i))
    dx = emit("embed.norm", dx)
    dx = emit("embed.sum", operations.rmsnorm_backward(dx, done.embed_norm, params.norm))
    batch.rows.positions_onehot.T.dot(emit("embed.pos", dx), grads.wpe)
    batch.tokens_onehot.T.dot(emit("embed.tok", dx), grads.wte)
    if tap is not SILENT:
        for name, grad in reversed(list(grads.items())):
            grad[...] = emit(name, grad)


def _through_probs(dlogits: Array, params: Parameters, done: Pass, tap: Tap) -> Array:
    """Emit the gradients of the loss and the probabilities, and return the gradient of the logits. The result
    is `dlogits` unless a hook replaced one of the emitted gradients."""
    targets, probs = done.batch.targets, done.probs
    dloss = one = np.ones((), probs.dtype)
    if tap.wants("loss"):
        dloss = tap.emit("loss", one)
        dlogits = dlogits if dloss is one else dlogits * dloss
    if tap.wants("probs"):
        nonzero = (targets > 0) & (dloss != 0)  # elsewhere, the gradient is 0 even if P is 0
        computed = np.zeros_like(probs)
        computed[nonzero] = -targets[nonzero] / probs[nonzero] * dloss
        dprobs = tap.emit("probs", computed)
        if dprobs is not computed:
            dlogits = operations.softmax_backward(np.ndarray.dot, dprobs, done.softmax, params.ones)
    return dlogits


def layer_forward(
    x: Array, w: LayerWeights, params: Parameters, rows: PackedRows, tap: Tap
) -> tuple[Array, tuple[Any, ...]]:
    """x + attention(norm(x)), then x + mlp(norm(x)): [N, C] -> [N, C]"""
    emit = tap.emit
    x_n, attn_norm = operations.rmsnorm_forward(x, params.norm)
    attn_in = emit("attn.norm", x_n)
    context, attention = attention_forward(attn_in, w, params, rows, tap)
    computed = context.dot(w.wo_t) if tap is SILENT else heads_forward(context, w, params, tap)
    attn_out = emit("attn.out", computed)
    x = emit("attn.residual", x + attn_out)

    x_n, mlp_norm = operations.rmsnorm_forward(x, params.norm)
    mlp_in = emit("mlp.norm", x_n)
    relu = operations.relu_forward(emit("mlp.up", mlp_in.dot(w.fc1_t)), params.zero)
    act = emit("mlp.act", relu)
    mlp_out = emit("mlp.down", act.dot(w.fc2_t))
    x = emit("mlp.residual", x + mlp_out)
    return x, (attn_norm, attn_in, attention, context, mlp_norm, mlp_in, relu, act)


def layer_backward(
    dx: Array, cache: tuple[Any, ...], w: LayerWeights, g: LayerWeights, params: Parameters,
    rows: PackedRows, tap: Tap,
) -> Array:  # fmt: skip
    """Reverse layer_forward line by line. `g` receives the gradients of the weights `w`."""
    emit = tap.emit
    attn_norm, attn_in, attention, context, mlp_norm, mlp_in, relu, act = cache
    dx = emit("mlp.residual", dx)
    dmlp_out = emit("mlp.down", dx)
    dmlp_out.T.dot(act, g.fc2)
    dact = emit("mlp.act", dmlp_out.dot(w.fc2))
    dup = emit("mlp.up", operations.relu_backward(dact, relu))
    dup.T.dot(mlp_in, g.fc1)
    dx_n = emit("mlp.norm", dup.dot(w.fc1))
    dx = emit("attn.residual", dx + operations.rmsnorm_backward(dx_n, mlp_norm, params.norm))

    dattn_out = emit("attn.out", dx)
    if tap is SILENT:
        dattn_out.T.dot(context, g.wo)
        dcontext = dattn_out.dot(w.wo)
    else:
        dcontext = emit("attn.context", heads_backward(dattn_out, context, w, g, params, tap))
    dqkv = attention_backward(dcontext, attention, rows, tap)
    dqkv.T.dot(attn_in, g.wqkv)
    dx_n = emit("attn.norm", dqkv.dot(w.wqkv))
    return dx + operations.rmsnorm_backward(dx_n, attn_norm, params.norm)


def heads_forward(context: Array, w: LayerWeights, params: Parameters, tap: Tap) -> Array:
    """attn_out = context @ wo.T. The contributions of heads are computed only if a hook subscribes to them.
    If a hook replaced a contribution, attn_out is the sum of the contributions."""
    attn_out = context.dot(w.wo_t)
    if not any(tap.wants(f"attn.head{h}") for h in range(params.config.n_head)):
        return attn_out
    computed = [context[:, columns].dot(w.wo[:, columns].T) for columns in _head_columns(params.config)]
    heads = [tap.emit(f"attn.head{h}", head) for h, head in enumerate(computed)]
    if not any(map(differs, heads, computed)):
        return attn_out
    return np.sum(heads, axis=0, dtype=context.dtype)


def heads_backward(
    dattn_out: Array, context: Array, w: LayerWeights, g: LayerWeights, params: Parameters, tap: Tap
) -> Array:
    """dcontext = dattn_out @ wo, dwo = dattn_out.T @ context. The gradient of every head's contribution is
    dattn_out, unless a hook replaces this gradient."""
    dattn_out.T.dot(context, g.wo)
    dcontext = dattn_out.dot(w.wo)
    for h, columns in enumerate(_head_columns(params.config)):
        if tap.wants(f"attn.head{h}"):
            dhead = tap.emit(f"attn.head{h}", dattn_out)
            if dhead is not dattn_out:
                dcontext[:, columns] = dhead.dot(w.wo[:, columns])
                g.wo[:, columns] = dhead.T.dot(context[:, columns])
    return dcontext


def _head_columns(config: Config) -> list[slice]:
    return [slice(h * config.head_dim, (h + 1) * config.head_dim) for h in range(config.n_head)]


def attention_forward(
    x_n: Array, w: LayerWeights, params: Parameters, rows: PackedRows, tap: Tap
) -> tuple[Array, Any]:
    """Compute causal attention within each name, without the output projection: [N, C] -> [N, C]"""
    emit = tap.emit
    q = emit("attn.q", x_n.dot(w.wq_t))
    k = emit("attn.k", x_n.dot(w.wk_t))
    v = emit("attn.v", x_n.dot(w.wv_t))
    if not rows.groups:
        context, cache = attend_forward(q, k, v, params.heads(len(q)), tap)
        return emit("attn.context", context), cache
    context, caches = np.empty_like(q), []
    for group in rows.groups:
        q_g, k_g, v_g = map(group.heads, (q, k, v))
        heads, cache = blocks_forward(q_g, k_g, v_g, group.queries, tap, rows.alone)
        context[group.rows] = group.side_by_side(heads[None])
        caches.append(cache)
    return emit("attn.context", context), caches


def attention_backward(dcontext: Array, cache: Any, rows: PackedRows, tap: Tap) -> Array:
    """Return the gradients of q, k and v side by side: [N, C] -> [N, 3C]"""
    if not rows.groups:
        dq, dk, dv = attend_backward(dcontext, cache, tap)
    else:
        dq, dk, dv = gradients = np.empty((3, *dcontext.shape), dcontext.dtype)
        for group, blocks in zip(rows.groups, cache, strict=True):
            heads = blocks_backward(group.heads(dcontext), blocks, tap)
            gradients[:, group.rows] = group.side_by_side(heads)
    dv, dk, dq = tap.emit("attn.v", dv), tap.emit("attn.k", dk), tap.emit("attn.q", dq)
    return np.concatenate((dq, dk, dv), axis=1)


def blocks_forward(q: Array, k: Array, v: Array, size: int, tap: Tap, alone: bool) -> tuple[Array, Any]:
    """Attend with each head alone: 3 times [n, H, T, D] -> [n, H, T, D]. The `size` queries of a block need
    no key after the block, which saves a quarter of a step at T = 512. A tap receives all queries at once, so
    a batch for a tap has one block."""
    length = q.shape[2]
    assert tap is SILENT or size >= length
    context, caches = np.empty_like(q), []
    for first in range(0, length, size):
        block, before = np.s_[:, :, first : first + size], np.s_[:, :, : first + size]
        c = operations.HeadConstants.of(min(first + size, length), 1, q.shape[3], q.dtype, first)
        context[block], cache = attend_forward(q[block], k[before], v[before], c, tap, alone)
        caches.append(cache)
    return context, caches


def blocks_backward(dcontext: Array, caches: Any, tap: Tap) -> Array:
    """Reverse blocks_forward: [n, H, T, D] -> the gradients of q, k and v [3, n, H, T, D]"""
    dq, dk, dv = gradients = np.zeros((3, *dcontext.shape), dcontext.dtype)
    for cache in caches:
        stop, queries = cache[0].length, len(cache[0].mask)
        block, before = np.s_[:, :, stop - queries : stop], np.s_[:, :, :stop]
        dq[block], dk_part, dv_part = attend_backward(dcontext[block], cache, tap)
        dk[before] += dk_part
        dv[before] += dv_part
    return gradients


def attend_forward(
    q: Array, k: Array, v: Array, c: operations.HeadConstants, tap: Tap, alone: bool = True
) -> tuple[Array, Any]:
    """Compute scores, weights and context for one name with stacked heads, [T, C] -> [T, C], or for n names
    with each head alone, [n, H, T, D] -> [n, H, T, D]"""
    mm = operations.product_for(q)
    scores, spread_q = operations.scores_forward(mm, q, k, c)
    scores = emit_per_head("attn.scores", scores, alone, tap)
    computed = operations.attention_weights_forward(mm, scores, c)
    weights = emit_per_head("attn.weights", computed, alone, tap)
    return operations.context_forward(mm, weights, v, c), (c, spread_q, k, v, computed, weights)


def attend_backward(dcontext: Array, cache: Any, tap: Tap) -> tuple[Array, Array, Array]:
    """Reverse attend_forward line by line, and return the gradients of q, k and v."""
    c, spread_q, k, v, computed, weights = cache
    mm = operations.product_for(dcontext)
    dweights, dv = operations.context_backward(mm, dcontext, weights, v, c)
    dweights = emit_per_head("attn.weights", dweights, True, tap)
    dscores = operations.softmax_backward(mm, dweights, computed, c.ones)
    dscores = emit_per_head("attn.scores", dscores, True, tap)
    return *operations.scores_backward(mm, dscores, spread_q, k, c), dv


def emit_per_head(name: str, value: Array, alone: bool, tap: Tap) -> Array:
    """Emit the value of one name as [H, T, T], or the value of n names of one length as [n, H, T, T]."""
    if tap is SILENT:
        return value
    heads = value.reshape(-1, value.shape[-1], value.shape[-1]) if alone else value
    return tap.emit(name, heads).reshape(value.shape)


def event_specs(config: Config) -> list[EventSpec]:
    """Return the events of a forward pass in order of computation, then the events of the parameters."""
    return [*plan_of(config).values(), *map(parameter_spec, config.shapes())]


def parameter_spec(name: str) -> EventSpec:
    """Return the event for the gradient and the update of a parameter."""
    return EventSpec(name, stage_of(name), layer_of(name), name, name)

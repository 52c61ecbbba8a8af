"""microGPT: forward and hand-written backward. Knows no tokenizer, no file and no screen.

The model is that of Andrej Karpathy's microgpt.py: a GPT over characters with RMSNorm without gain
(also once after the embedding), ReLU, no biases and an untied head. Shape letters: see ops.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import ops
from .batch import Batch, Group
from .errors import InputError
from .events import SILENT, EventSpec, Tap
from .parameters import Config, LayerWeights, Parameters
from .stats import Array


class Pass(NamedTuple):
    """The results of a forward pass and what its backward pass needs."""

    batch: Batch
    loss: Any  # [] mean cross-entropy over the rows
    logits: Array  # [N, V]
    probs: Array  # [N, V]
    embed_norm: tuple[Array, Array]
    layers: list[tuple[Any, ...]]
    final: Array  # [N, C] what the head reads

    @property
    def relus(self) -> list[Array]:
        """The output of each layer's ReLU, as computed."""
        return [cache[6] for cache in self.layers]


def forward(params: Parameters, batch: Batch, tap: Tap = SILENT) -> Pass:
    """Predict every next token of the batch. A tap that listens takes one name at a time."""
    emit, norm = tap.emit, params.norm
    if tap is not SILENT and (len(batch.groups) > 1 or batch.groups[0].n_names > 1):
        raise InputError("hooks listen to one name at a time, found a batch of several")
    tok_emb = emit("embed.tok", params.wte.take(batch.tokens, 0))
    pos_emb = emit("embed.pos", params.wpe.take(batch.positions, 0))
    x = emit("embed.sum", tok_emb + pos_emb)
    x, embed_norm = ops.rmsnorm_forward(x, norm)
    x = emit("embed.norm", x)
    layers = []
    for i, weights in enumerate(params.layers):
        x, cache = layer_forward(x, weights, params, batch.groups, tap.layer(i))
        layers.append(cache)
    logits = emit("logits", x.dot(params.lm_head_t))
    computed, loss = ops.cross_entropy_forward(logits, batch.targets, params.ones)
    probs = emit("probs", computed)
    if probs is not computed:
        loss = -np.log(probs[batch.targets > 0]).dot(batch.targets[batch.targets > 0])
    loss = emit("loss", loss)
    return Pass(batch, loss, logits, probs, embed_norm, layers, x)


def backward(params: Parameters, done: Pass, grads: Parameters, tap: Tap = SILENT) -> None:
    """Write d loss / d parameter into `grads`; the tap is given d loss / d activation on the way."""
    emit, batch = tap.emit, done.batch
    dlogits = emit("logits", _dlogits(done, tap))
    dlogits.T.dot(done.final, grads.lm_head)
    dx = dlogits.dot(params.lm_head)
    for i in reversed(range(len(params.layers))):
        weights, into = params.layers[i], grads.layers[i]
        dx = layer_backward(dx, done.layers[i], weights, into, params, batch.groups, tap.layer(i))
    dx = emit("embed.norm", dx)
    dx = emit("embed.sum", ops.rmsnorm_backward(dx, done.embed_norm, params.norm))
    batch.positions_onehot.T.dot(emit("embed.pos", dx), grads.wpe)
    batch.tokens_onehot.T.dot(emit("embed.tok", dx), grads.wte)
    if tap is not SILENT:
        for name, grad in reversed(list(grads.items())):
            grad[...] = emit(name, grad)


def _dlogits(done: Pass, tap: Tap) -> Array:
    """d loss / d logits in one step, or by way of the loss and the probabilities if these are wanted."""
    batch, probs = done.batch, done.probs
    dlogits = ops.cross_entropy_backward(probs, batch.targets, batch.share)
    dloss = one = np.ones((), probs.dtype)
    if tap.wants("loss"):
        dloss = tap.emit("loss", one)
        dlogits = dlogits if dloss is one else dlogits * dloss
    if tap.wants("probs"):
        hit = batch.targets > 0
        computed = np.zeros_like(probs)
        computed[hit] = -batch.targets[hit] / probs[hit] * dloss
        dprobs = tap.emit("probs", computed)
        dlogits = dlogits if dprobs is computed else ops.softmax_backward(dprobs, probs)
    return dlogits


def layer_forward(
    x: Array, w: LayerWeights, params: Parameters, groups: Sequence[Group], tap: Tap
) -> tuple[Array, tuple[Any, ...]]:
    """x + attention(norm(x)), then x + mlp(norm(x)): [N, C] -> [N, C]"""
    emit = tap.emit
    x_n, attn_norm = ops.rmsnorm_forward(x, params.norm)
    attn_in = emit("attn.norm", x_n)
    context, attention = attention_forward(attn_in, w, params, groups, tap)
    attn_out = emit("attn.out", heads_forward(context, w, params, tap))
    x = emit("attn.residual", x + attn_out)

    x_n, mlp_norm = ops.rmsnorm_forward(x, params.norm)
    mlp_in = emit("mlp.norm", x_n)
    relu = ops.relu_forward(emit("mlp.up", mlp_in.dot(w.fc1_t)), params.zero)
    act = emit("mlp.act", relu)
    mlp_out = emit("mlp.down", act.dot(w.fc2_t))
    x = emit("mlp.residual", x + mlp_out)
    return x, (attn_norm, attn_in, attention, context, mlp_norm, mlp_in, relu, act)


def layer_backward(
    dx: Array, cache: tuple[Any, ...], w: LayerWeights, g: LayerWeights, params: Parameters,
    groups: Sequence[Group], tap: Tap,
) -> Array:  # fmt: skip
    """The lines of layer_forward in reverse; `g` are the gradients that belong to the weights `w`."""
    emit = tap.emit
    attn_norm, attn_in, attention, context, mlp_norm, mlp_in, relu, act = cache
    dx = emit("mlp.residual", dx)
    dmlp_out = emit("mlp.down", dx)
    dmlp_out.T.dot(act, g.fc2)
    dact = emit("mlp.act", dmlp_out.dot(w.fc2))
    dup = emit("mlp.up", ops.relu_backward(dact, relu))
    dup.T.dot(mlp_in, g.fc1)
    dx_n = emit("mlp.norm", dup.dot(w.fc1))
    dx = emit("attn.residual", dx + ops.rmsnorm_backward(dx_n, mlp_norm, params.norm))

    dattn_out = emit("attn.out", dx)
    dcontext = emit("attn.context", heads_backward(dattn_out, context, w, g, params, tap))
    dqkv = attention_backward(dcontext, attention, params, groups, tap)
    dqkv.T.dot(attn_in, g.wqkv)
    dx_n = emit("attn.norm", dqkv.dot(w.wqkv))
    return dx + ops.rmsnorm_backward(dx_n, attn_norm, params.norm)


def heads_forward(context: Array, w: LayerWeights, params: Parameters, tap: Tap) -> Array:
    """attn_out = context @ wo.T, as one product unless a head's share was replaced"""
    if not _heads_wanted(params.config, tap):
        return context.dot(w.wo_t)
    computed = [context[:, own].dot(w.wo[:, own].T) for own in _head_columns(params.config)]
    heads = [tap.emit(f"attn.head{h}", head) for h, head in enumerate(computed)]
    if all(a is b for a, b in zip(heads, computed, strict=True)):
        return context.dot(w.wo_t)
    return np.sum(heads, axis=0, dtype=context.dtype)


def heads_backward(
    dattn_out: Array, context: Array, w: LayerWeights, g: LayerWeights, params: Parameters, tap: Tap
) -> Array:
    """dcontext = dattn_out @ wo, dwo = dattn_out.T @ context; each head's gradient is dattn_out"""
    if _heads_wanted(params.config, tap):
        heads = [tap.emit(f"attn.head{h}", dattn_out) for h in range(params.config.n_head)]
        if any(head is not dattn_out for head in heads):
            dcontext = np.empty_like(context)
            for own, dhead in zip(_head_columns(params.config), heads, strict=True):
                dcontext[:, own] = dhead.dot(w.wo[:, own])
                g.wo[:, own] = dhead.T.dot(context[:, own])
            return dcontext
    dattn_out.T.dot(context, g.wo)
    return dattn_out.dot(w.wo)


def _heads_wanted(config: Config, tap: Tap) -> bool:
    return tap is not SILENT and any(tap.wants(f"attn.head{h}") for h in range(config.n_head))


def _head_columns(config: Config) -> list[slice]:
    return [slice(h * config.head_dim, (h + 1) * config.head_dim) for h in range(config.n_head)]


def attention_forward(
    x_n: Array, w: LayerWeights, params: Parameters, groups: Sequence[Group], tap: Tap
) -> tuple[Array, list[tuple[Any, ...]]]:
    """Causal attention within each name, up to the output projection: [N, C] -> [N, C]"""
    width = x_n.shape[1]
    qkv = x_n.dot(w.wqkv_t)
    if len(groups) == 1 and groups[0].n_names == 1:  # one name: its rows are all there is
        q, k, v = qkv[:, :width], qkv[:, width : 2 * width], qkv[:, 2 * width :]
        context, cache = attend_forward(q, k, v, _constants(groups[0], params), tap)
        return tap.emit("attn.context", context), [cache]
    # Contiguous copies of q, k and v pay for themselves in the products of every group.
    q, k, v = qkv.reshape(len(qkv), 3, width).transpose(1, 0, 2).copy()
    context, caches = np.empty_like(q), []
    for group in groups:
        stack = (group.n_names, group.length, width)
        q_g, k_g, v_g = (a[group.rows].reshape(stack) for a in (q, k, v))
        part, cache = attend_forward(q_g, k_g, v_g, _constants(group, params), tap)
        context[group.rows] = part.reshape(-1, width)
        caches.append(cache)
    return context, caches


def attention_backward(
    dcontext: Array, caches: list[tuple[Any, ...]], params: Parameters, groups: Sequence[Group],
    tap: Tap,
) -> Array:  # fmt: skip
    """[N, C] -> [N, 3C], the gradients of q, k and v side by side"""
    if len(groups) == 1 and groups[0].n_names == 1:
        dq_dk_dv = attend_backward(dcontext, caches[0], _constants(groups[0], params), tap)
        return np.concatenate(dq_dk_dv, axis=1)
    width = dcontext.shape[1]
    dqkv = np.empty((len(dcontext), 3 * width), dcontext.dtype)
    for group, cache in zip(groups, caches, strict=True):
        stack = (group.n_names, group.length, width)
        of_group = dcontext[group.rows].reshape(stack)
        dq_dk_dv = attend_backward(of_group, cache, _constants(group, params), tap)
        for i, part in enumerate(dq_dk_dv):
            dqkv[group.rows, i * width : (i + 1) * width].reshape(stack)[...] = part
    return dqkv


def _constants(group: Group, params: Parameters) -> ops.HeadConstants:
    config = params.config
    return ops.head_constants(group.length, config.n_head, config.n_embd, params.dtype)


def attend_forward(
    q: Array, k: Array, v: Array, c: ops.HeadConstants, tap: Tap
) -> tuple[Array, tuple[Any, ...]]:
    """Scores, weights and context of names of one length: [(n,) T, C] thrice -> [(n,) T, C]"""
    q, k, v = tap.emit("attn.q", q), tap.emit("attn.k", k), tap.emit("attn.v", v)
    scores, scores_cache = ops.scores_forward(q, k, c)
    scores = emit_per_head("attn.scores", scores, c, tap)
    computed = ops.attention_weights_forward(scores, c)
    weights = emit_per_head("attn.weights", computed, c, tap)
    context, context_cache = ops.context_forward(weights, v, c)
    return context, (scores_cache, computed, context_cache)


def attend_backward(
    dcontext: Array, cache: tuple[Any, ...], c: ops.HeadConstants, tap: Tap
) -> tuple[Array, Array, Array]:
    scores_cache, weights, context_cache = cache
    dweights, dv = ops.context_backward(dcontext, context_cache, c)
    dweights = emit_per_head("attn.weights", dweights, c, tap)
    dscores = ops.attention_weights_backward(dweights, weights, c)
    dscores = emit_per_head("attn.scores", dscores, c, tap)
    dq, dk = ops.scores_backward(dscores, scores_cache, c)
    dv, dk, dq = tap.emit("attn.v", dv), tap.emit("attn.k", dk), tap.emit("attn.q", dq)
    return dq, dk, dv


def emit_per_head(name: str, value: Array, c: ops.HeadConstants, tap: Tap) -> Array:
    """Emit [T, H*T], heads side by side, as [H, T, T]."""
    if not tap.wants(name):
        return value
    per_head = value.reshape(c.length, c.n_head, c.length).transpose(1, 0, 2)
    used = tap.emit(name, per_head)
    return value if used is per_head else used.transpose(1, 0, 2).reshape(value.shape)


def event_specs(config: Config) -> list[EventSpec]:
    """Every event of a forward pass in order of computation, then the parameters."""
    specs = [
        EventSpec("embed.tok", "embedding", None, "tok_emb = one_hot(tokens) @ wte", "wte"),
        EventSpec("embed.pos", "embedding", None, "pos_emb = one_hot(pos) @ wpe", "wpe"),
        EventSpec("embed.sum", "embedding", None, "x = tok_emb + pos_emb"),
        EventSpec("embed.norm", "embedding", None, "x = RMSNorm(x)"),
    ]
    for i in range(config.n_layer):
        specs += _layer_specs(i, config)
    specs += [
        EventSpec("logits", "head", None, "logits = x @ w_lm", "w_lm = lm_head.T"),
        EventSpec("probs", "head", None, "probs = softmax(logits)", overview=False),
        EventSpec("loss", "head", None, "loss = mean(-log probs[target])", overview=False),
    ]
    return specs + [parameter_spec(name) for name in config.shapes()]


def _layer_specs(i: int, config: Config) -> list[EventSpec]:
    attn, mlp = f"layer{i}.attn", f"layer{i}.mlp"

    def attention(name: str, expr: str, behind: str = "", **more: bool) -> EventSpec:
        named = f"{behind} = layer{i}.attn_{behind}.T" if behind else ""
        return EventSpec(f"{attn}.{name}", "attention", i, expr, named, **more)

    def feedforward(name: str, expr: str, behind: str = "") -> EventSpec:
        named = f"w_{behind} = layer{i}.mlp_{behind}.T" if behind else ""
        return EventSpec(f"{mlp}.{name}", "mlp", i, expr, named)

    scores = f"scores = q @ k.T / sqrt({config.head_dim})"
    heads = [
        EventSpec(
            f"{attn}.head{h}", "attention", i, f"head_{h}_out @ wo[{h}]",
            f"layer{i}.attn_wo[:, {own.start}:{own.stop}]",
        )
        for h, own in enumerate(_head_columns(config))
    ]  # fmt: skip
    return [
        attention("norm", "x_n = RMSNorm(x) [pre-attn]"),
        attention("q", "q = x_n @ wq", "wq", overview=False),
        attention("k", "k = x_n @ wk", "wk", overview=False),
        attention("v", "v = x_n @ wv", "wv", overview=False),
        attention("scores", scores, causal=True, overview=False),
        attention("weights", "weights = softmax(scores + mask)", causal=True, overview=False),
        attention("context", "context = weights @ v", overview=False),
        *heads,
        attention("out", "attn_out = context @ wo", "wo", overview=False),
        attention("residual", "x = x_res + attn_out [residual]"),
        feedforward("norm", "x_n = RMSNorm(x) [pre-MLP]"),
        feedforward("up", "h = x_n @ w_fc1 [up project]", "fc1"),
        feedforward("act", "h = ReLU(h)"),
        feedforward("down", "mlp_out = h @ w_fc2 [down project]", "fc2"),
        feedforward("residual", "x = x_res + mlp_out [residual]"),
    ]


def parameter_spec(name: str) -> EventSpec:
    """The event of a parameter's gradient or update."""
    layer, _, rest = name.rpartition(".")
    stage = "attention" if "attn" in rest else "mlp" if "mlp" in rest else "embedding"
    index = int(layer.removeprefix("layer")) if layer else None
    return EventSpec(name, "head" if name == "lm_head" else stage, index, name, name)

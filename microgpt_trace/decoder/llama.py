"""Llama/Qwen2-class forward pass, a layer's weights at a time. Knows no file, no text and no screen.

Shape letters as in ops.py, and: G key-value heads, S positions seen (those before and T new ones).
Everything is float32. Rows of q and k come in Hugging Face order, whatever the file has: RoPE turns
channel j of a head with channel j + D/2.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from ..architecture.rope import rope_turns, turn
from ..arrays.encodings import StoredTensor
from ..arrays.linear import IGNORE, PARALLEL, keep_freed_memory, linear, share
from ..arrays.stats import Array
from ..arrays.threads import available_cores
from ..hooks.bus import SILENT, Tap
from .config import DecoderConfig


@dataclass
class Cache:
    """Keys (after RoPE) and values of the positions a model has seen, layer by layer."""

    capacity: int
    length: int = 0
    layers: dict[int, tuple[Array, Array]] = field(default_factory=dict)  # [G, capacity, D] each

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append [G, T, D]; what all positions have: [G, S, D]. `length` moves on after a pass."""
        if layer not in self.layers:
            shape = (k.shape[0], self.capacity, k.shape[2])
            self.layers[layer] = np.empty(shape, k.dtype), np.empty(shape, v.dtype)
        stop = self.length + k.shape[1]
        for store, new in zip(self.layers[layer], (k, v), strict=True):
            store[:, self.length : stop] = new
        keys, values = self.layers[layer]
        return keys[:, :stop], values[:, :stop]


class Stored(Protocol):
    """What a computation asks of a decoder."""

    @property
    def config(self) -> DecoderConfig: ...
    @property
    def tensors(self) -> Mapping[str, StoredTensor]: ...


class Weights:
    """The parameters of a decoder as its computation uses them."""

    def __init__(self, model: Stored) -> None:
        self.config, self.tensors = model.config, model.tensors
        self.workers = min(2, available_cores())

    def vector(self, name: str) -> Array:
        return self.tensors[name].read()

    def product(self, x: Array, name: str) -> Array:
        """x @ W.T, and the bias where there is one: [T, in] -> [T, out]"""
        bias = name.replace("_w", "_b")
        known = self.tensors[bias].read() if bias != name and bias in self.tensors else None
        return linear(x, self.tensors[name], known, self.workers)


def forward(model: Stored, tokens: Array, tap: Tap = SILENT, cache: Cache | None = None, n: int = 1) -> Array:
    """The residual stream after the final norm: tokens [T] -> [n*T, C].

    With a cache the tokens follow those that it has seen, and are added to it. The n sequences of the
    same tokens, one after another, differ by what the tap makes of them.
    """
    keep_freed_memory()
    config, start = model.config, cache.length if cache else 0
    weights = Weights(model)
    positions = np.tile(np.arange(start, start + len(tokens)), n)
    turns = rope_turns(config.rope, config.head_dim, positions)
    x = tap.emit("embed.tok", np.tile(model.tensors["wte"].take(tokens), (n, 1)))
    for i in range(config.n_layer):
        x = layer_forward(x, i, weights, turns, tap.layer(i), cache, n)
    if cache is not None:
        cache.length += len(tokens)
    return tap.emit("final.norm", rmsnorm(x, weights.vector("final_norm"), config.norm_eps))


def head_forward(model: Stored, x: Array) -> Array:
    """logits = x @ lm_head.T: [T, C] -> [T, V]"""
    name = "wte" if model.config.tied else "lm_head"
    return Weights(model).product(x, name)


def layer_forward(
    x: Array, i: int, w: Weights, turns: tuple[Array, Array], tap: Tap, cache: Cache | None, n: int = 1
) -> Array:
    """x + attention(norm(x)), then x + mlp(norm(x)): [n*T, C] -> [n*T, C], n sequences one after another"""
    emit, eps, layer = tap.emit, w.config.norm_eps, f"layer{i}."
    x_n = emit("attn.norm", rmsnorm(x, w.vector(layer + "attn_norm"), eps))
    context = attention_forward(x_n, i, w, turns, tap, cache, n)
    x = emit("attn.residual", x + emit("attn.out", heads_forward(context, layer, w, tap)))

    x_n = emit("mlp.norm", rmsnorm(x, w.vector(layer + "mlp_norm"), eps))
    gate = emit("mlp.gate", w.product(x_n, layer + "mlp_wgate"))
    up = emit("mlp.up", w.product(x_n, layer + "mlp_wup"))
    hidden = emit("mlp.hidden", emit("mlp.act", silu(gate)) * up)
    return emit("mlp.residual", x + emit("mlp.down", w.product(hidden, layer + "mlp_wdown")))


def attention_forward(
    x_n: Array, i: int, w: Weights, turns: tuple[Array, Array], tap: Tap, cache: Cache | None, n: int
) -> Array:
    """Causal attention up to the output projection: [n*T, C] -> [n*T, H*D]

    The heads of n sequences are n*H heads with n*G keys and values; a cache is for one sequence.
    """
    emit, config, layer = tap.emit, w.config, f"layer{i}."
    q, k, v = (emit(f"attn.{n}", w.product(x_n, f"{layer}attn_w{n}")) for n in "qkv")
    if config.qk_norm:
        q = emit("attn.q_norm", head_norm(q, w.vector(layer + "attn_q_norm"), config))
        k = emit("attn.k_norm", head_norm(k, w.vector(layer + "attn_k_norm"), config))
    q = emit("attn.q_rope", turn(q, turns, config.head_dim))
    k = emit("attn.k_rope", turn(k, turns, config.head_dim))
    keys, values = (in_heads(a, n, config.head_dim) for a in (k, v))  # [n*G, T, D]
    if cache is not None:
        keys, values = cache.extend(i, keys, values)
    queries = in_heads(q, n, config.head_dim)  # [n*H, T, D]
    group = np.arange(n * config.n_head) * config.n_kv_head // config.n_head  # whose keys a head has
    workers = w.workers if len(q) > PARALLEL else 1
    scores = emit("attn.scores", scores_forward(queries, keys, group, workers))
    mask = visible(scores.shape[1], scores.shape[2], config.windows[i])
    weights = emit("attn.weights", softmax_forward(scores, mask, workers))
    context = context_forward(weights, values, group, workers)
    return emit("attn.context", out_of_heads(context, n))


def in_heads(x: Array, n: int, head_dim: int) -> Array:
    """The heads of n sequences: [n*T, H*D] -> [n*H, T, D]"""
    heads = x.reshape(n, len(x) // n, -1, head_dim).swapaxes(1, 2)
    return heads.reshape(-1, *heads.shape[2:])


def out_of_heads(x: Array, n: int) -> Array:
    """The way back: [n*H, T, D] -> [n*T, H*D]"""
    heads = x.reshape(n, -1, *x.shape[1:]).swapaxes(1, 2)
    return heads.reshape(n * x.shape[1], -1)


def scores_forward(queries: Array, keys: Array, group: Array, workers: int) -> Array:
    """scores = q @ k.T / sqrt(D), head h with the keys group[h]: [H, T, D], [G, S, D] -> [H, T, S]"""
    heads, length, dim = queries.shape
    scores = np.empty((heads, length, keys.shape[1]), np.float32)
    scale = np.float32(1 / math.sqrt(dim))

    @IGNORE
    def fill(own: slice) -> None:
        np.matmul(queries[own], keys[group[own]].swapaxes(1, 2), out=scores[own])
        scores[own] *= scale

    share(fill, shares(heads, workers), workers)
    return scores


def softmax_forward(scores: Array, mask: Array, workers: int) -> Array:
    """softmax over the keys where the mask holds, 0 elsewhere: [H, T, S], [T, S] -> [H, T, S]"""
    weights = np.empty_like(scores)

    @IGNORE
    def fill(own: slice) -> None:
        z = np.where(mask, scores[own], np.float32(-np.inf))
        z -= z.max(axis=-1, keepdims=True)
        np.exp(z, out=z)
        np.divide(z, z.sum(axis=-1, keepdims=True), out=weights[own])

    share(fill, shares(len(scores), workers), workers)
    return weights


def context_forward(weights: Array, values: Array, group: Array, workers: int) -> Array:
    """context = weights @ v, head h with the values group[h]: [H, T, S], [G, S, D] -> [H, T, D]"""
    context = np.empty((*weights.shape[:2], values.shape[2]), np.float32)

    @IGNORE
    def fill(own: slice) -> None:
        np.matmul(weights[own], values[group[own]], out=context[own])

    share(fill, shares(len(weights), workers), workers)
    return context


def shares(heads: int, workers: int) -> list[slice]:
    """The heads that each worker has."""
    return [slice(heads * n // workers, heads * (n + 1) // workers) for n in range(workers)]


def heads_forward(context: Array, layer: str, w: Weights, tap: Tap) -> Array:
    """attn_out = context @ wo.T + bo, by way of each head's share where these are wanted or replaced"""
    attn_out = w.product(context, layer + "attn_wo")
    wanted = [h for h in range(w.config.n_head) if tap.wants(f"attn.head{h}")]
    if not wanted:
        return attn_out
    wo, dim = w.tensors[layer + "attn_wo"].read(), w.config.head_dim
    for h in wanted:
        own = slice(h * dim, (h + 1) * dim)
        computed = context[:, own] @ wo[:, own].T
        head = tap.emit(f"attn.head{h}", computed)
        if head is not computed:
            attn_out = attn_out + (head - computed)
    return attn_out


def rmsnorm(x: Array, gain: Array, eps: float) -> Array:
    """y = x / sqrt(mean(x^2) + eps) * gain, row by row: [..., C] -> [..., C]

    Zhang and Sennrich, "Root Mean Square Layer Normalization" (2019).
    """
    rms = np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + np.float32(eps))
    return x / rms * gain


def head_norm(x: Array, gain: Array, config: DecoderConfig) -> Array:
    """RMSNorm of each head by itself: [T, H*D] -> [T, H*D]"""
    heads = x.reshape(len(x), -1, config.head_dim)
    return rmsnorm(heads, gain, config.norm_eps).reshape(x.shape)


def silu(x: Array) -> Array:
    """x * sigmoid(x)"""
    return x / (np.float32(1) + np.exp(-x))


def visible(length: int, seen: int, window: int | None) -> Array:
    """Which positions a query may look at: [T, S] of booleans, the last T rows of a causal mask."""
    back = np.arange(seen - length, seen)[:, None] - np.arange(seen)  # how far back the key lies
    return (back >= 0) if window is None else (back >= 0) & (back < window)

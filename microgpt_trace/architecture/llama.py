"""The plan of llama's family (llama, mistral, qwen2, qwen3): RMSNorm, RoPE, grouped keys, a gated MLP."""

from __future__ import annotations

import math
from functools import partial
from typing import Protocol

from .kinds import (
    Activation,
    Add,
    Context,
    Linear,
    Lookup,
    Loss,
    Multiply,
    Norm,
    Probabilities,
    Rotation,
    Scores,
    Softmax,
)
from .model import Dimensions
from .plan import Plan, Rows


class Options(Dimensions, Protocol):
    """What besides the dimensions tells the rows."""

    @property
    def tied(self) -> bool:
        """Whether the embedding makes the logits too."""

    @property
    def qk_norm(self) -> bool:
        """Whether each head's q and k are normed."""


def plan_of(config: Options) -> Plan:
    """The rows of a decoder; its config says which biases and windows it has, whether q and k are normed."""
    rows, width = Rows(), config.n_embd
    tokens = Lookup("wte", "tokens", config.vocab_size, width)
    stream = rows.add("embed.tok", tokens, expr="x = wte[tokens]", behind="wte", overview=True)
    product = partial(_product, rows, config)
    for i in range(config.n_layer):
        rows.begin_layer(i)
        _norm(rows, config, "attn", stream, "pre-attn")
        context = _attention(rows, config, config.windows[i])
        heads = _heads(rows, config, context)
        product("attn.out", "wo", "attn.context", width, "attn_out = context", "o_proj", heads)
        stream = rows.add("attn.residual", Add(), stream, "attn.out", expr="x = x_res + attn_out [residual]")
        _norm(rows, config, "mlp", stream, "pre-FFN")
        product("mlp.gate", "wgate", "mlp.norm", config.n_inner, "gate = x_n", "gate_proj")
        product("mlp.up", "wup", "mlp.norm", config.n_inner, "up = x_n", "up_proj")
        act = config.activation
        rows.add("mlp.act", Activation(act), "mlp.gate", expr=f"act = {act}(gate)")
        rows.add("mlp.hidden", Multiply(), "mlp.act", "mlp.up", expr="hidden = act * up")
        product("mlp.down", "wdown", "mlp.hidden", width, "mlp_out = hidden", "ffn_down")
        expr = "x = x_res + mlp_out [residual]"
        stream = rows.add("mlp.residual", Add(), stream, "mlp.down", expr=expr, overview=True)
    rows.begin_layer(None)
    norm, expr = Norm(config.norm_eps, "final_norm"), "x_n = RMSNorm(x) * g [final]"
    rows.add("final.norm", norm, stream, expr=expr, behind="g = final_norm", overview=True)
    head = Linear("wte" if config.tied else "lm_head", config.vocab_size)
    expr, behind = "logits = x_n @ w_lm", f"w_lm = {head.weight}.T"
    rows.add("logits", head, "final.norm", expr=expr, behind=behind, overview=True)
    rows.add("probs", Probabilities(), "logits", expr="probs = softmax(logits)")
    rows.add("loss", Loss(), "logits", expr="loss = mean(-log probs[target])")
    return Plan(rows.rows)


def _norm(rows: Rows, config: Options, half: str, stream: str, words: str) -> None:
    norm = Norm(config.norm_eps, rows.name(f"{half}_norm"))
    rows.add(f"{half}.norm", norm, stream, expr=f"x_n = RMSNorm(x) * g [{words}]", behind=f"g = {norm.gain}")


def _product(
    rows: Rows, config: Options, name: str, matrix: str, source: str, width: int, made: str, words: str,
    heads: tuple[str, ...] = (),
) -> None:  # fmt: skip
    """x @ W.T, and the bias where the layers have one of that name: attn_bq beside attn_wq."""
    half, vector = name.partition(".")[0], matrix.replace("w", "b", 1)
    biased = f"{half}_{vector}" in config.biases
    kind = Linear(rows.name(f"{half}_{matrix}"), width, rows.name(f"{half}_{vector}") if biased else None)
    expr = f"{made} @ {matrix}" + f" + {vector}" * biased + f" [{words}]"
    behind = f"{matrix} = {kind.weight}.T" + f", {vector} = {kind.bias}" * biased
    rows.add(name, kind, source, expr=expr, behind=behind, parts=heads)


def _attention(rows: Rows, config: Options, window: int | None) -> str:
    """From the norm to the context."""
    dim, queries, keys = config.head_dim, config.n_head, config.n_kv_head
    group = tuple(h * keys // queries for h in range(queries))  # whose keys and values a head has
    for n, heads in (("q", queries), ("k", keys), ("v", keys)):
        _product(rows, config, f"attn.{n}", f"w{n}", "attn.norm", heads * dim, f"{n} = x_n", f"{n}_proj")
    turned = {"q": "attn.q", "k": "attn.k"}
    if config.qk_norm:
        for n in turned:
            norm, expr = (
                Norm(config.norm_eps, rows.name(f"attn_{n}_norm"), dim),
                f"{n} = RMSNorm({n}) * g per head",
            )
            rows.add(f"attn.{n}_norm", norm, turned[n], expr=expr, behind=f"g = {norm.gain}")
            turned[n] = f"attn.{n}_norm"
    for n, source in turned.items():
        rows.add(f"attn.{n}_rope", Rotation(config.rope, dim), source, expr=f"{n} = RoPE({n}, position)")
    scores, expr = Scores(dim, group, 1 / math.sqrt(dim)), f"scores = q @ k.T / sqrt({dim})"
    rows.add("attn.scores", scores, "attn.q_rope", "attn.k_rope", expr=expr)
    mask = "mask" if window is None else f"mask + window {window}"
    rows.add("attn.weights", Softmax(window), "attn.scores", expr=f"weights = softmax(scores + {mask})")
    context = Context(dim, group)
    return rows.add("attn.context", context, "attn.weights", "attn.v", expr="context = weights @ v [attn]")


def _heads(rows: Rows, config: Options, context: str) -> tuple[str, ...]:
    """What each head adds to the stream: its columns of the output's matrix."""
    dim, weight, found = config.head_dim, rows.name("attn_wo"), []
    for h in range(config.n_head):
        start, stop = h * dim, (h + 1) * dim
        kind, expr = Linear(weight, config.n_embd, columns=(start, stop)), f"head_{h}_out @ wo[{h}]"
        behind = f"{weight}[:, {start}:{stop}]"
        found.append(rows.add(f"attn.head{h}", kind, context, expr=expr, behind=behind, extra=True))
    return tuple(found)

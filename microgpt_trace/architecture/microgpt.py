"""The plan of microGPT: learned positions, norms without gain, ReLU, no biases."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from .kinds import Activation, Add, Context, Linear, Lookup, Loss, Norm, Probabilities, Scores, Softmax
from .plan import Plan
from .row_builder import RowBuilder

if TYPE_CHECKING:
    from .blocks import Dimensions


def plan_of(config: Dimensions) -> Plan:
    """The rows of a microGPT."""
    rows, width, norm = RowBuilder(), config.n_embd, Norm(config.norm_eps)
    add = partial(rows.add, overview=True)
    tokens = Lookup("wte", "tokens", config.vocab_size, width)
    positions = Lookup("wpe", "positions", config.context_length, width)
    add("embed.tok", tokens, expr="tok_emb = one_hot(tokens) @ wte", behind="wte")
    add("embed.pos", positions, expr="pos_emb = one_hot(pos) @ wpe", behind="wpe")
    add("embed.sum", Add(), "embed.tok", "embed.pos", expr="x = tok_emb + pos_emb")
    stream = add("embed.norm", norm, "embed.sum", expr="x = RMSNorm(x)")
    for i in range(config.n_layer):
        rows.begin_layer(i)
        stream = _attention(rows, stream, norm, config)
        add("mlp.norm", norm, stream, expr="x_n = RMSNorm(x) [pre-MLP]")
        up, down = (Linear(rows.name(f"mlp_fc{n}"), w) for n, w in ((1, config.n_inner), (2, width)))
        add("mlp.up", up, "mlp.norm", expr="h = x_n @ w_fc1 [up project]", behind=f"w_fc1 = {up.weight}.T")
        add("mlp.act", Activation(config.activation), "mlp.up", expr=f"h = {config.activation}(h)")
        expr = "mlp_out = h @ w_fc2 [down project]"
        add("mlp.down", down, "mlp.act", expr=expr, behind=f"w_fc2 = {down.weight}.T")
        stream = add("mlp.residual", Add(), stream, "mlp.down", expr="x = x_res + mlp_out [residual]")
    rows.begin_layer(None)
    head = Linear("lm_head", config.vocab_size)
    add("logits", head, stream, expr="logits = x @ w_lm", behind="w_lm = lm_head.T")
    rows.add("probs", Probabilities(), "logits", expr="probs = softmax(logits)")
    rows.add("loss", Loss(), "logits", expr="loss = mean(-log probs[target])")
    return Plan(rows.rows)


def _attention(rows: RowBuilder, stream: str, norm: Norm, config: Dimensions) -> str:
    width, dim, group = config.n_embd, config.head_dim, tuple(range(config.n_head))
    rows.add("attn.norm", norm, stream, expr="x_n = RMSNorm(x) [pre-attn]", overview=True)
    for n in "qkv":
        product = Linear(rows.name(f"attn_w{n}"), width)
        rows.add(
            f"attn.{n}", product, "attn.norm", expr=f"{n} = x_n @ w{n}", behind=f"w{n} = {product.weight}.T"
        )
    scores, expr = Scores(dim, group, 1 / math.sqrt(dim)), f"scores = q @ k.T / sqrt({dim})"
    rows.add("attn.scores", scores, "attn.q", "attn.k", expr=expr)
    weights = "weights = softmax(scores + mask)"
    rows.add("attn.weights", Softmax(), "attn.scores", expr=weights, overview=True)
    rows.add("attn.context", Context(dim, group), "attn.weights", "attn.v", expr="context = weights @ v")
    out, heads = Linear(rows.name("attn_wo"), width), []
    for h in group:
        head = Linear(out.weight, width, columns=(h * dim, (h + 1) * dim))
        behind = f"{out.weight}[:, {h * dim}:{(h + 1) * dim}]"
        expr = f"head_{h}_out @ wo[{h}]"
        heads.append(rows.add(f"attn.head{h}", head, "attn.context", expr=expr, behind=behind, overview=True))
    expr, behind = "attn_out = context @ wo", f"wo = {out.weight}.T"
    rows.add("attn.out", out, "attn.context", expr=expr, behind=behind, parts=heads)
    expr = "x = x_res + attn_out [residual]"
    return rows.add("attn.residual", Add(), stream, "attn.out", expr=expr, overview=True)

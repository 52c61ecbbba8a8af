"""The plan of microGPT, with learned positions, norms without gain, ReLU, and no biases."""

from __future__ import annotations

from functools import partial

from .blocks import Blocks, Dimensions
from .kinds import Activation, Add, Linear, Lookup, Norm
from .plan import Plan


def plan_of(config: Dimensions) -> Plan:
    """Return the plan of a microGPT."""
    rows, width, norm = Blocks(config), config.n_embd, Norm(config.norm_eps)
    add = partial(rows.add, overview=True)
    tokens = Lookup("wte", "tokens", config.vocab_size, width)
    positions = Lookup("wpe", "positions", config.context_length, width)
    add("embed.tok", tokens, expr="tok_emb = one_hot(tokens) @ wte", parameter="wte")
    add("embed.pos", positions, expr="pos_emb = one_hot(pos) @ wpe", parameter="wpe")
    add("embed.sum", Add(), "embed.tok", "embed.pos", expr="x = tok_emb + pos_emb")
    stream = add("embed.norm", norm, "embed.sum", expr="x = RMSNorm(x)")
    for _ in rows.layers():
        normed = add("attn.norm", norm, stream, expr="x_n = RMSNorm(x) [pre-attn]")
        q, k, v = rows.queries_keys_values(normed, "")
        out = rows.attention(q, k, v, overview=True, words=("", ""))
        stream = add("attn.residual", Add(), stream, out, expr="x = x_res + attn_out [residual]")
        add("mlp.norm", norm, stream, expr="x_n = RMSNorm(x) [pre-MLP]")
        up, down = (Linear(rows.name(f"mlp_fc{n}"), w) for n, w in ((1, config.n_inner), (2, width)))
        add("mlp.up", up, "mlp.norm", expr="h = x_n @ w_fc1 [up project]", parameter=f"w_fc1 = {up.weight}.T")
        add("mlp.act", Activation(config.activation), "mlp.up", expr=f"h = {config.activation}(h)")
        expr = "mlp_out = h @ w_fc2 [down project]"
        add("mlp.down", down, "mlp.act", expr=expr, parameter=f"w_fc2 = {down.weight}.T")
        stream = add("mlp.residual", Add(), stream, "mlp.down", expr="x = x_res + mlp_out [residual]")
    return rows.predictions(stream, read="x")

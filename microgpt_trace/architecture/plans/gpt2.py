"""The plan of GPT-2, with learned positions, LayerNorm with a bias, and an MLP without a gate."""

from __future__ import annotations

from .blocks import Dimensions, RowBuilder, attention, norm, predictions, product, queries_keys_values
from .kinds import Activation, Add, Lookup
from .plan import Plan


def plan_of(config: Dimensions) -> Plan:
    """Return the plan of a GPT-2. The config sets the kind of GELU and the scale of the scores."""
    rows, width, act = RowBuilder(), config.n_embd, config.activation
    tokens = Lookup("wte", "tokens", config.vocab_size, width)
    positions = Lookup("wpe", "positions", config.context_length, width)
    rows.add("embed.tok", tokens, expr="tok_emb = wte[tokens]", parameter="wte", overview=True)
    rows.add("embed.pos", positions, expr="pos_emb = wpe[positions]", parameter="wpe", overview=True)
    expr = "x = tok_emb + pos_emb"
    stream = rows.add("embed.sum", Add(), "embed.tok", "embed.pos", expr=expr, overview=True)
    for i in range(config.n_layer):
        rows.layer = i
        normed = norm(rows, config, "attn.norm", stream, "pre-attn", centred=True)
        q, k, v = queries_keys_values(rows, config, normed)
        out = attention(rows, config, i, q, k, v)
        stream = rows.add("attn.residual", Add(), stream, out, expr="x = x_res + attn_out [residual]")
        normed = norm(rows, config, "mlp.norm", stream, "pre-FFN", centred=True)
        up = product(rows, config, "mlp.up", "wup", normed, config.n_inner, "up = x_n", "up_proj")
        hidden = rows.add("mlp.act", Activation(act), up, expr=f"act = {act}(up)")
        down = product(rows, config, "mlp.down", "wdown", hidden, width, "mlp_out = act", "ffn_down")
        expr = "x = x_res + mlp_out [residual]"
        stream = rows.add("mlp.residual", Add(), stream, down, expr=expr, overview=True)
    rows.layer = None
    return predictions(rows, config, norm(rows, config, "final.norm", stream, "final", centred=True))

"""The plan of Llama, Mistral, Qwen2 and Qwen3, with RMSNorm, RoPE, grouped-query attention and gated MLP."""

from __future__ import annotations

from .blocks import Dimensions, RowBuilder, attention, norm, predictions, product, queries_keys_values
from .kinds import Activation, Add, Lookup, Multiply, Norm, Rotation
from .plan import Plan


def plan_of(config: Dimensions) -> Plan:
    """Return the plan of a decoder. The config determines the biases, the windows, and whether q and k are
    normalised."""
    rows, width, inner, act = RowBuilder(), config.n_embd, config.n_inner, config.activation
    tokens = Lookup("wte", "tokens", config.vocab_size, width)
    stream = rows.add("embed.tok", tokens, expr="x = wte[tokens]", parameter="wte", overview=True)
    for i in range(config.n_layer):
        rows.layer = i
        normed = norm(rows, config, "attn.norm", stream, "pre-attn")
        q, k, v = queries_keys_values(rows, config, normed)
        if config.qk_norm:
            q, k = (_head_norm(rows, config, n) for n in "qk")
        q, k = (_rotation(rows, config, n, source) for n, source in (("q", q), ("k", k)))
        out = attention(rows, config, i, q, k, v)
        stream = rows.add("attn.residual", Add(), stream, out, expr="x = x_res + attn_out [residual]")
        normed = norm(rows, config, "mlp.norm", stream, "pre-FFN")
        gate = product(rows, config, "mlp.gate", "wgate", normed, inner, "gate = x_n", "gate_proj")
        up = product(rows, config, "mlp.up", "wup", normed, inner, "up = x_n", "up_proj")
        rows.add("mlp.act", Activation(act), gate, expr=f"act = {act}(gate)")
        hidden = rows.add("mlp.hidden", Multiply(), "mlp.act", up, expr="hidden = act * up")
        down = product(rows, config, "mlp.down", "wdown", hidden, width, "mlp_out = hidden", "ffn_down")
        expr = "x = x_res + mlp_out [residual]"
        stream = rows.add("mlp.residual", Add(), stream, down, expr=expr, overview=True)
    rows.layer = None
    return predictions(rows, config, norm(rows, config, "final.norm", stream, "final"))


def _head_norm(rows: RowBuilder, config: Dimensions, n: str) -> str:
    """Add a row that normalises each head of q or k."""
    kind = Norm(config.norm_eps, rows.name(f"attn_{n}_norm"), config.head_dim)
    expr = f"{n} = RMSNorm({n}) * g per head"
    return rows.add(f"attn.{n}_norm", kind, f"attn.{n}", expr=expr, parameter=f"g = {kind.gain}")


def _rotation(rows: RowBuilder, config: Dimensions, n: str, source: str) -> str:
    kind = Rotation(config.rope, config.head_dim)
    return rows.add(f"attn.{n}_rope", kind, source, expr=f"{n} = RoPE({n}, position)")

"""GPT-2, with learned positions, LayerNorm with a bias, and an MLP without a gate."""

from __future__ import annotations

import math

from ...plans.blocks import Blocks
from ...plans.kinds import Add, Lookup
from ...text.frozen import frozen
from ..architecture import QKV_BIASES, Architecture, FileNames
from ..layered_plan import LayeredConfig, Layout
from ..settings import FLAG, Options, Settings, Sizes
from ..shared_options import read_activation


def embedding(rows: Blocks) -> str:
    """Add the embeddings of the tokens and of the positions, and their sum."""
    rows.embedding(symbol="tok_emb")
    positions = Lookup("wpe", "positions", rows.config.context_length, rows.config.n_embd)
    rows.add("embed.pos", positions, expr="pos_emb = wpe[positions]", parameter="wpe", overview=True)
    expr = "x = tok_emb + pos_emb"
    return rows.add("embed.sum", Add(), "embed.tok", "embed.pos", expr=expr, overview=True)


@frozen(slots=False)
class GPT2Config(LayeredConfig):
    """The config of a GPT-2. The config sets the kind of GELU and the scale of the scores."""

    layout = Layout(centred=True, biased=True, embedding=embedding, mlp=Blocks.plain_mlp)


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read the function of the MLP, and the scale of the scores in each layer."""
    scaled, by_layer = (
        settings.get(key, FLAG) for key in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx")
    )
    activation = {"rope": None, "activation": read_activation(settings, "activation_function", "gelu_new")}
    if scaled is not False and not by_layer:
        return activation
    scale = 1.0 if scaled is False else 1 / math.sqrt(sizes["head_dim"])
    scales = tuple(scale / (i + 1) if by_layer else scale for i in range(sizes["n_layer"]))
    return activation | {"score_scales": scales}


NAMES = FileNames(
    "a GPT-2",
    {
        "wte": ("token_embd", "wte"),
        "wpe": ("position_embd", "wpe"),
        "final_norm": ("output_norm", "ln_f"),
        "lm_head": ("output", "lm_head"),
    },
    {
        "attn_norm": ("attn_norm", "ln_1"),
        "attn_wqkv": ("attn_qkv", "attn.c_attn"),
        "attn_wo": ("attn_output", "attn.c_proj"),
        "mlp_norm": ("ffn_norm", "ln_2"),
        "mlp_wup": ("ffn_up", "mlp.c_fc"),
        "mlp_wdown": ("ffn_down", "mlp.c_proj"),
    },
    blocks="h",
    outer="transformer.",
    vectors=True,
    transposed=("attn_wqkv", "attn_wo", "mlp_wup", "mlp_wdown"),
    skipped=(".attn.bias", ".attn.masked_bias"),
)

ARCHITECTURES = {
    "gpt2": Architecture(
        GPT2Config, NAMES, options, example={"rope": None},
        from_gguf=lambda keys, sizes: {"activation_function": "gelu_new"},
        sizes={
            "n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd", "n_inner": "n_inner",
            "vocab_size": "vocab_size", "context_length": "n_positions", "norm_eps": "layer_norm_epsilon",
        },
        defaults={"norm_eps": 1e-5, "n_inner": 4},
        tied=True,
        biases=(*QKV_BIASES, "attn_bo", "mlp_bup", "mlp_bdown"),
        modules={
            "drop": "embed.sum", "attn": "attn.out", "attn.resid_dropout": "attn.out",
            "mlp": "mlp.down", "mlp.act": "mlp.act", "mlp.dropout": "mlp.down",
        },
        gguf_eps="attention.layer_norm_epsilon",
    ),
}  # fmt: skip

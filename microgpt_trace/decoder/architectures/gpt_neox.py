"""GPT-NeoX and Pythia: LayerNorm, RoPE of a part of each head, and attention beside the MLP."""

from __future__ import annotations

from ...plans.blocks import Blocks
from ...text.frozen import frozen
from ..architecture import QKV_BIASES, SIZES, Architecture, FileNames
from ..layered_plan import LayeredConfig, Layout, Parallel
from ..settings import FLAG, Options, Settings, Sizes
from ..shared_options import gguf_rope, read_activation, read_rope, rotated_channels


@frozen(slots=False)
class GPTNeoXConfig(LayeredConfig):
    """The config of a GPT-NeoX. In a parallel layer, both norms read the input of the layer."""

    parallel: bool = True  # attention and MLP both read the input of the layer

    @property
    def layout(self) -> Layout:
        parallel: Parallel = "two norms" if self.parallel else ""
        return Layout(centred=True, biased=True, parallel=parallel, mlp=Blocks.plain_mlp)


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the rotated channels, the function of the MLP, and whether the branches are parallel."""
    return {
        "rope": read_rope(settings, old_key="rotary_emb_base", partial=True),
        "rotary_dim": rotated_channels(settings, sizes["head_dim"], 0.25, "rotary_pct"),
        "activation": read_activation(settings, "hidden_act", "gelu"),
        "parallel": settings.get_or_default("use_parallel_residual", FLAG, True),
    }


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE and the parallel branches. GGUF files do not store the function of the MLP. It is GELU
    here, as in the models' configs, and GELU by tanh in llama.cpp."""
    keys.notes.append("hidden_act = gelu, as in Pythia; llama.cpp computes GELU by tanh (gelu_new)")
    parallel = keys.get_or_default("use_parallel_residual", FLAG, True, "the default of llama.cpp")
    rope = gguf_rope(keys, sizes["head_dim"], partial=True)
    return {"hidden_act": "gelu", "use_parallel_residual": parallel, **rope}


NAMES = FileNames(
    "a GPT-NeoX",
    {
        "wte": ("token_embd", "gpt_neox.embed_in"),
        "final_norm": ("output_norm", "gpt_neox.final_layer_norm"),
        "lm_head": ("output", "embed_out"),
    },
    {
        "attn_norm": ("attn_norm", "input_layernorm"),
        "attn_wqkv": ("attn_qkv", "attention.query_key_value"),
        "attn_wo": ("attn_output", "attention.dense"),
        "mlp_norm": ("ffn_norm", "post_attention_layernorm"),
        "mlp_wup": ("ffn_up", "mlp.dense_h_to_4h"),
        "mlp_wdown": ("ffn_down", "mlp.dense_4h_to_h"),
    },
    blocks="gpt_neox.layers",
    vectors=True,
    by_head=True,
    aliases={"lm_head": "embed_out"},
    skipped=("attention.bias", "attention.masked_bias", "rotary_emb.inv_freq"),
)

# llama.cpp gives this name to two tensors in turn, and a dump with one file per name keeps the second.
_BOTH = "in parallel layers of llama.cpp, ffn_out includes the input of the layer; use --map"
ARCHITECTURES = {
    "gpt_neox": Architecture(
        GPTNeoXConfig, NAMES, options, from_gguf=from_gguf,
        modules={
            "emb_dropout": "embed.tok", "attention": "attn.out", "post_attention_dropout": "attn.out",
            "mlp": "mlp.down", "mlp.act": "mlp.act", "post_mlp_dropout": "mlp.down",
        },
        refused_names={"ffn_out-#": _BOTH},
        sizes={own: key for own, key in SIZES.items() if own not in ("n_kv_head", "head_dim")}
        | {"norm_eps": "layer_norm_eps"},
        defaults={"norm_eps": 1e-5}, tied=False, gguf_eps="attention.layer_norm_epsilon",
        biases=("mlp_bup", "mlp_bdown"),
        flagged_biases={"attention_bias": (*QKV_BIASES, "attn_bo")}, flags={"attention_bias": True},
    ),
}  # fmt: skip

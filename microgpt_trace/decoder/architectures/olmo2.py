"""OLMo 2: a Llama with norms after attention and MLP instead of before, and norms of all of q and k."""

from __future__ import annotations

from functools import cached_property

from ...plans.blocks import Blocks
from ...plans.plan import Plan
from ...text.frozen import frozen
from ..architecture import Architecture, FileNames
from ..config import DecoderConfig
from ..settings import Options, Settings, Sizes
from ..shared_options import gguf_rope, read_activation, read_rope
from .llama import ATTENTION_BIASES, MODULES
from .llama import NAMES as LLAMA


@frozen(slots=False)
class OLMo2Config(DecoderConfig):
    """The config of an OLMo 2."""

    @cached_property
    def plan(self) -> Plan:
        rows = Blocks(self)
        stream = rows.embedding()
        for _ in rows.layers():
            q, k, v = rows.queries_keys_values(stream)
            q, k = rows.norms_of_queries_and_keys(q, k)
            q, k = rows.rotations(q, k, self.rope)
            out = rows.attention(q, k, v)
            stream = rows.add_branch("attn", stream, rows.norm("attn.post_norm", out, of="attn_out"))
            out = rows.gated_mlp(stream)
            stream = rows.add_branch("mlp", stream, rows.norm("mlp.post_norm", out, of="mlp_out"))
        return rows.predictions(rows.norm("final.norm", stream, "final"))


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE and the function of the MLP."""
    return {"rope": read_rope(settings), "activation": read_activation(settings, "hidden_act", "silu")}


NAMES = FileNames(
    "an OLMo 2",
    LLAMA.model,
    {name: theirs for name, theirs in LLAMA.layer.items() if name not in ("attn_norm", "mlp_norm")}
    | {
        "attn_post_norm": ("post_attention_norm", "post_attention_layernorm"),
        "mlp_post_norm": ("post_ffw_norm", "post_feedforward_layernorm"),
    },
)

ARCHITECTURES = {
    "olmo2": Architecture(
        OLMo2Config, NAMES, options, MODULES, defaults={"norm_eps": 1e-5}, tied=False,
        from_gguf=lambda keys, sizes: {"hidden_act": "silu", **gguf_rope(keys, sizes["head_dim"])},
        flagged_biases=ATTENTION_BIASES,
    ),
}  # fmt: skip

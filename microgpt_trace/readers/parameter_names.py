"""The names that GGUF and Hugging Face give to our parameters, by architecture."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

FUSED = {"attn_wqkv": ("attn_wq", "attn_wk", "attn_wv"), "attn_bqkv": ("attn_bq", "attn_bk", "attn_bv")}


@dataclass(frozen=True, eq=False)
class Names:
    """What files call the parameters of an architecture: ours -> (GGUF's, Hugging Face's), without ".weight"
    or ".bias", those of a layer without its number.

    `blocks` is what Hugging Face puts before the number, `outer` what it may put before any name. A fused
    matrix has a name of FUSED. `vectors` have a bias of the same name; else matrices have. The matrices in
    `transposed` are stored [in, out] by Hugging Face; `skipped` are constants that old files store.
    """

    of: str  # "a Llama or Qwen2-class decoder"
    whole: Mapping[str, tuple[str, str]]
    layer: Mapping[str, tuple[str, str]]
    blocks: str = "model.layers"
    outer: str = ""
    vectors: bool = False
    transposed: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ("rotary_emb.inv_freq", "masked_bias")

    @cached_property
    def ours(self) -> Mapping[str, str]:
        """Our name of each of theirs, without the number of the layer."""
        found: dict[str, str] = {}
        for own, theirs in self.whole.items():
            for name in theirs:
                found |= self._named(name, own)
        for own, (gguf, hf) in self.layer.items():
            for prefix, name in (("blk", gguf), (self.blocks, hf)):
                found |= self._named(f"{prefix}.{name}", own)
        return found

    def _named(self, name: str, own: str) -> dict[str, str]:
        bias = bias_name(own)
        has_bias = "." in name and "_w" in own if not self.vectors else bias is not None
        return {f"{name}.weight": own} | ({f"{name}.bias": bias} if has_bias and bias else {})

    def our_name(self, name: str) -> str | None:
        """Our name of a file's tensor, or None where it has none."""
        name = name.removeprefix(self.outer)
        layered = re.fullmatch(rf"(blk|{re.escape(self.blocks)})\.(0|[1-9][0-9]{{0,3}})\.(.+)", name)
        if layered is None:
            ours = self.ours.get(name)
            return None if name.startswith(("blk.", f"{self.blocks}.")) else ours
        prefix, index, rest = layered.groups()
        ours = self.ours.get(f"{prefix}.{rest}")
        return f"layer{index}.{ours}" if ours else None

    def gguf_name(self, own: str) -> str:
        """What GGUF calls the tensor of one of our matrices or gains, or the fused one that it is a part of.
        Raises KeyError for what is none of them."""
        layer, _, kind = own.rpartition(".")
        if not layer:
            return f"{self.whole[kind][0]}.weight"
        fused = [whole for whole, parts in FUSED.items() if kind in parts and whole in self.layer]
        return f"blk.{layer.removeprefix('layer')}.{self.layer[fused[0] if fused else kind][0]}.weight"

    def is_transposed(self, own: str) -> bool:
        """Whether Hugging Face stores our matrix of that name as [in, out]."""
        return own.rpartition(".")[2] in self.transposed

    def like(self, name: str) -> list[str]:
        """The names of a file's tensors that exist, nearest first: up to three, for the layer of `name`."""
        from difflib import get_close_matches

        number = re.search(r"\.([0-9]{1,4})\.", name)
        index = number[1] if number else "0"
        blocks = rf"^(blk|{re.escape(self.blocks)})\."
        known = [re.sub(blocks, rf"\1.{index}.", pattern) for pattern in self.ours]
        return get_close_matches(name[:200], known, 3)


def bias_name(own: str) -> str | None:
    """The bias beside one of our matrices or gains: attn_bq of attn_wq, attn_bnorm of attn_norm; None beside
    a table."""
    half, _, rest = own.partition("_")
    return f"{half}_b{rest.removeprefix('w')}" if rest.startswith(("w", "norm")) else None


LLAMA = Names(
    "a Llama or Qwen2-class decoder",
    {
        "wte": ("token_embd", "model.embed_tokens"),
        "final_norm": ("output_norm", "model.norm"),
        "lm_head": ("output", "lm_head"),
    },
    {
        "attn_norm": ("attn_norm", "input_layernorm"),
        "attn_wq": ("attn_q", "self_attn.q_proj"),
        "attn_wk": ("attn_k", "self_attn.k_proj"),
        "attn_wv": ("attn_v", "self_attn.v_proj"),
        "attn_wo": ("attn_output", "self_attn.o_proj"),
        "attn_q_norm": ("attn_q_norm", "self_attn.q_norm"),
        "attn_k_norm": ("attn_k_norm", "self_attn.k_norm"),
        "mlp_norm": ("ffn_norm", "post_attention_layernorm"),
        "mlp_wgate": ("ffn_gate", "mlp.gate_proj"),
        "mlp_wup": ("ffn_up", "mlp.up_proj"),
        "mlp_wdown": ("ffn_down", "mlp.down_proj"),
    },
)

GPT2 = Names(
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

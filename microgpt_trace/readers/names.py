"""The names that GGUF and Hugging Face give to our parameters."""

from __future__ import annotations

import re

# ours: (GGUF's, Hugging Face's), without the layer's prefix and ".weight" or ".bias"
_WHOLE = {
    "wte": ("token_embd", "model.embed_tokens"),
    "final_norm": ("output_norm", "model.norm"),
    "lm_head": ("output", "lm_head"),
}
_LAYER = {
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
}
_OURS: dict[str, str] = {}  # without the number of the layer
for _ours, _theirs in _WHOLE.items():
    _OURS |= {f"{name}.weight": _ours for name in _theirs}
for _ours, (_gguf, _hf) in _LAYER.items():
    for _prefix, _name in (("blk", _gguf), ("model.layers", _hf)):
        _OURS[f"{_prefix}.{_name}.weight"] = _ours
        if "_w" in _ours:
            _OURS[f"{_prefix}.{_name}.bias"] = _ours.replace("_w", "_b")
_LAYERED = re.compile(r"(blk|model\.layers)\.(0|[1-9][0-9]{0,3})\.(.+)")


def our_name(name: str) -> str | None:
    """Our name of a file's tensor, or None where it has none."""
    layered = _LAYERED.fullmatch(name)
    if layered is None:
        ours = _OURS.get(name)
        return ours if ours in _WHOLE else None
    prefix, index, rest = layered.groups()
    ours = _OURS.get(f"{prefix}.{rest}")
    return f"layer{index}.{ours}" if ours else None


def names_like(name: str) -> list[str]:
    """The names of a file's tensors that exist, nearest first: up to three, for the layer of `name`."""
    from difflib import get_close_matches

    number = re.search(r"\.([0-9]{1,4})\.", name)
    index = number[1] if number else "0"
    known = [re.sub(r"^(blk|model\.layers)\.", rf"\1.{index}.", pattern) for pattern in _OURS]
    return get_close_matches(name[:200], known, 3)

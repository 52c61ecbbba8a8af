"""What the tensors of other engines are called, and which events of ours they are. Knows no file.

A name is normalised once (words and numbers in lower case, separators gone: "model.layers.3.mlp.up_proj",
"model_layers_3_mlp_up_proj.npy" and "model/layers/3/mlp/up-proj" are one name) and looked up in one table,
where # stands for the number of the layer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache

from ..hooks.names import ALIASES
from .module_names import (
    ENTERS,
    ENTERS_LAYER,
    ENTRANCES,
    GPT2,
    GPT2_SECOND,
    HUGGING_FACE,
    HUGGING_FACE_SECOND,
)

_SUFFIXES = (".npy", ".bin")
_ALLOWED = re.compile(r"[A-Za-z0-9 ._/\\():-]+")
_WORDS = re.compile(r"[a-z]+|[0-9]+|#")
_MAX_DIGITS, _MAX_NUMBERS = 4, 8
_TOLD_BY_ITSELF = re.compile(r"h\.#\.(ln|attn|mlp).*|ln_f")  # wte is a microGPT's matrix, h0 any hidden state


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a name stands for.

    `events` are ours; of several the values lie side by side in the rows (fused products), in that
    order. Without events `reason` says why a name that is known cannot be compared. `adjacent` says that
    the rows may come in GGUF's order, pairs of RoPE next to each other. `layout` is one of Recorded's.
    `second` says that the name gives way where another tensor has the event's first name: the output
    of `mlp` is that of `mlp.down_proj`, and a dump of all modules holds both. Of several `candidates` the
    first that a model has is meant.
    """

    events: tuple[str, ...] = ()
    reason: str = ""
    adjacent: bool = False
    layout: str = ""
    second: bool = False
    candidates: tuple[str, ...] = ()


def meaning_of(name: str) -> Meaning | None:
    """The meaning of a name in a dump: ours, apr's stages with a layer ("layer-0/ffn_gate"), Hugging
    Face's module paths, llama.cpp's graph names, TransformerLens's hooks, our reference files' keys.
    None for a name that is none of these.

    Some names say less than they seem to. apr's `qkv_matmul` is taken before the biases: a model that has
    them must refuse it. The last of transformers' `hidden_states` is the final norm's output, which no name
    tells. TransformerLens's `blocks.0.hook_resid_pre`, `mlp.hook_pre` and `mlp.hook_post` and llama.cpp's
    `Qcur` and `Kcur` are other events where there are positions, no gate or no RoPE: they have candidates.
    llama.cpp's `ffn_gate` and `ffn_up` are taken before the biases.
    """
    name = without_suffix(name)
    if name.endswith((".weight", ".bias")):
        return Meaning(reason="a parameter, not an activation")
    if not _ALLOWED.fullmatch(name):
        return None
    words = _WORDS.findall(name.lower())
    if words[:1] in (["backward"], ["update"]):
        return Meaning(reason="gradients and updates are not compared")
    return _looked_up(words) or _looked_up(_without_wrapping(words))


def without_suffix(name: str) -> str:
    """A tensor's name without the suffix of its file."""
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def is_event(name: str) -> bool:
    """Whether a forward event of either family has exactly this name, in a model of enough layers."""
    if "#" in name:
        return False
    pattern = re.sub(r"^layer(0|[1-9][0-9]{0,3})\.", "layer#.", name)
    return re.sub(r"\.head[0-9]+$", ".head#", pattern) in _own_events()


def known_events() -> list[str]:
    """The names of all events, with # for the numbers of layers and heads."""
    return list(_own_events())


def _without_wrapping(words: list[str]) -> list[str]:
    """A module's path inside the model, without wrappers before it and "output" after it."""
    while words[:1] in (["base"], ["model"], ["module"]):
        words = words[1:]
    if words[-2:-1] in (["output"], ["out"]) and words[-1] == "0":  # the first of a module's outputs
        words = words[:-1]
    return ["model", *(words[:-1] if words[-1:] in (["output"], ["out"]) else words)]


def _looked_up(words: list[str]) -> Meaning | None:
    """The row of the table that these words have, its events with their numbers."""
    table = _table()
    if found := table.get(".".join(words)):
        return found
    numbers = [i for i, word in enumerate(words) if word.isdigit() and len(word) <= _MAX_DIGITS]
    if len(numbers) > _MAX_NUMBERS:
        return None
    for i in numbers:
        if found := table.get(".".join([*words[:i], "#", *words[i + 1 :]])):
            return _for_layer(found, int(words[i]))
    if len(numbers) == 2 and words[-2:-1] == ["head"] and numbers[-1] == len(words) - 1:
        found = table.get(".".join([*words[:1], "#", *words[2:-1], "#"]))
        return found and _for_layer(replace(found, events=(_head(found, int(words[-1])),)), int(words[1]))
    return None


def _head(found: Meaning, head: int) -> str:
    return found.events[0].removesuffix("#") + str(head)


def _for_layer(meaning: Meaning, layer: int) -> Meaning:
    candidates = tuple(numbered(event, layer) for event in meaning.candidates)
    if not layer and meaning.events == (ENTERS_LAYER,):
        candidates = ENTRANCES
    events = tuple(numbered(event, layer) for event in meaning.events)
    return replace(meaning, events=events, candidates=candidates)


def numbered(event: str, layer: int) -> str:
    """An event with the number of its layer: layer#.attn.q -> layer3.attn.q"""
    if event in ENTERS:
        return f"layer{layer - 1}.mlp.residual" if layer else ENTERS[event]
    return event.replace("#", str(layer), 1)


_NO_GAIN = "norm before its gain, which our events include"

_HIDDEN_STATES = "the last of transformers' hidden_states is the final norm's output and no name tells: --map"
_REFUSED = {
    "hidden_states": _HIDDEN_STATES,
    "hidden_states.#": _HIDDEN_STATES,
    "norm": f"Hugging Face's final norm, or llama.cpp's {_NO_GAIN}: --map says which",
    **dict.fromkeys(
        ("model.norm.input", "model.ln_f.input", "model.transformer.ln_f.input"),
        "the last layer's output, whose number no name tells: --map",
    ),
    # llama.cpp. graph_get_cb (src/llama-context.cpp) names a tensor "NAME-LAYER", or "NAME".
    "norm-#": f"a {_NO_GAIN}",  # build_norm (src/llama-graph.cpp)
    **dict.fromkeys(("norm_w", "norm_w-#"), "LayerNorm before its bias, which our events include"),
    "wqkv-#": "q, k and v before their biases, which our events include",  # build_qkv
    "kq-#": "q @ k.T before 1/sqrt(d), which our scores include",  # build_attn_mha: soft_max_ext scales
    # Until 2025 llm_build_kqv's caller gave that name to the product with wo; since src/llama-graph.cpp
    # is there, build_attn gives it to what enters that product. Both are [T, C].
    "kqv_out-#": "o_proj's output in llama.cpp before April 2025, its input since: --map says which",
    "ffn_down-#": "the MLP's output before the bias, which our events include",  # build_ffn
    # TransformerLens: components/rms_norm.py
    **{
        f"{norm}.hook_{hook}": reason
        for norm in ("ln_final", *(f"blocks.#.{n}" for n in ("ln1", "ln2", "attn.q_norm", "attn.k_norm")))
        for hook, reason in {"normalized": f"a {_NO_GAIN}", "scale": "the denominator of a norm"}.items()
    },
    "unembed.hook_in": f"a {_NO_GAIN}, where TransformerLens has folded it into the weights, as by default",
    "blocks.#.attn.hook_result": "every head's share in one array: --map with a slice for each head",
}

# build_qkv, build_ffn, build_attn_mha in src/llama-graph.cpp, and src/models/llama.cpp. Qcur and Kcur name
# the product, that with the bias, the same by heads and what RoPE makes of it: a dump that writes a
# file for each name keeps the last, after RoPE. The one that RoPE reads was called "Qcur-0 (reshaped)" until
# 2025 (ggml_reshape_3d). Vcur's last has the bias. In Llama files rows of q and k are in GGUF's order.
_LLAMA_CPP = {
    "embd": "embed.tok",  # build_inp_embd
    "pos_embd": "embed.pos",  # src/models/gpt2.cpp
    "inpL": "embed.sum",
    "attn_norm-#": "layer#.attn.norm",
    "Vcur-#": "layer#.attn.v",
    "Qcur_normed-#": "layer#.attn.q_norm",  # src/models/qwen3.cpp: with the gain
    "Kcur_normed-#": "layer#.attn.k_norm",
    "kq_soft_max-#": "layer#.attn.weights",
    "kqv_merged_cont-#": "layer#.attn.context",  # until 2025
    "attn_out-#": "layer#.attn.out",
    "ffn_inp-#": "layer#.attn.residual",
    "ffn_norm-#": "layer#.mlp.norm",
    "ffn_gate_b-#": "layer#.mlp.gate",
    "ffn_up_b-#": "layer#.mlp.up",
    "ffn_silu-#": "layer#.mlp.act",
    "ffn_gelu-#": "layer#.mlp.act",
    "ffn_swiglu-#": "layer#.mlp.hidden",
    "ffn_out-#": "layer#.mlp.down",
    "l_out-#": "layer#.mlp.residual",
    "result_norm": "final.norm",
    "result_output": "logits",
}
_LLAMA_CPP_ADJACENT = {
    "Qcur-#": "layer#.attn.q_rope | layer#.attn.q",
    "Kcur-#": "layer#.attn.k_rope | layer#.attn.k",
    "Qcur-# (reshaped)": "layer#.attn.q",
    "Kcur-# (reshaped)": "layer#.attn.k",
}
_LLAMA_CPP_SECOND = {
    "inp_embd": "embed.tok",  # now the input of batches that come as embeddings
    "wqkv_b-#": "layer#.attn.q layer#.attn.k layer#.attn.v",
    "bqkv-#": "layer#.attn.q layer#.attn.k layer#.attn.v",  # its older name
    "Vcur-# (reshaped)": "layer#.attn.v",
    "kq_soft_max_ext-#": "layer#.attn.weights",  # until 2025
    "ffn_gate-#": "layer#.mlp.gate",
    "ffn_up-#": "layer#.mlp.up",
    "ffn_gate_par-#": "layer#.mlp.hidden",  # where SiLU and the product are two steps
}

# transformer_lens/components/{transformer_block,abstract_attention,mlps/gated_mlp,unembed}.py. Scores are
# masked. Where weights were folded (fold_value_biases, the default) v is without its bias.
_TRANSFORMER_LENS = {
    "hook_embed": "embed.tok",
    "hook_pos_embed": "embed.pos",
    "blocks.#.attn.hook_q": "layer#.attn.q",
    "blocks.#.attn.hook_k": "layer#.attn.k",
    "blocks.#.attn.hook_v": "layer#.attn.v",
    "blocks.#.attn.hook_rot_q": "layer#.attn.q_rope",
    "blocks.#.attn.hook_rot_k": "layer#.attn.k_rope",
    "blocks.#.attn.hook_attn_scores": "layer#.attn.scores",
    "blocks.#.attn.hook_pattern": "layer#.attn.weights",
    "blocks.#.attn.hook_z": "layer#.attn.context",
    "blocks.#.hook_attn_out": "layer#.attn.out",
    "blocks.#.hook_resid_mid": "layer#.attn.residual",
    "blocks.#.mlp.hook_pre": "layer#.mlp.gate | layer#.mlp.up",
    "blocks.#.mlp.hook_pre_linear": "layer#.mlp.up",
    "blocks.#.mlp.hook_post": "layer#.mlp.hidden | layer#.mlp.act",
    "blocks.#.hook_mlp_out": "layer#.mlp.down",
    "blocks.#.hook_resid_post": "layer#.mlp.residual",
    "unembed.hook_out": "logits",
}

# What transformers' attention shows that is no module's output: what its function for RoPE gives of q and k,
# and what eager attention returns beside its output.
TURNED = ("layer#.attn.q_rope", "layer#.attn.k_rope")
RETURNED_SECOND = "layer#.attn.weights"

# The reference arrays of test models: transformers' values under short keys.
_REFERENCE = {
    "embed": "embed.tok",
    "L#__attn_norm": "layer#.attn.norm",
    "L#__q_proj": "layer#.attn.q",
    "L#__k_proj": "layer#.attn.k",
    "L#__v_proj": "layer#.attn.v",
    "L#__attn": "layer#.attn.context",
    "L#__o_proj": "layer#.attn.out",
    "L#__attn_residual": "layer#.attn.residual",
    "L#__ffn_norm": "layer#.mlp.norm",
    "L#__gate_proj": "layer#.mlp.gate",
    "L#__up_proj": "layer#.mlp.up",
    "L#__silu_mul": "layer#.mlp.hidden",
    "L#__ffn_down": "layer#.mlp.down",
    "L#__out": "layer#.mlp.residual",
}
_APR_SECOND = ("qkv_matmul", "layer_output")  # where there is qkv_bias, or post_ffn_residual


@cache
def _own_events() -> dict[str, None]:
    """The forward events of both families in order, with # for the numbers of layers and heads."""
    from ..architecture.plans.catalogue import examples

    names = [name for plan in examples() for name in plan]
    return dict.fromkeys(name.replace("layer0", "layer#").replace("head0", "head#") for name in names)


@cache
def _table() -> dict[str, Meaning]:
    """Every known name, normalised, and what it means."""
    rows = {_key(name): Meaning((name,)) for name in _own_events()}
    rows |= {_key(name): Meaning(reason=reason) for name, reason in _REFUSED.items()}
    rows |= _rows({f"model.{name}": events for name, events in HUGGING_FACE.items()})
    rows |= _rows({f"model.{name}": events for name, events in HUGGING_FACE_SECOND.items()}, second=True)
    rows |= _rows({"model.norm": "final.norm", "lm_head": "logits"})
    rows |= _rows(_gpt2(GPT2)) | _rows(_gpt2(GPT2_SECOND), second=True)
    rows |= _rows({"hidden_states.0": "embed.tok"}, second=True)
    rows |= _rows(_LLAMA_CPP) | _rows(_LLAMA_CPP_SECOND, second=True)
    rows |= _rows(_LLAMA_CPP_ADJACENT, adjacent=True)
    rows[_key("kqv-#")] = Meaning(("layer#.attn.context",), layout="HTD", second=True)  # build_attn_mha
    rows |= _rows(_TRANSFORMER_LENS) | _rows({"blocks.#.hook_resid_pre": ENTERS_LAYER}, second=True)
    rows |= _rows(_REFERENCE)
    for stage in ALIASES:
        rows |= _apr(stage)
    return rows


def _key(name: str) -> str:
    return ".".join(_WORDS.findall(name.lower()))


def _rows(names: dict[str, str], adjacent: bool = False, second: bool = False) -> dict[str, Meaning]:
    """Rows of the table; several events of one name stand with a space between them, candidates with a |."""
    rows = {}
    for name, said in names.items():
        first, *others = said.split(" | ")
        events = (first,) if first in ENTERS else tuple(first.split())
        candidates = (first, *others) if others else ()
        rows[_key(name)] = Meaning(events, adjacent=adjacent, second=second, candidates=candidates)
    return rows


def _gpt2(names: dict[str, str]) -> dict[str, str]:
    """Paths of a GPT-2 whole, and below its stack where nothing else is called so."""
    below = {name: events for name, events in names.items() if _TOLD_BY_ITSELF.fullmatch(name)}
    whole = {f"model.transformer.{name}": events for name, events in names.items()}
    return whole | {f"model.{name}": events for name, events in below.items()}


def _apr(stage: str) -> dict[str, Meaning]:
    """A stage of apr trace as its files are called: below a layer's folder, or for the whole model."""
    # The alias qkv_bias has no events, because it selects nothing that qkv_matmul does not.
    aliased = ALIASES["qkv_matmul" if stage == "qkv_bias" else stage]
    events = tuple(event.replace("*", "#") for event in aliased)
    if stage == "embedding":  # per layer for apr: the file lies in layer-0
        return dict.fromkeys((_key("embedding"), _key("layer-#/embedding")), Meaning(events[:1]))
    if not events:
        return dict.fromkeys((_key(stage), _key(f"layer-#/{stage}")), Meaning(reason=_NO_COUNTERPART))
    if "#" not in events[0]:
        return {_key(stage): Meaning(events)}
    whole = {_key(stage): Meaning(reason="a stage of apr trace without its layer: --map says which")}
    return whole | {_key(f"layer-#/{stage}"): Meaning(events, second=stage in _APR_SECOND)}


_NO_COUNTERPART = "a stage of apr trace that has no counterpart here"

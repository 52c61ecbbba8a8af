"""StableLM, Phi-1, Phi-2 and StarCoder 2: LayerNorm with a bias and RoPE, of a part of each head in all but
StarCoder 2.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial

from ...errors import InputError
from ...plans.blocks import Blocks
from ...plans.plan import Plan
from ...text.frozen import frozen
from ..architecture import QKV_BIASES, SIZES, Architecture, FileNames
from ..config import DecoderConfig
from ..layered_plan import LayeredConfig, Layout, Parallel, plan_of
from ..settings import COUNT, FLAG, Options, Settings, Sizes
from ..shared_options import gguf_rope, read_activation, read_rope, read_window, rotated_channels
from .llama import MODULES
from .llama import NAMES as LLAMA


@frozen(slots=False)
class StableLmConfig(DecoderConfig):
    """The config of a StableLM. In a parallel layer, attention and MLP read one norm."""

    parallel: bool = False

    @cached_property
    def plan(self) -> Plan:
        parallel: Parallel = "one norm" if self.parallel else ""
        return plan_of(self, Layout(centred=True, biased=True, parallel=parallel, qk_norm="each head"))


@frozen(slots=False)
class PhiConfig(LayeredConfig):
    """The config of a Phi-1 or Phi-2."""

    layout = Layout(
        centred=True, biased=True, parallel="one norm", mlp=Blocks.plain_mlp, head_biased=True
    )  # fmt: skip


@frozen(slots=False)
class Starcoder2Config(LayeredConfig):
    """The config of a StarCoder 2."""

    layout = Layout(centred=True, biased=True, mlp=Blocks.plain_mlp)


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the function of the MLP, whether the branches are parallel, and whether q and k are
    normalised."""
    return {
        **_partial_rope(settings, sizes, 0.25), "activation": read_activation(settings, "hidden_act", "silu"),
        "parallel": settings.get_or_default("use_parallel_residual", FLAG, False),
        "qk_norm": settings.get_or_default("qk_layernorm", FLAG, False),
    }  # fmt: skip


def options_of_phi(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE and the function of the MLP."""
    if settings.get("qk_layernorm", FLAG):
        raise InputError("qk_layernorm: norms of q and k with biases are not supported")
    activation = read_activation(settings, "hidden_act", "gelu_new")
    return {**_partial_rope(settings, sizes, 0.5), "activation": activation}


def options_of_starcoder2(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the function of the MLP, and the window of all layers."""
    windowed = tuple(range(sizes["n_layer"])) if settings.get("sliding_window", COUNT) else ()
    activation = read_activation(settings, "hidden_act", "gelu_pytorch_tanh")
    return {"rope": read_rope(settings), "activation": activation, **read_window(settings, windowed)}


def _partial_rope(settings: Settings, sizes: Sizes, share: float) -> Options:
    channels = rotated_channels(settings, sizes["head_dim"], share)
    return {"rope": read_rope(settings, partial=True), "rotary_dim": channels}


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE and the parallel branches. The tensors say whether q and k are normalised."""
    parallel = keys.get_or_default("use_parallel_residual", FLAG, True, "the default of llama.cpp")
    normed = "layer0.attn_q_norm" in keys.problems.tensors
    about = {"hidden_act": "silu", "use_parallel_residual": parallel, "qk_layernorm": normed}
    return {**about, **gguf_rope(keys, sizes["head_dim"], partial=True)}


def from_gguf_of_phi(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE."""
    return {"hidden_act": "gelu_new", **gguf_rope(keys, sizes["head_dim"], partial=True)}


def from_gguf_of_starcoder2(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE. Files do not store a window."""
    return {"hidden_act": "gelu_pytorch_tanh", **gguf_rope(keys, sizes["head_dim"])}


_QK = {f"attn_{n}_norm": (f"attn_{n}_norm", f"self_attn.{n}_layernorm.norms.#") for n in "qk"}
NAMES = replace(LLAMA, family="a StableLM", layer={**LLAMA.layer, **_QK}, vectors=True)
_SHARED = ("attn_norm", "attn_wq", "attn_wk", "attn_wv", "attn_wo", "mlp_norm")
STARCODER2 = FileNames(
    "a StarCoder 2",
    LLAMA.model,
    {own: LLAMA.layer[own] for own in _SHARED}
    | {"mlp_wup": ("ffn_up", "mlp.c_fc"), "mlp_wdown": ("ffn_down", "mlp.c_proj")},
    vectors=True,
)
PHI = FileNames(
    "a Phi-2",
    {**LLAMA.model, "final_norm": ("output_norm", "model.final_layernorm")},
    {own: LLAMA.layer[own] for own in _SHARED[:-2]}
    | {
        "attn_wo": ("attn_output", "self_attn.dense"),
        "mlp_wup": ("ffn_up", "mlp.fc1"),
        "mlp_wdown": ("ffn_down", "mlp.fc2"),
    },
    vectors=True,
)

_EPS = "attention.layer_norm_epsilon"
_SIZES = SIZES | {"norm_eps": "layer_norm_eps"}
_like_stablelm = partial(Architecture, defaults={"norm_eps": 1e-5}, gguf_eps=_EPS, sizes=_SIZES, tied=False)
_BIASES = (*QKV_BIASES, "attn_bo", "mlp_bup", "mlp_bdown")
ARCHITECTURES = {
    "stablelm": _like_stablelm(
        StableLmConfig, NAMES, options, from_gguf=from_gguf, flagged_biases={"use_qkv_bias": QKV_BIASES},
        sizes={own: key for own, key in _SIZES.items() if own != "head_dim"},
        modules={
            **MODULES, "dropout": "mlp.down", "self_attn.q_layernorm": "attn.q_norm",
            "self_attn.k_layernorm": "attn.k_norm",
        },
        heads_first=("self_attn.q_layernorm", "self_attn.k_layernorm"), example={"qk_norm": True},
        optional_modules=("post_attention_layernorm",), defaults={"norm_eps": 1e-5, "n_kv_head": 32},
    ),
    "phi": _like_stablelm(
        PhiConfig, PHI, options_of_phi, from_gguf=from_gguf_of_phi, biases=_BIASES,
        modules={
            "embed_dropout": "embed.tok", "self_attn": "attn.out", "mlp": "mlp.down",
            "mlp.activation_fn": "mlp.act",
        },
    ),
    "starcoder2": _like_stablelm(
        Starcoder2Config, STARCODER2, options_of_starcoder2, from_gguf=from_gguf_of_starcoder2,
        modules={"self_attn": "attn.out", "mlp": "mlp.down", "mlp.act": "mlp.act"},
        flagged_biases={"use_bias": _BIASES}, flags={"use_bias": True}, tied=True,
        sizes=SIZES | {"norm_eps": "norm_epsilon"}, defaults={"norm_eps": 1e-5, "n_kv_head": 2},
    ),
}  # fmt: skip

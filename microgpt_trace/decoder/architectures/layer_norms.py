"""Decoders with LayerNorm and RoPE: Command R (called cohere), StableLM, Phi-2 and StarCoder 2.

In all but StarCoder 2, the MLP may read the norm that attention reads. Command R has no biases of norms, and
multiplies the logits by a number.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from ...errors import InputError
from ...plans.blocks import Blocks
from ...text.frozen import frozen
from ..architecture import QKV_BIASES, SIZES, Architecture
from ..layered_plan import LayeredConfig, Layout
from ..settings import FLAG, POSITIVE, Options, Settings, Sizes
from ..shared_options import (
    LLAMA_CPP,
    gguf_windows,
    read_rope_in_windows,
    read_window,
    usual_from_gguf,
    usual_options,
)
from .llama import ATTENTION_BIASES, MODULES, QK_NORMS
from .llama import NAMES as LLAMA


@frozen(slots=False)
class CohereConfig(LayeredConfig):
    """The config of a Cohere."""

    logit_scale: float = 0.0625  # multiplies the logits

    @property
    def layout(self) -> Layout:
        return Layout(
            centred=True, parallel="one norm", qk_norm="each head", adjacent=True,
            logits_factor=self.logit_scale,
        )  # fmt: skip


@frozen(slots=False)
class StableLmConfig(LayeredConfig):
    """The config of a StableLM. In a parallel layer, attention and MLP read one norm."""

    parallel: bool = False

    @property
    def layout(self) -> Layout:
        layout = Layout(centred=True, biased=True, qk_norm="each head")
        return replace(layout, parallel="one norm") if self.parallel else layout


@frozen(slots=False)
class Starcoder2Config(LayeredConfig):
    """The config of a StarCoder 2."""

    layout = Layout(centred=True, biased=True, mlp=Blocks.plain_mlp)


@frozen(slots=False)
class PhiConfig(LayeredConfig):
    """The config of a Phi-1 or Phi-2. The output matrix has a bias."""

    layout = replace(Starcoder2Config.layout, parallel="one norm", head_biased=True)


def options_of_cohere(settings: Settings, sizes: Sizes, theta: float = 5e5) -> Options:
    """Read RoPE, the function of the MLP, the factor of the logits, and whether q and k are normalised."""
    scale = float(settings.get_or_default("logit_scale", POSITIVE, 0.0625))
    normed = settings.get("use_qk_norm", FLAG) or False
    return {**usual_options(settings, sizes, theta), "logit_scale": scale, "qk_norm": normed}


def options_of_cohere2(settings: Settings, sizes: Sizes) -> Options:
    """Read as for a Cohere, and the window. Layers without a window have no RoPE."""
    windows = read_rope_in_windows(settings, sizes["n_layer"])
    return options_of_cohere(settings, sizes, 1e4) | windows


def options_of_stablelm(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the function of the MLP, and whether branches are parallel and q and k are normalised."""
    keys = {"parallel": "use_parallel_residual", "qk_norm": "qk_layernorm"}
    flags = {own: settings.get_or_default(key, FLAG, False) for own, key in keys.items()}
    return usual_options(settings, sizes, share=0.25) | flags


def options_of_phi(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE and the function of the MLP."""
    if settings.get("qk_layernorm", FLAG):
        raise InputError("qk_layernorm: norms of q and k with biases are not supported")
    return usual_options(settings, sizes, activation="gelu_new", share=0.5)


def options_of_starcoder2(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the function of the MLP, and the window of all layers."""
    windows = read_window(settings, range(sizes["n_layer"]), None)
    return usual_options(settings, sizes, activation="gelu_pytorch_tanh") | windows


def gguf_of_cohere(keys: Settings, sizes: Sizes, windows: bool = False) -> Options:
    """Translate RoPE, the factor of the logits, and the window. Tensors show whether q and k have norms."""
    scale, normed = keys.require("logit_scale", POSITIVE), "layer0.attn_q_norm" in keys.problems.tensors
    layers = gguf_windows(keys, sizes["n_layer"]) if windows else {}
    return {**usual_from_gguf(keys, sizes), "logit_scale": scale, "use_qk_norm": normed, **layers}


def gguf_of_stablelm(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE and the parallel branches. Tensors say whether q and k are normalised."""
    parallel = keys.get_or_default("use_parallel_residual", FLAG, True, LLAMA_CPP)
    flags = {"use_parallel_residual": parallel, "qk_layernorm": "layer0.attn_q_norm" in keys.problems.tensors}
    return usual_from_gguf(keys, sizes, partial=True) | flags


COHERE = LLAMA.changed("a Cohere")
_QK = {f"attn_{n}_norm": (f"attn_{n}_norm", f"self_attn.{n}_layernorm.norms.#") for n in "qk"}
STABLELM = LLAMA.changed("a StableLM", layer=_QK, vectors=True)
STARCODER2 = LLAMA.changed(
    "a StarCoder 2",
    layer={"mlp_wup": ("ffn_up", "mlp.c_fc"), "mlp_wdown": ("ffn_down", "mlp.c_proj")},
    vectors=True,
)
PHI = LLAMA.changed(
    "a Phi-2",
    model={"final_norm": ("output_norm", "model.final_layernorm")},
    layer={
        "attn_wo": ("attn_output", "self_attn.dense"),
        "mlp_wup": ("ffn_up", "mlp.fc1"),
        "mlp_wdown": ("ffn_down", "mlp.fc2"),
    },
    vectors=True,
)

_SIZES = SIZES | {"norm_eps": "layer_norm_eps"}
_WITHOUT_HEAD_DIM = {own: key for own, key in _SIZES.items() if own != "head_dim"}
_BIASES = (*QKV_BIASES, "attn_bo", "mlp_bup", "mlp_bdown")
_with_layer_norm = partial(
    Architecture, defaults={"norm_eps": 1e-5}, gguf_eps="attention.layer_norm_epsilon", sizes=_SIZES
)
_like_cohere = partial(
    _with_layer_norm, CohereConfig, COHERE, modules=MODULES, optional_modules=QK_NORMS, tied=True,
    flagged_biases=ATTENTION_BIASES, example={"qk_norm": True},
)  # fmt: skip
ARCHITECTURES = {
    "cohere": _like_cohere(options_of_cohere, from_gguf=gguf_of_cohere),
    "cohere2": _like_cohere(
        options_of_cohere2, from_gguf=partial(gguf_of_cohere, windows=True), sizes=_WITHOUT_HEAD_DIM
    ),
    "stablelm": _with_layer_norm(
        StableLmConfig, STABLELM, options_of_stablelm, from_gguf=gguf_of_stablelm, tied=False,
        sizes=_WITHOUT_HEAD_DIM, defaults={"norm_eps": 1e-5, "n_kv_head": 32},
        modules={
            **MODULES, "dropout": "mlp.down", "self_attn.q_layernorm": "attn.q_norm",
            "self_attn.k_layernorm": "attn.k_norm",
        },
        heads_first=("self_attn.q_layernorm", "self_attn.k_layernorm"), example={"qk_norm": True},
        optional_modules=("post_attention_layernorm",), flagged_biases={"use_qkv_bias": QKV_BIASES},
    ),
    "phi": _with_layer_norm(
        PhiConfig, PHI, options_of_phi, tied=False, biases=_BIASES,
        from_gguf=partial(usual_from_gguf, activation="gelu_new", partial=True),
        modules={
            "embed_dropout": "embed.tok", "self_attn": "attn.out", "mlp": "mlp.down",
            "mlp.activation_fn": "mlp.act",
        },
    ),
    "starcoder2": _with_layer_norm(
        Starcoder2Config, STARCODER2, options_of_starcoder2, tied=True,
        from_gguf=partial(usual_from_gguf, activation="gelu_pytorch_tanh"),
        modules={"self_attn": "attn.out", "mlp": "mlp.down", "mlp.act": "mlp.act"},
        flagged_biases={"use_bias": _BIASES}, flags={"use_bias": True},
        sizes=SIZES | {"norm_eps": "norm_epsilon"}, defaults={"norm_eps": 1e-5, "n_kv_head": 2},
    ),
}  # fmt: skip

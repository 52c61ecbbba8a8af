"""Qwen3-MoE: a Qwen3 with mixtures of experts in all layers or in some layers."""

from __future__ import annotations

from ...errors import InputError
from ...plans.blocks import Blocks
from ...plans.rope import Rope
from ...text.brief import brief
from ...text.frozen import frozen
from ...untrusted_files import is_count
from ..architecture import Architecture
from ..settings import FLAG, WHOLE, Options, Settings, Sizes
from ..shared_options import read_experts, read_window, usual_from_gguf, usual_options
from .llama import ATTENTION_BIASES
from .llama import NAMES as LLAMA
from .mixtral import EXPERTS, MORE_EXPERTS, MixtralConfig, gguf_experts


@frozen(slots=False)
class Qwen3MoeConfig(MixtralConfig):
    """The config of a Qwen with mixtures of experts."""

    expert_inner: int = 1  # the inner width of an expert
    dense_layers: tuple[int, ...] = ()  # the layers without experts
    normalised: bool = False  # True if the shares of the chosen experts add up to 1

    def mlp(self, rows: Blocks, source: str) -> str:
        """Add the rows of an MLP with or without experts."""
        if rows.layer in self.dense_layers:
            return rows.gated_mlp(source)
        return rows.mixture(source, self.expert_inner, self.normalised)


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read the options of all Qwens with experts, the norms of q and k, and the window of all layers."""
    used = settings.get_or_default("use_sliding_window", FLAG, False)
    windowed = tuple(range(sizes["n_layer"])) if used else ()
    experts = read_mixture(settings, sizes, 128, 8, 768)
    return {"qk_norm": True, **experts, **read_window(settings, windowed)}


def read_mixture(settings: Settings, sizes: Sizes, experts: int, used: int, inner: int) -> Options:
    """Read RoPE, the function of the MLPs, and the experts. `experts`, `used` and `inner` are the defaults of
    transformers."""
    return {
        **usual_options(settings, sizes), **read_experts(settings, experts, used),
        "expert_inner": settings.get_or_default("moe_intermediate_size", WHOLE, inner),
        "dense_layers": _dense_layers(settings, sizes["n_layer"]),
        "normalised": settings.get_or_default("norm_topk_prob", FLAG, False),
    }  # fmt: skip


def _dense_layers(settings: Settings, n_layer: int) -> tuple[int, ...]:
    listed, step = settings.raw("mlp_only_layers"), settings.get("decoder_sparse_step", WHOLE) or 1
    listed = [] if listed is None else listed
    if not isinstance(listed, list) or not all(map(is_count, listed)):
        raise InputError(f"mlp_only_layers: expected numbers of layers, found {brief(listed)}")
    return tuple(i for i in range(n_layer) if i in listed or (i + 1) % step)


def from_gguf(keys: Settings, sizes: Sizes, normalised: bool = True) -> Options:
    """Translate RoPE and the experts. Files do not store whether the shares are normalised. As in llama.cpp,
    those of a qwen3_moe are."""
    keys.notes.append(f"norm_topk_prob = {str(normalised).lower()} (as in llama.cpp; files do not store it)")
    experts, inner = gguf_experts(keys), keys.get("expert_feed_forward_length", WHOLE)
    return {
        "norm_topk_prob": normalised, "use_sliding_window": False,
        "moe_intermediate_size": inner or sizes["n_inner"] // experts["num_experts_per_tok"],
        **experts, **usual_from_gguf(keys, sizes),
    }  # fmt: skip


NAMES = LLAMA.changed("a Qwen3-MoE", layer=EXPERTS, more=MORE_EXPERTS)
OF_SOME_LAYERS = ("mlp.gate", "mlp.experts", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
EXAMPLE = {"rope": Rope(1e4), "experts": 2, "n_layer": 2, "dense_layers": (1,)}
ARCHITECTURES = {
    "qwen3_moe": Architecture(
        Qwen3MoeConfig, NAMES, options, {"self_attn": "attn.out", "mlp.experts": "mlp.mixture"},
        from_gguf=from_gguf, tied=False, flagged_biases=ATTENTION_BIASES, optional_modules=OF_SOME_LAYERS,
        example={**EXAMPLE, "qk_norm": True}, defaults={"norm_eps": 1e-6, "n_kv_head": 4},
    ),
}  # fmt: skip

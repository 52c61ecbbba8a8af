"""The text part of Llama 4: layers whose mask divides the text into chunks, layers without RoPE whose queries
grow with the position, and mixtures of experts whose share multiplies the input of the chosen expert.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

from ...errors import InputError
from ...plans.blocks import Blocks
from ...plans.kinds import Activation, Add, Choice, Mixture, Norm, Routing
from ...plans.rope import Rope
from ...text.brief import brief
from ...text.frozen import frozen
from ...untrusted_files import is_count
from ..architecture import SIZES, Architecture
from ..layered_plan import LayeredConfig, Layout
from ..settings import COUNT, FLAG, POSITIVE, WHOLE, Options, Settings, Sizes
from ..shared_options import read_experts, typed_layers, usual_from_gguf, usual_options
from .glm4_moe import SHARED_EXPERTS
from .llama import ATTENTION_BIASES, layers_without_rope
from .llama import NAMES as LLAMA
from .mixtral import EXPERTS, MORE_EXPERTS, gguf_experts


@frozen(slots=False)
class Llama4Config(LayeredConfig):
    """The config of a Llama 4. The layers in `windowed_layers` have chunks of `window` positions."""

    experts: int = 1
    experts_used: int = 1
    expert_inner: int = 1  # the inner width of an expert, and of the shared expert
    dense_layers: tuple[int, ...] = ()
    query_growth: float | None = None  # the growth of queries in layers without RoPE
    query_period: int = 1

    @property
    def layout(self) -> Layout:
        return Layout(qk_norm="", adjacent=True, turned=self.turned, mlp=self.mlp)

    @cached_property
    def windows(self) -> tuple[int | None, ...]:
        """The windows of the layers, which are negative for chunks."""
        return tuple(size and -size for size in super().windows)

    def turned(self, rows: Blocks, layer: int, q: str, k: str) -> tuple[str, str]:
        """Add norms of the heads of q and k without gain after RoPE, or the growth of q without RoPE."""
        if self.ropes[layer] is None:
            if self.query_growth is not None:
                q = rows.scaled_by_position(q, self.query_growth, self.query_period, 1)
            return q, k
        if self.qk_norm:
            kind, expr = Norm(self.norm_eps, None, self.head_dim), "{0} = RMSNorm({0}) per head"
            q = rows.add("attn.q_rope_norm", kind, q, expr=expr.format("q"))
            k = rows.add("attn.k_rope_norm", kind, k, expr=expr.format("k"))
        return q, k

    def mlp(self, rows: Blocks, source: str) -> str:
        """Add the rows of an MLP, or of a mixture: an expert that reads its share times the input, and the
        shared expert, a gated MLP."""
        if rows.layer in self.dense_layers:
            return rows.gated_mlp(source)
        router = rows.product("mlp.router", "wrouter", source, self.experts, "router = x_n")
        scores = rows.add("mlp.scores", Activation("sigmoid"), router, expr="scores = sigmoid(router)")
        chosen = rows.add("mlp.chosen", Choice(1), router, expr="chosen = the largest of router")
        kind, expr = Routing(False, of_scores=True), "routing = scores[chosen]"
        routing = rows.add("mlp.routing", kind, scores, chosen, expr=expr)
        routed = rows.add("mlp.routed", Mixture(), source, routing, expr="x_n = routing * x_n")
        down = rows.experts(routed, self.expert_inner, chosen)
        shared = rows.shared_mlp(source, self.expert_inner)
        return rows.add("mlp.both", Add(), down, shared, expr="mlp_out = down + shared")


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read RoPE, the chunks, the growth of queries, and the experts. Raises InputError if a position uses
    several experts, because each expert would read another input."""
    n_layer, experts = sizes["n_layer"], read_experts(settings, 16, 1)
    if experts["experts_used"] > 1:
        found = experts["experts_used"]
        raise InputError(f"num_experts_per_tok: expected 1, as in all models, found {found}")
    tuned = settings.get_or_default("attn_temperature_tuning", FLAG, True)
    without = layers_without_rope(settings, n_layer)
    return {
        **usual_options(settings, sizes, 5e5), **experts, "layers_without_rope": without,
        "qk_norm": settings.get_or_default("use_qk_norm", FLAG, True),
        "expert_inner": settings.get_or_default("intermediate_size", WHOLE, 8192),
        "dense_layers": _dense_layers(settings, n_layer), **_chunks(settings, n_layer, without),
        "query_growth": settings.get_or_default("attn_scale", POSITIVE, 0.1) if tuned else None,
        "query_period": settings.get_or_default("floor_scale", WHOLE, 8192),
    }  # fmt: skip


def _chunks(settings: Settings, n_layer: int, without_rope: tuple[int, ...]) -> Options:
    """Read the size of the chunks, and the layers with chunks: by default, the layers with RoPE."""
    size, typed = settings.get(CHUNK, WHOLE), _typed_layers(settings, n_layer)
    if not settings.has(CHUNK):
        size = settings.get_or_default(CHUNK, WHOLE, 8192)
    if typed and size is None:
        raise InputError(f"{CHUNK}: expected a number, because layer_types lists layers with chunks")
    layers = tuple(i for i in range(n_layer) if i not in without_rope) if typed is None else typed
    return {"window": size, "windowed_layers": layers} if size and layers else {}


def _typed_layers(settings: Settings, n_layer: int) -> tuple[int, ...] | None:
    chunked = "chunked_attention"
    return typed_layers(settings, n_layer, known=("full_attention", chunked), which=chunked)


def _dense_layers(settings: Settings, n_layer: int) -> tuple[int, ...]:
    listed, step = settings.raw("moe_layers"), settings.get(STEP, WHOLE) or 1
    if listed is not None and not (isinstance(listed, list) and all(map(is_count, listed))):
        raise InputError(f"moe_layers: expected numbers of layers, found {brief(listed)}")
    mixed = range(step - 1, n_layer, step) if listed is None else listed
    return tuple(i for i in range(n_layer) if i not in mixed)


CHUNK, STEP = "attention_chunk_size", "interleave_moe_layer_step"


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate RoPE and the experts. As in llama.cpp, every fourth layer has no RoPE and no chunks, and a
    model with 128 experts has no norms of q and k."""
    if keys.get("attention.sliding_window", COUNT) == 0:
        raise InputError("attention.sliding_window 0 is not supported: expected chunks")
    experts = gguf_experts(keys)
    normed = experts["num_local_experts"] != 128
    said = f"use_qk_norm = {str(normed).lower()}", f"{CHUNK} = 8192", "floor_scale = 8192"
    keys.notes.extend(f"{note} (as in llama.cpp; files do not store it)" for note in said)
    return {
        **usual_from_gguf(keys, sizes), **experts, "use_qk_norm": normed, CHUNK: 8192, "floor_scale": 8192,
        "attn_temperature_tuning": True, "attn_scale": 0.1, "no_rope_layer_interval": 4,
        "intermediate_size": keys.require("expert_feed_forward_length", WHOLE),
        STEP: keys.require(STEP, WHOLE),
    }  # fmt: skip


def _in_folder(name: str) -> str:
    return name.replace("mlp.", "feed_forward.").replace("shared_experts", "shared_expert")


_LAYER = {**LLAMA.layer, **EXPERTS, **SHARED_EXPERTS, "mlp_wrouter": ("ffn_gate_inp", "mlp.router")}
NAMES = replace(
    LLAMA, family="a Llama 4", layer={own: (gguf, _in_folder(hf)) for own, (gguf, hf) in _LAYER.items()},
    more={_in_folder(name): own for name, own in MORE_EXPERTS.items()}, experts_in_out=True,
)  # fmt: skip
IN_MLP = {
    "feed_forward.activation_fn": "mlp.act", "feed_forward.shared_expert": "mlp.shared_down",
    "feed_forward.shared_expert.activation_fn": "mlp.shared_act",
}  # fmt: skip
OF_SOME_LAYERS = (  # of layers with experts or of other layers
    *IN_MLP, "feed_forward.experts", *(hf for _, hf in NAMES.layer.values() if hf.startswith("feed_forward")),
)  # fmt: skip
ENGINE_NAMES = {  # llama.cpp's
    f"{name}-#": " | ".join(f"layer#.{event}" for event in events.split())
    for name, events in (
        ("Qcur", "attn.q_rope attn.q_scaled attn.q"), ("Qcur_normed", "attn.q_rope_norm"),
        ("Kcur_normed", "attn.k_rope_norm"), ("ffn_moe_probs", "mlp.scores"),
        ("ffn_moe_weighted", "mlp.routed"), ("ffn_moe_out", "mlp.down"), ("ffn_moe_out_merged", "mlp.both"),
        ("ffn_moe_shexp", "mlp.shared_down"), ("ffn_gate", "mlp.shared_gate mlp.gate"),
        ("ffn_up", "mlp.shared_up mlp.up"), ("ffn_swiglu", "mlp.shared_hidden mlp.hidden"),
    )
}  # fmt: skip
ARCHITECTURES = {
    "llama4_text": Architecture(
        Llama4Config, NAMES, options, {"self_attn": "attn.out", "feed_forward": "mlp.both", **IN_MLP},
        from_gguf=from_gguf, tied=False,
        sizes=SIZES | {"n_inner": "intermediate_size_mlp"}, flagged_biases=ATTENTION_BIASES,
        defaults={"norm_eps": 1e-5, "n_kv_head": 8, "head_dim": 128},
        optional_modules=OF_SOME_LAYERS, engine_names=ENGINE_NAMES,
        refused_names={
            "ffn_norm-#": "the output of attention, in layers with experts",
            "model.layers.#.feed_forward.router": "the scores of the chosen experts, and 0 for other experts",
        },
        example={
            "experts": 2, "n_layer": 2, "dense_layers": (1,), "layers_without_rope": (1,), "qk_norm": True,
            "query_growth": 0.1, "rope": Rope(1e4),
        },
    ),
}  # fmt: skip

"""The text part of Gemma 4: heads of two widths, keys and values of earlier layers, an input for each layer,
experts beside the MLP, and a number that multiplies the residual stream after each layer.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import numpy as np

from ...errors import InputError
from ...plans import kinds
from ...plans.blocks import Blocks
from ...plans.plan import Plan
from ...plans.rope import STILL, Rope
from ...text.brief import brief
from ...text.frozen import frozen
from ..architecture import Architecture
from ..config import DecoderConfig
from ..settings import COUNT, FLAG, POSITIVE, WHOLE, Options, Settings, Sizes
from ..shared_options import LLAMA_CPP, ROPE_FACTORS, read_activation, read_rope, read_window, typed_layers
from .gemma import NAMES as GEMMA
from .llama import ATTENTION_BIASES, MODULES


@frozen(slots=False)
class Gemma4Config(DecoderConfig):
    """The config of a Gemma 4. The tuples have a number for each layer. The last `shared_layers` read the
    keys and values of the last earlier layer with the same kind of attention."""

    head_dims: tuple[int, ...] = ()
    kv_heads: tuple[int, ...] = ()
    layer_scales: tuple[float, ...] = ()
    shared_layers: int = 0
    wide_shared_layers: bool = False  # True if the MLPs of these layers are twice as wide
    keys_as_values: bool = False  # True if layers without a window have no matrix of v
    layer_input: int = 0  # the width of the input of each layer, or 0
    layer_input_rows: int = 0  # the rows of its table
    experts: int = 0
    experts_used: int = 0
    expert_inner: int = 0
    dense_beside: bool = True  # a layer has a dense MLP beside its experts
    final_logit_softcapping: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        full = {dim for i, dim in enumerate(self.head_dims) if i not in self.windowed_layers}
        if len(full) > 1 or any(self.n_head % heads for heads in self.kv_heads):
            found = f"widths {brief(self.head_dims)} and key-value heads {brief(self.kv_heads)}"
            raise InputError(f"expected heads of one width in full layers, in equal groups, found {found}")
        if self.experts_used > self.experts:
            raise InputError(f"top_k_experts: expected at most {self.experts}, found {self.experts_used}")
        if None in self.sources:
            raise InputError("num_kv_shared_layers: expected an earlier layer of each kind, found none")

    @property
    def full_head_dim(self) -> int:
        return self.head_dims[-1] if self.head_dims else self.head_dim

    @cached_property
    def sources(self) -> tuple[int | None, ...]:
        """The layer that computes the keys and values of each layer."""
        windowed = [i in self.windowed_layers for i in range(self.n_layer)]
        own = range(self.n_layer - self.shared_layers)
        last = {windowed[i]: i for i in own}
        return (*own, *map(last.get, windowed[len(own) :]))

    @property
    def unused(self) -> tuple[str, ...]:
        shared = range(self.n_layer - self.shared_layers, self.n_layer)
        return tuple(f"layer{i}.{own}" for i in shared for own in ("attn_wk", "attn_wv", "attn_k_norm"))

    def of_layer(self, layer: int) -> Gemma4Config:
        """Return the config with the sizes of a layer."""
        wide = self.wide_shared_layers and self.sources[layer] != layer
        sizes = {"head_dim": self.head_dims, "n_kv_head": self.kv_heads}
        own: dict[str, Any] = {name: numbers[layer] for name, numbers in sizes.items() if numbers}
        return replace(self, **own, n_inner=self.n_inner * (1 + wide))

    @cached_property
    def plan(self) -> Plan:
        rows, scales = Blocks(self), self.layer_scales or (1.0,) * self.n_layer
        stream = rows.embedding(self.n_embd**0.5)
        inputs = _layer_inputs(rows, self, stream) if self.layer_input else ""
        for i in rows.layers():
            rows.config = self.of_layer(i)
            out = _attention(rows, self, i, rows.norm("attn.norm", stream, "pre-attn"))
            stream = rows.add_branch("attn", stream, rows.norm("attn.post_norm", out, of="attn_out"))
            normed = rows.norm("mlp.norm", stream, "pre-FFN")
            routed = _routing(rows, self, stream) if self.experts else None
            out = rows.gated_mlp(normed)
            out = _beside_experts(rows, self, stream, out, *routed) if routed else out
            stream = rows.add_branch("mlp", stream, rows.norm("mlp.post_norm", out, of="mlp_out"))
            stream = _add_layer_input(rows, self, stream, inputs, i) if inputs else stream
            stream = rows.scaled("mlp.layer_scaled", stream, scales[i])
        rows.config = self
        return rows.predictions(rows.norm("final.norm", stream, "final"), cap=self.final_logit_softcapping)


def _attention(rows: Blocks, config: Gemma4Config, layer: int, source: str) -> str:
    """Add the rows of attention that reads a row. The scores have the scale 1."""
    own, earlier, words = rows.config, config.sources[layer], ""
    dim, names = own.head_dim, ["q", "k", "v"] if earlier == layer else ["q"]
    if config.keys_as_values and layer not in config.windowed_layers:
        names = names[:2]
    raw, x = dict[str, str](), dict[str, str]()
    for n in names:
        width = dim * (own.n_head if n == "q" else own.n_kv_head)
        raw[n] = rows.product(f"attn.{n}", f"w{n}", source, width, f"{n} = x_n", f"{n}_proj")
    for n in names[:2]:
        x[n] = rows.norm(f"attn.{n}_norm", raw[n], head_dim=dim, of=n)
    for n in names[:2]:
        kind = kinds.Rotation(config.ropes[layer] or Rope(1.0), dim, dim)
        x[n] = rows.add(f"attn.{n}_rope", kind, x[n], expr=f"{n} = RoPE({n}, position)")
    if earlier == layer:
        of = names[-1]
        expr = f"v = RMSNorm({of}) per head" + " [k before its norm]" * (of == "k")
        k, v = x["k"], rows.add("attn.v_norm", kinds.Norm(own.norm_eps, None, dim), raw[of], expr=expr)
    else:
        k, v = (f"layer{earlier}.attn.{n}" for n in ("k_rope", "v_norm"))
        words = f" [k and v of layer {earlier}]"
    return rows.attention(x["q"], k, v, 1.0, config.windows[layer], of_keys=words)


def _routing(rows: Blocks, config: Gemma4Config, stream: str) -> tuple[str, str]:
    """Add the rows of the router, which reads the residual stream. Return the chosen experts and shares."""
    count, name = config.experts_used, rows.name("mlp_expert_scale")
    source = rows.norm("mlp.router_norm", stream, "router")
    source = rows.scaled("mlp.router_scaled", source, config.n_embd**-0.5, "x_n")
    router = rows.product("mlp.router", "wrouter", source, config.experts, "router = x_n")
    expr = f"chosen = the {count} largest of router"
    chosen = rows.add("mlp.chosen", kinds.Choice(count), router, expr=expr)
    expr = "shares = softmax(router[chosen])"
    shares = rows.add("mlp.shares", kinds.Routing(True), router, chosen, expr=expr)
    kind, expr = kinds.Experts(name, config.experts, 1, beside=True), "routing = shares * s[chosen]"
    return chosen, rows.add("mlp.routing", kind, shares, chosen, expr=expr, parameter=f"s = {name}")


def _beside_experts(
    rows: Blocks, config: Gemma4Config, stream: str, dense: str, chosen: str, routing: str
) -> str:
    """Add the rows of the experts, which read the residual stream, and their sum with the dense MLP."""
    dense = rows.norm("mlp.dense_norm", dense, of="mlp_out")
    source = rows.norm("mlp.experts_norm", stream, "pre-experts")
    out = rows.experts(source, config.expert_inner, chosen, routing, prefix="mlp.expert_", of="experts_out")
    out = rows.norm("mlp.experts_post_norm", out, of="experts_out")
    return rows.add("mlp.both", kinds.Add(), dense, out, expr="mlp_out = mlp_out + experts_out")


def _layer_inputs(rows: Blocks, config: Gemma4Config, stream: str) -> str:
    """Add the inputs of all layers side by side: from a table, and from the embedding."""
    dim, width = config.layer_input, config.layer_input * config.n_layer
    table = kinds.Lookup("embed_ple", "tokens", config.layer_input_rows, width)
    found = rows.add("embed.ple_tok", table, expr="ple = embed_ple[tokens]", parameter="embed_ple")
    found = rows.scaled("embed.ple_scaled", found, dim**0.5, "ple")
    made = rows.product("embed.ple_proj", "wple_proj", stream, width, "proj = x")
    made = rows.scaled("embed.ple_proj_scaled", made, config.n_embd**-0.5, "proj")
    made = rows.norm("embed.ple_norm", made, head_dim=dim, of="proj")
    both = rows.add("embed.ple_sum", kinds.Add(), made, found, expr="ple = proj + ple")
    return rows.scaled("embed.ple", both, 2**-0.5, "ple")


def _add_layer_input(rows: Blocks, config: Gemma4Config, stream: str, inputs: str, layer: int) -> str:
    """Add the rows that add a layer's own input, times a gate, to the residual stream."""
    dim, function, first = config.layer_input, config.activation, layer * config.layer_input
    gate = rows.product("mlp.ple_gate", "wple_gate", stream, dim, "gate = x")
    act = rows.add("mlp.ple_act", kinds.Activation(function), gate, expr=f"act = {function}(gate)")
    expr = f"ple_l = ple[:, {first}:{first + dim}]"
    own = rows.add("mlp.ple_input", kinds.Channels(first, dim), inputs, expr=expr)
    out = rows.add("mlp.ple_hidden", kinds.Multiply(), act, own, expr="hidden = act * ple_l")
    out = rows.product("mlp.ple_out", "wple_out", out, config.n_embd, "ple_out = hidden")
    out = rows.norm("mlp.ple_norm", out, of="ple_out")
    return rows.add("mlp.ple_residual", kinds.Add(), stream, out, expr="x = x_res + ple_out [residual]")


def options(settings: Settings, sizes: Sizes) -> Options:
    """Read the options. By default, every sixth layer has no window, and the last layer never has one."""
    n, width = sizes["n_layer"], "hidden_size_per_layer_input"
    typed, all_layers = typed_layers(settings, n), range(n)
    layers = [i for i in all_layers if (i + 1) % 6] if typed is None else typed
    windowed = tuple(i for i in layers if i < n - 1)
    if (both := settings.raw("use_bidirectional_attention")) not in (None, "vision"):
        raise InputError(f"use_bidirectional_attention {brief(both)} is not supported")
    flags = {own: settings.get_or_default(key, FLAG, False) for own, key in FLAGS.items()}
    heads = _heads(settings, sizes, windowed, flags["keys_as_values"])
    read = settings.get if settings.has(width) else partial(settings.get_or_default, default=256)
    experts = settings.get_or_default("enable_moe_block", FLAG, False)
    result: Options = {
        "activation": read_activation(settings, "hidden_activation", "gelu_pytorch_tanh"), **heads, **flags,
        "shared_layers": settings.get_or_default("num_kv_shared_layers", COUNT, 0),
        "layer_input": read(width, COUNT) or 0,
        "final_logit_softcapping": settings.get("final_logit_softcapping", POSITIVE),
        **read_window(settings, windowed, 512), **_ropes(settings, heads["head_dims"][-1]),
        **{own: settings.require(key, WHOLE) for own, key in EXPERTS.items() if experts},
    }  # fmt: skip
    if result["layer_input"]:
        key = "vocab_size_per_layer_input"
        result["layer_input_rows"] = settings.get_or_default(key, WHOLE, 262144)
    return result | {"layer_scales": tuple(_layer_scale(settings, i) for i in all_layers)}


def _layer_scale(settings: Settings, layer: int) -> float:
    """Take the scale of a layer, which transformers does not train, from the tensors."""
    tensor = settings.problems.tensors.pop(f"layer{layer}.mlp_layer_scale", None)
    if tensor is None or tensor.shape != (1,):
        found = "none" if tensor is None else f"shape {list(tensor.shape)}"
        text = f"layer_scalar of layer {layer}: expected a tensor of shape [1], found {found}"
        settings.problems.note("missing", InputError(text))
        return 1.0
    return float(tensor.read()[0])


FLAGS = {"wide_shared_layers": "use_double_wide_mlp", "keys_as_values": "attention_k_eq_v"}
EXPERTS = {"experts": "num_experts", "experts_used": "top_k_experts", "expert_inner": "moe_intermediate_size"}
KINDS = ("sliding_attention", "full_attention")


def _heads(settings: Settings, sizes: Sizes, windowed: tuple[int, ...], keys_as_values: bool) -> Options:
    """Return the width of a head and the number of key-value heads of each layer."""
    each, keys = settings.raw("per_layer_config"), ("head_dim", "num_key_value_heads")
    if each is None:
        full = {"head_dim": settings.get_or_default("global_head_dim", WHOLE, 512)}
        heads = settings.get("num_global_key_value_heads", WHOLE)
        full |= {"num_key_value_heads": heads} if heads and keys_as_values else {}
        each = {str(i): full for i in range(sizes["n_layer"]) if i not in windowed}
    fits = isinstance(each, dict) and all(
        isinstance(own, dict) and {*own} <= {*keys} for own in each.values()
    )
    if not fits:
        raise InputError(f"per_layer_config: expected {' or '.join(keys)} by layer, found {brief(each)}")
    own = [Settings(each.get(str(i), {})) for i in range(sizes["n_layer"])]
    return {
        name: tuple(one.get(key, WHOLE) or sizes[usual] for one in own)
        for name, key, usual in zip(("head_dims", "kv_heads"), keys, ("head_dim", "n_kv_head"), strict=True)
    }


def _ropes(settings: Settings, dim: int) -> Options:
    """Return RoPE of the layers without a window, whose heads have `dim` channels, and of other layers."""
    full = {"rope_type": "proportional", "rope_theta": 1e6, "partial_rotary_factor": 0.25}
    usual = dict(zip(KINDS, ({"rope_type": "default", "rope_theta": 1e4}, full), strict=True))
    both = settings.raw("rope_parameters") or usual
    if not isinstance(both, dict) or not all(isinstance(both.get(kind), dict) for kind in KINDS):
        raise InputError(f"rope_parameters: expected values for {' and '.join(KINDS)}, found {brief(both)}")
    local, full = (both[kind] for kind in KINDS)
    inner, factors = Settings(full, settings.problems), settings.values.get(ROPE_FACTORS, ())
    found = {"window_rope": read_rope(Settings({"rope_parameters": local}, settings.problems))}
    if full.get("rope_type") != "proportional":
        return found | {"rope": read_rope(Settings({"rope_parameters": full, ROPE_FACTORS: factors}))}
    share, factor = (inner.get(key, POSITIVE) or 1 for key in ("partial_rotary_factor", "factor"))
    turning = min(int(share * dim // 2), dim // 2)
    factors = (float(factor),) * turning + (STILL,) * (dim // 2 - turning)
    return found | {"rope": Rope(inner.require("rope_theta", POSITIVE), factors=factors)}


def from_gguf(keys: Settings, sizes: Sizes) -> Options:
    """Translate the sizes of each kind of layer, the shared keys and values, and the inputs of layers. The
    divisors of the full layers' RoPE are a tensor. Files do not store the scale 1 of the scores."""
    n, tensors, full = sizes["n_layer"], keys.problems.tensors, sizes["head_dim"]
    pattern = keys.raw("attention.sliding_window_pattern")
    if not isinstance(pattern, np.ndarray) or len(pattern) != n:
        raise InputError(f"attention.sliding_window_pattern: expected {n} flags, found {brief(pattern)}")
    local = keys.get("attention.key_length_swa", WHOLE) or full
    for key, dim in (("rope.dimension_count", full), ("rope.dimension_count_swa", local)):
        if (size := keys.get(key, WHOLE) or dim) != dim:
            raise InputError(f"{key} {size} differs from the {dim} channels of a head")
    counts = [keys.raw(key) for key in ("attention.head_count_kv", "feed_forward_length")]
    kv_heads, inner = (np.broadcast_to(np.asarray(own), n).tolist() for own in counts)
    thetas = (("rope.freq_base_swa", 1e4), ("rope.freq_base", 1e6))
    ropes = ({"rope_theta": keys.get_or_default(key, POSITIVE, own, LLAMA_CPP)} for key, own in thetas)
    shared, experts = (keys.get(key, COUNT) or 0 for key in ("attention.shared_kv_layers", "expert_count"))
    return {
        "hidden_activation": "gelu_pytorch_tanh", "head_dim": local,
        "layer_types": [KINDS[not own] for own in pattern],
        "per_layer_config": {
            str(i): {"head_dim": local if pattern[i] else full, "num_key_value_heads": heads}
            for i, heads in enumerate(kv_heads)
        },
        "sliding_window": keys.get("attention.sliding_window", COUNT), "num_kv_shared_layers": shared,
        "use_double_wide_mlp": inner[-1] == 2 * inner[0],
        "attention_k_eq_v": any(f"layer{i}.attn_wv" not in tensors for i in range(n - shared)),
        "hidden_size_per_layer_input": keys.get("embedding_length_per_layer_input", COUNT) or 0,
        "vocab_size_per_layer_input": tensors["embed_ple"].shape[0] if "embed_ple" in tensors else 1,
        "final_logit_softcapping": keys.get("final_logit_softcapping", POSITIVE),
        "rope_parameters": dict(zip(KINDS, ropes, strict=True)),
        "enable_moe_block": experts > 0, "num_experts": experts or None,
        "top_k_experts": keys.get("expert_used_count", WHOLE),
        "moe_intermediate_size": keys.get("expert_feed_forward_length", WHOLE),
    }  # fmt: skip


NAMES = GEMMA.changed(
    GEMMA.family,
    model={
        "embed_ple": ("per_layer_token_embd", "model.embed_tokens_per_layer"),
        "embed_wple_proj": ("per_layer_model_proj", "model.per_layer_model_projection"),
        "embed_ple_norm": ("per_layer_proj_norm", "model.per_layer_projection_norm"),
    },
    layer={
        "mlp_dense_norm": ("post_ffw_norm_1", "post_feedforward_layernorm_1"),
        "mlp_wrouter": ("ffn_gate_inp", "router.proj"),
        "mlp_experts_norm": ("pre_ffw_norm_2", "pre_feedforward_layernorm_2"),
        "mlp_wdown_experts": ("ffn_down_exps", "experts.#.down_proj"),
        "mlp_experts_post_norm": ("post_ffw_norm_2", "post_feedforward_layernorm_2"),
        "mlp_wple_gate": ("inp_gate", "per_layer_input_gate"),
        "mlp_wple_out": ("proj", "per_layer_projection"),
        "mlp_ple_norm": ("post_norm", "post_per_layer_input_norm"),
    },
    more={
        "layer_scalar": "mlp_layer_scale", "layer_output_scale.weight": "mlp_layer_scale",
        "router.scale": "mlp_router_norm", "ffn_gate_inp.scale": "mlp_router_norm",
        "router.per_expert_scale": "mlp_expert_scale", "ffn_down_exps.scale": "mlp_expert_scale",
        "experts.gate_up_proj": "mlp_wgate_up_experts", "ffn_gate_up_exps.weight": "mlp_wgate_up_experts",
        "experts.down_proj": "mlp_wdown_experts",
    },
)  # fmt: skip
OPTIONAL = (  # the modules that some layers or some models lack
    "self_attn.k_proj", "self_attn.v_proj", "self_attn.k_norm", "router.proj", "pre_feedforward_layernorm_2",
    "post_feedforward_layernorm_1", "post_feedforward_layernorm_2", "per_layer_input_gate",
    "per_layer_projection", "post_per_layer_input_norm", "embed_tokens_per_layer",
    "per_layer_model_projection", "per_layer_projection_norm",
)  # fmt: skip
ARCHITECTURES = {
    "gemma4_text": Architecture(
        Gemma4Config, NAMES, options, from_gguf=from_gguf, tied=True, flagged_biases=ATTENTION_BIASES,
        modules=MODULES | {
            "self_attn.v_norm": "attn.v_norm", "act_fn": "mlp.ple_act", "experts": "mlp.mixture",
            "model.embed_tokens_per_layer": "embed.ple_scaled",
        },
        unclear_modules=("model.embed_tokens",), optional_modules=OPTIONAL,
        by_layer=("attention.head_count_kv", "feed_forward_length"),
        example={"experts": 2, "experts_used": 1, "expert_inner": 2, "layer_input": 2, "layer_input_rows": 2,
                 "final_logit_softcapping": 30.0, "rope": Rope(1e4)},
        defaults={
            "norm_eps": 1e-6, "head_dim": 256, "n_kv_head": 4, "n_head": 8, "vocab_size": 262144,
            "context_length": 131072,
        },
    ),
}  # fmt: skip

"""Read the options that several architectures share from the settings in a model file: RoPE, sliding windows
and the MLP's function. Also translate the GGUF metadata of RoPE to keys of config.json. Keys of metadata are
given without the prefix.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ..errors import InputError
from ..plans.rope import Rope, yarn_attention_factor
from ..text.brief import brief
from .settings import COUNT, FITS, FLAG, OBJECT, POSITIVE, TEXT, WHOLE, Settings, is_positive, one_of

ACTIVATIONS = {  # names in config.json -> functions
    "silu": "SiLU", "swish": "SiLU", "relu": "ReLU", "gelu": "GELU", "gelu_new": "GELU by tanh",
    "gelu_pytorch_tanh": "GELU by tanh", "gelu_fast": "GELU by tanh", "xielu": "xIELU",
}  # fmt: skip
LONG, SHORT = "rope_factors_long.weight", "rope_factors_short.weight"  # tensors with divisors of longrope
LAYER_TYPES = ("full_attention", "sliding_attention")
LLAMA_CPP = "the default of llama.cpp"


def read_activation(settings: Settings, key: str, default: str) -> str:
    """Return the function of the MLP. `default` is the name in config.json of the default of transformers."""
    name = settings.get_or_default(key, TEXT, default)
    known = [own for own in ACTIVATIONS if own in (default, *{*ACTIVATIONS} - {"xielu"})]
    return ACTIVATIONS[one_of(key, name, known)]


def usual_options(
    settings: Settings, sizes: Mapping[str, Any], theta: float = 1e4, activation: str = "silu",
    share: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return RoPE, the rotated channels and the function of the MLP. `theta`, `activation` and `share` are
    the defaults of transformers. Without `share`, RoPE must turn all channels of a head."""
    channels = None if share is None else rotated_channels(settings, sizes["head_dim"], share)
    return {
        "rope": read_rope(settings, theta, partial=share is not None), "rotary_dim": channels,
        "activation": read_activation(settings, "hidden_act", activation),
    }  # fmt: skip


def usual_from_gguf(
    keys: Settings, sizes: Mapping[str, Any], activation: str = "silu", partial: bool = False
) -> dict[str, Any]:
    """Translate RoPE. Add the function of the MLP, which files do not store."""
    return {"hidden_act": activation, **gguf_rope(keys, sizes["head_dim"], partial)}


def read_factors(settings: Settings, *keys: str) -> dict[str, float | None]:
    """Return the factors under these keys. A factor of 1, the default of transformers, becomes None."""
    factors = {key: settings.get_or_default(key, POSITIVE, 1.0) for key in keys}
    return {key: None if factor == 1 else float(factor) for key, factor in factors.items()}


def rotated_channels(settings: Settings, head_dim: int, share: float = 1.0, old_key: str = "") -> int | None:
    """Return the number of channels of a head that RoPE turns, or None for all. `share` is the default of
    transformers. `old_key` is the name of the setting in older configs."""
    places = [settings.raw(key) for key in ("rope_parameters", "rope_scaling")]
    for values in (*(Settings(own) for own in places if isinstance(own, dict)), settings):
        for key in (_PARTIAL, old_key):
            value = values.get(key, POSITIVE) if key else None
            if value is not None:
                return _even(head_dim, value)
    return _even(head_dim, settings.get_or_default(_PARTIAL, POSITIVE, share)) if share != 1 else None


def _even(head_dim: int, share: float) -> int | None:
    count = int(head_dim * share)
    return None if count == head_dim else count


def read_rope(
    settings: Settings, theta: float = 10000.0, old_key: str = "", partial: bool = False,
    usual: Mapping[str, Any] = {}, besides: tuple[str, ...] = (),
) -> Rope:  # fmt: skip
    """Build RoPE from the settings `rope_theta` and `rope_scaling`, or their union `rope_parameters`. `theta`
    and the scaling `usual` are the defaults of transformers, and `old_key` is the name of the base in older
    configs. Unless `partial` is true, RoPE must turn all channels of a head. The settings `besides` may stand
    among those of RoPE."""
    old, new = (settings.get(key, OBJECT) for key in ("rope_scaling", "rope_parameters"))
    if old and new and old != new:
        raise InputError("rope_scaling and rope_parameters contradict each other")
    if usual and old is None and new is None:
        new = settings.get_or_default("rope_parameters", OBJECT, usual)
    scaling = {key: value for key, value in (new or old or {}).items() if value is not None}
    if old_key and settings.get(old_key, POSITIVE) is not None:
        scaling.setdefault("rope_theta", settings.get(old_key, POSITIVE))
    for key in (_ORIGINAL, _PARTIAL, "rope_theta"):
        outer = settings.raw(key)
        if outer is not None and scaling.setdefault(key, outer) != outer:
            raise InputError(f"{key}: {brief(scaling[key])} and {brief(outer)} contradict each other")
    inner = Settings(scaling, settings.problems)
    theta = inner.get_or_default("rope_theta", POSITIVE, theta)
    share = inner.get(_PARTIAL, POSITIVE)
    if not partial and share not in (None, 1):
        raise InputError(f"{_PARTIAL} {share} is not supported: RoPE must cover the whole head")
    if _scaling_kind(scaling) == "yarn":
        context = settings.require("max_position_embeddings", WHOLE)
        for key, value in {_ORIGINAL: context, "beta_fast": 32.0, "beta_slow": 1.0}.items():
            scaling[key] = inner.get_or_default(key, POSITIVE, value)
        scales = [scale for key in MSCALES if (scale := inner.get(key, POSITIVE))]
        scaling = {key: value for key, value in scaling.items() if key not in MSCALES}
        if len(scales) == 2 and inner.get("attention_factor", POSITIVE) is None:
            first, second = (yarn_attention_factor(inner.require("factor", POSITIVE), own) for own in scales)
            scaling["attention_factor"] = first / second
    for key in ("rope_theta", _PARTIAL, *besides):
        scaling.pop(key, None)
    settings.last = "rope_scaling"
    if _scaling_kind(scaling) == "longrope":
        return _longrope(theta, scaling, settings.require("max_position_embeddings", WHOLE))
    return _scaled_rope(theta, scaling, settings.values.get(ROPE_FACTORS, ()))


_PARTIAL = "partial_rotary_factor"
MSCALES = ("mscale", "mscale_all_dim")  # DeepSeek's scales of yarn's attention factor, of RoPE and of scores
ROPE_FACTORS = "rope_factors"  # set by readers of files that store a factor for each pair of channels
_ORIGINAL = "original_max_position_embeddings"  # named original_context in `Rope`
_SCALING = (
    "factor", _ORIGINAL, "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor",
    "truncate",
)  # fmt: skip
_SCALING_NEEDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", _ORIGINAL, "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", _ORIGINAL),
}


def _scaling_kind(scaling: Mapping[str, Any]) -> Any:
    """Return the kind of RoPE scaling, which older configs store under the key "type". With `long_factor`,
    "su" and "yarn" are old names of longrope."""
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    return "longrope" if "long_factor" in scaling and kind in ("su", "yarn") else kind


def _longrope(theta: float, scaling: Mapping[str, Any], context: int) -> Rope:
    """Build RoPE with divisors for short and for long texts. Raises InputError for missing settings."""
    inner, divisors = Settings(scaling), []
    for key in ("short_factor", "long_factor"):
        values = scaling.get(key)
        if not isinstance(values, list | tuple) or not all(map(is_positive, values)):
            raise InputError(
                f"RoPE scaling 'longrope': {key}: expected positive numbers, found {brief(values)}"
            )
        divisors.append(tuple(map(float, values)))
    if len({len(numbers) for numbers in divisors}) > 1:
        raise InputError(
            "RoPE scaling 'longrope': expected as many numbers in short_factor as in long_factor"
        )
    original = inner.require(_ORIGINAL, WHOLE)
    factor = inner.get("factor", POSITIVE) or max(1.0, context / original)
    attention, both = inner.get("attention_factor", POSITIVE), (*divisors[0], *divisors[1])
    return Rope(theta, "longrope", float(factor), original, attention_factor=attention, factors=both)


def _scaled_rope(theta: float, scaling: Mapping[str, Any], factors: tuple[float, ...]) -> Rope:
    """Build RoPE from its base and the keys of Hugging Face's `rope_scaling`.

    Raises InputError if the kind or a setting is not supported, or a setting is missing.
    """
    kind = _scaling_kind(scaling)
    needs = _SCALING_NEEDS[one_of("RoPE scaling", kind, _SCALING_NEEDS)]
    values = {key: v for key, v in scaling.items() if key not in ("rope_type", "type") and v is not None}
    for key in (*needs, *values):
        fits = FITS[FLAG] if key == "truncate" else is_positive
        if key not in values or key not in _SCALING or not fits(values[key]):
            raise InputError(f"RoPE scaling {kind!r}: cannot use {brief(key)[1:-1]} {brief(values.get(key))}")
    if kind == "yarn" and theta <= 1:
        raise InputError(f"RoPE scaling 'yarn': expected a rope_theta above 1, found {theta}")
    ours = {"original_context" if key == _ORIGINAL else key: value for key, value in values.items()}
    return Rope(theta, kind, factors=factors, **ours)


def typed_layers(settings: Settings, n_layer: int, windowed: str = LAYER_TYPES[1]) -> tuple[int, ...] | None:
    """Return the layers that use a window according to `layer_types`, or None if this setting is missing.
    `windowed` is the type of these layers."""
    kinds, known = settings.raw("layer_types"), (LAYER_TYPES[0], windowed)
    if kinds is None:
        return None
    if not isinstance(kinds, list) or len(kinds) != n_layer or not all(kind in known for kind in kinds):
        raise InputError(f"layer_types: expected {n_layer} {' or '.join(known)} values, found {brief(kinds)}")
    return tuple(i for i, kind in enumerate(kinds) if kind == windowed)


def layers_with_window(settings: Settings, n_layer: int, every: int, *patterns: str) -> tuple[int, ...]:
    """Return the layers that use a window according to `layer_types`, or else all but each fourth layer if
    `every` is 4. The keys `patterns` may set another number."""
    typed = typed_layers(settings, n_layer)
    if typed is None:
        every = next(filter(None, (settings.get(key, WHOLE) for key in patterns)), every)
    return tuple(i for i in range(n_layer) if (i + 1) % every) if typed is None else typed


def read_window(settings: Settings, layers: Collection[int], usual: int | None = 4096) -> dict[str, Any]:
    """Return the size of the sliding window that `layers` use, as the options `window` and
    `windowed_layers`. `usual` is the default of transformers, or None for no window."""
    if not layers:
        return {}
    size = settings.get("sliding_window", WHOLE)
    if usual and not settings.has("sliding_window"):
        size = settings.get_or_default("sliding_window", WHOLE, usual)
    return {"window": size, "windowed_layers": tuple(layers)} if size else {}


def read_rope_in_windows(settings: Settings, n_layer: int) -> dict[str, Any]:
    """Return the options of a model with a window and RoPE in the same layers: by default, in all but each
    fourth layer. Return {} if there is no window."""
    layers = layers_with_window(settings, n_layer, 4, "sliding_window_pattern")
    options = read_window(settings, range(n_layer))
    without = tuple(i for i in range(n_layer) if i not in layers)
    return options and {**options, "windowed_layers": layers, "layers_without_rope": without}


def read_ropes(settings: Settings, theta: float, local_theta: float | None = None) -> dict[str, Rope]:
    """Return RoPE, and RoPE of the layers with a window, as the options `rope` and `window_rope`. The latter
    has no scaling, unless the settings have RoPE of each type of layer. `theta` and `local_theta` are the
    defaults of transformers. Without `local_theta`, the two bases are the same."""
    both, bases = settings.raw("rope_parameters"), (theta, local_theta or theta)
    if isinstance(both, dict) and both.keys() & {*LAYER_TYPES}:
        given = ({**settings.values, "rope_parameters": both.get(name)} for name in LAYER_TYPES)
        own = (Settings(values, settings.problems) for values in given)
        return dict(zip(("rope", "window_rope"), map(read_rope, own, bases), strict=True))
    rope = read_rope(settings, theta)
    base = local_theta and settings.get_or_default("rope_local_base_freq", POSITIVE, local_theta)
    return {"rope": rope, "window_rope": Rope(base or rope.theta)}


def read_experts(settings: Settings, experts: int, used: int) -> dict[str, int]:
    """Return the number of experts, and the number that each position uses. `experts` and `used` are the
    defaults of transformers. Raises InputError if a position uses more experts than there are."""
    keys = ("num_experts", "n_routed_experts")
    key = next((key for key in keys if settings.raw(key) is not None), "num_local_experts")
    experts = settings.get_or_default(key, WHOLE, experts)
    used = settings.get_or_default("num_experts_per_tok", WHOLE, used)
    if used > experts:
        raise InputError(f"num_experts_per_tok: expected at most {experts}, as in {key}, found {used}")
    return {"experts": experts, "experts_used": used}


def gguf_rope(
    keys: Settings, head_dim: int, partial: bool = False, by_all_dims: bool = False
) -> dict[str, Any]:
    """Translate the base and the scaling of RoPE, and the rotated channels of a head. Unless `partial` is
    true, RoPE must turn all `head_dim` channels. `by_all_dims` is true if the scores may have a scale in
    yarn. Then both scales are the same, because files store one."""
    size = keys.get("rope.dimension_count", WHOLE) or head_dim
    if size != head_dim and not partial:
        raise InputError(f"rope.dimension_count {size} differs from the {head_dim} channels of a head")
    theta = keys.get_or_default("rope.freq_base", POSITIVE, 10000.0, LLAMA_CPP)
    kind = keys.get("rope.scaling.type", TEXT)
    if kind not in (None, "none", "linear", "yarn"):
        raise InputError(f"RoPE scaling {brief(kind)} is not supported; supported: none, linear, yarn")
    factor = keys.get("rope.scaling.factor", POSITIVE) or keys.get("rope.scale_linear", POSITIVE)
    if kind is None and factor not in (None, 1):
        why = f"{LLAMA_CPP} if the file has a factor"
        kind = keys.get_or_default("rope.scaling.type", TEXT, "linear", why)
    scaling: dict[str, Any] = {}
    if kind != "yarn" and (keys.get("rope.scaling.attn_factor", POSITIVE) or 1) != 1:
        raise InputError("rope.scaling.attn_factor is only supported with yarn")
    if kind == "linear":
        scaling = {"type": kind, "factor": factor}
    elif kind == "yarn":
        scaling = {"type": kind, "factor": factor} | _yarn(keys, factor, by_all_dims)
    share = {"partial_rotary_factor": size / head_dim} if partial else {}
    return {"rope_theta": theta, "rope_scaling": scaling, **share}


def gguf_windows(keys: Settings, n_layer: int) -> dict[str, Any]:
    """Translate the window and the layers that use it: by default, all but every fourth layer. Raises
    InputError unless there is a flag for each layer."""
    key, window = "attention.sliding_window_pattern", keys.get("attention.sliding_window", COUNT)
    flags = keys.raw(key) if window else [False] * n_layer
    if flags is None:
        keys.notes.append(f"a sliding window in all but every fourth layer ({LLAMA_CPP})")
        flags = [(i + 1) % 4 != 0 for i in range(n_layer)]
    if not isinstance(flags, list | np.ndarray) or len(flags) != n_layer or not set(flags) <= {False, True}:
        raise InputError(f"{key}: expected {n_layer} flags, found {brief(flags)}")
    return {"sliding_window": window or None, "layer_types": [LAYER_TYPES[bool(flag)] for flag in flags]}


def _yarn(keys: Settings, factor: float | None, by_all_dims: bool) -> dict[str, float]:
    """Return all settings of yarn except `factor`.

    Raises InputError if yarn_attn_factor is not 1, because engines interpret other values in two ways.
    """
    scale = (keys.get("rope.scaling.yarn_log_multiplier", POSITIVE) or 0.0) * 10 if by_all_dims else 0.0
    log = () if scale else (("yarn_log_multiplier", 0),)
    for key, neutral in (*log, ("yarn_ext_factor", 1), ("yarn_attn_factor", 1)):
        value = keys.values.get(f"{keys.prefix}rope.scaling.{key}", neutral)
        if type(value) not in (int, float) or value != neutral:
            raise InputError(f"RoPE yarn with {key} {brief(value)} is not supported")
    original = keys.require("rope.scaling.original_context_length", WHOLE)
    why = "the value that yarn's authors recommend"
    betas = {
        name: keys.get_or_default(f"rope.scaling.yarn_{name}", POSITIVE, default, why)
        for name, default in (("beta_fast", 32.0), ("beta_slow", 1.0))
    }
    extra = keys.get("rope.scaling.attn_factor", POSITIVE) or 1.0
    if scale:
        return {"original_max_position_embeddings": original, **betas, **dict.fromkeys(MSCALES, scale)}
    attention = extra * yarn_attention_factor(factor or 1.0)
    return {"original_max_position_embeddings": original, "attention_factor": attention, **betas}

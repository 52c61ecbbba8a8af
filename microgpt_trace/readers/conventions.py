"""Check the types of settings, and build the config of a decoder from the keys of Hugging Face's config.json.

Readers of other formats first translate metadata to the keys of config.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ..architecture.plans.rope import Rope
from ..arrays.encodings import StoredTensor
from ..decoder.config import DecoderConfig
from ..errors import InputError
from ..text.brief import brief
from .file_terms import TERMS, FileTerms
from .model_file import biases_of, check_biases, check_depth, split_fused

_TRANSFORMERS = "the default of transformers, since the config has no value"
WHOLE, COUNT, POSITIVE = "a whole number above 0", "a whole number", "a positive number"
MAX_LAYERS = 10_000  # the layer number in the name of a tensor has at most four digits
FLAG, TEXT, OBJECT = "true or false", "text", "an object"


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def is_positive(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 < value < 1e38


_FITS: dict[str, Callable[[Any], bool]] = {
    WHOLE: lambda value: is_count(value) and value > 0,
    COUNT: is_count,
    POSITIVE: is_positive,
    FLAG: lambda value: isinstance(value, bool),
    TEXT: lambda value: isinstance(value, str),
    OBJECT: lambda value: isinstance(value, dict),
}


def check_value(key: str, value: Any, kind: str) -> None:
    """Raise InputError if `value` is neither None nor of this `kind`."""
    if value is not None and not _FITS[kind](value):
        raise InputError(f"{key}: expected {kind}, found {brief(value)}")


def one_of(what: str, value: Any, names: Iterable[str], hint: str = "") -> str:
    """Return `value`. Raises InputError if `names` does not contain this value."""
    if not isinstance(value, str) or value not in names:
        raise InputError(f"{what} {brief(value)} is not supported; supported: {', '.join(names)}{hint}")
    return value


class Settings:
    """The settings in a model file, with checked types. `notes` lists the defaults that were used."""

    def __init__(self, values: Mapping[str, Any], notes: list[str], prefix: str = "") -> None:
        self.values, self.notes, self.prefix = values, notes, prefix

    def get(self, key: str, kind: str) -> Any | None:
        """Return a setting, or None if missing. Raises InputError if layers have different values."""
        value = self.values.get(self.prefix + key)
        if isinstance(value, np.ndarray):
            if not 0 < value.size <= MAX_LAYERS or (value != value[0]).any():
                raise InputError(f"{self.prefix}{key} differs from layer to layer")
            value = value[0].item()
        check_value(self.prefix + key, value, kind)
        return value

    def require(self, key: str, kind: str) -> Any:
        """Return the value of a setting. Raises InputError if the setting is missing."""
        value = self.get(key, kind)
        if value is None:
            raise InputError(f"'{self.prefix}{key}' is missing")
        return value

    def get_or_default(self, key: str, kind: str, default: Any, why: str) -> Any:
        """Return the value of a setting, or `default` with a new note (`why`) if the setting is missing."""
        value = self.get(key, kind)
        if value is None:
            shown = f"{default:,.10g}" if is_positive(default) else str(default).lower()
            self.notes.append(f"{key} = {shown} ({why})")
            return default
        return value


def decoder_config(
    architecture: str, settings: Settings, tensors: Mapping[str, StoredTensor],
    factors: tuple[float, ...] = (), adjacent_pairs: bool = False,
) -> tuple[DecoderConfig, dict[str, StoredTensor]]:  # fmt: skip
    """Build the config from settings under the keys of config.json, and split fused qkv tensors.

    `factors` lists a factor for each RoPE pair. `adjacent_pairs` is True if RoPE rotates adjacent rows of q
    and k together. Raises InputError if a setting is missing or not supported.
    """
    terms = TERMS[architecture]

    def size(name: str, kind: str = WHOLE, times: int = 1) -> Any:
        key = terms.keys[name]
        if name in terms.defaults:
            return settings.get_or_default(key, kind, terms.defaults[name] * times, _TRANSFORMERS)
        return settings.require(key, kind)

    n_layer, n_head, width = size("n_layer"), size("n_head"), size("n_embd")
    check_depth(n_layer, tensors)
    activation = _activation(settings, terms)
    get_head_dim = settings.require if terms.explicit_head_dim else settings.get
    head_dim = (get_head_dim("head_dim", WHOLE) if "head_dim" in terms.keys else None) or width // n_head
    kv_key = terms.keys.get("n_kv_head")
    n_kv_head = (settings.get(kv_key, WHOLE) if kv_key else None) or n_head
    tensors = split_fused(tensors, n_head * head_dim, n_kv_head * head_dim)
    biases = biases_of(tensors)
    check_biases(architecture, biases)
    window, windowed = _window(settings, architecture, n_layer)
    config = DecoderConfig(
        architecture=architecture,
        n_layer=n_layer,
        n_embd=width,
        n_head=n_head,
        n_kv_head=n_kv_head,
        head_dim=head_dim,
        n_inner=size("n_inner", times=width),
        vocab_size=size("vocab_size"),
        context_length=size("context_length"),
        norm_eps=size("norm_eps", POSITIVE),
        rope=_rope(settings, factors) if terms.rope else None,
        tied=_is_tied(settings, terms, "lm_head" in tensors),
        biases=biases,
        qk_norm=terms.qk_norm,
        window=window,
        windowed_layers=windowed,
        adjacent_pairs=adjacent_pairs,
        activation=activation,
        score_scales=_score_scales(settings, terms, n_layer, head_dim),
    )
    return config, tensors


def _activation(settings: Settings, terms: FileTerms) -> str:
    key = terms.keys["activation"]
    name = settings.values.get(key)
    if name is None:
        name = settings.get_or_default(key, TEXT, terms.activation, _TRANSFORMERS)
    return terms.activations[one_of(key, name, terms.activations)]


def _score_scales(settings: Settings, terms: FileTerms, n_layer: int, head_dim: int) -> tuple[float, ...]:
    """Return the factor of the attention scores in each layer, or () if all factors are 1/sqrt(head_dim)."""
    scaled, by_layer = (settings.get(key, FLAG) if key else None for key in terms.score_flags)
    if scaled is not False and not by_layer:
        return ()
    scale = 1.0 if scaled is False else 1 / math.sqrt(head_dim)
    return tuple(scale / (i + 1) if by_layer else scale for i in range(n_layer))


def _is_tied(settings: Settings, terms: FileTerms, has_head: bool) -> bool:
    """Return tie_word_embeddings, or else the default of transformers, or else True if lm_head is missing."""
    tied, why = terms.tied, _TRANSFORMERS
    if tied is None:
        tied, why = not has_head, f"lm_head.weight is {'in the file' if has_head else 'missing'}"
    return bool(settings.get_or_default("tie_word_embeddings", FLAG, tied, why))


def _window(settings: Settings, architecture: str, n_layer: int) -> tuple[int | None, tuple[int, ...]]:
    """Return the size of the sliding window, or None, and the layers that use the window."""
    if settings.values.get("sliding_window") is not None:
        if TERMS[architecture].windows == "none":
            settings.notes.append(f"sliding_window is not used by a {architecture}")
        if TERMS[architecture].windows == "last":
            settings.get_or_default("use_sliding_window", FLAG, False, _TRANSFORMERS)
    layers = _windowed_layers(settings, architecture, n_layer)
    if not layers:
        return None, ()
    size = settings.get("sliding_window", WHOLE)
    if "sliding_window" not in settings.values:
        size = settings.get_or_default("sliding_window", WHOLE, 4096, _TRANSFORMERS)
    return (size, layers) if size else (None, ())


def _rope(settings: Settings, factors: tuple[float, ...]) -> Rope:
    """Build RoPE from the settings `rope_theta` and `rope_scaling`, or their union `rope_parameters`."""
    old, new = (settings.get(key, OBJECT) or {} for key in ("rope_scaling", "rope_parameters"))
    if old and new and old != new:
        raise InputError("rope_scaling and rope_parameters contradict each other")
    scaling = {key: value for key, value in (new or old).items() if value is not None}
    for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        outer = settings.values.get(key)
        if outer is not None and scaling.setdefault(key, outer) != outer:
            raise InputError(f"{key}: {brief(scaling[key])} and {brief(outer)} contradict each other")
    inner = Settings(scaling, settings.notes)
    theta = inner.get_or_default("rope_theta", POSITIVE, 10000.0, _TRANSFORMERS)
    partial = inner.get("partial_rotary_factor", POSITIVE)
    if partial not in (None, 1):
        raise InputError(f"partial_rotary_factor {partial} is not supported: RoPE must cover the whole head")
    if _scaling_kind(scaling) == "yarn":
        context = settings.require("max_position_embeddings", WHOLE)
        defaults = {"original_max_position_embeddings": context, "beta_fast": 32.0, "beta_slow": 1.0}
        for key, value in defaults.items():
            scaling[key] = inner.get_or_default(key, POSITIVE, value, _TRANSFORMERS)
    for key in ("rope_theta", "partial_rotary_factor"):
        scaling.pop(key, None)
    return _scaled_rope(theta, scaling, factors)


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
    """Return the kind of RoPE scaling, which older configs store under the key "type"."""
    return scaling.get("rope_type", scaling.get("type", "default"))


def _scaled_rope(theta: float, scaling: Mapping[str, Any], factors: tuple[float, ...]) -> Rope:
    """Build RoPE from its base and the keys of Hugging Face's `rope_scaling`.

    Raises InputError if the kind or a setting is not supported, or a setting is missing.
    """
    kind = _scaling_kind(scaling)
    needs = _SCALING_NEEDS[one_of("RoPE scaling", kind, _SCALING_NEEDS)]
    values = {key: v for key, v in scaling.items() if key not in ("rope_type", "type") and v is not None}
    for key in (*needs, *values):
        fits = _FITS[FLAG] if key == "truncate" else is_positive
        if key not in values or key not in _SCALING or not fits(values[key]):
            raise InputError(f"RoPE scaling {kind!r}: cannot use {brief(key)[1:-1]} {brief(values.get(key))}")
    if kind == "yarn" and theta <= 1:
        raise InputError(f"RoPE scaling 'yarn': expected a rope_theta above 1, found {theta}")
    ours = {"original_context" if key == _ORIGINAL else key: value for key, value in values.items()}
    return Rope(theta, kind, factors=factors, **ours)


def _windowed_layers(settings: Settings, architecture: str, n_layer: int) -> tuple[int, ...]:
    """Return the layers that use a sliding window if the file sets the size of the window.

    The setting `layer_types` lists the layers with a window. Without `layer_types`, all layers of a mistral
    use a window, and the layers of a llama do not. A qwen with use_sliding_window uses a window from layer
    max_window_layers on.
    """
    typed = _typed_layers(settings, architecture, n_layer)
    if typed is not None:
        return typed
    windows = TERMS[architecture].windows
    if windows == "all":
        return tuple(range(n_layer))
    if windows == "none" or not settings.get("use_sliding_window", FLAG):
        return ()
    return tuple(range(settings.require("max_window_layers", COUNT), n_layer))


def _typed_layers(settings: Settings, architecture: str, n_layer: int) -> tuple[int, ...] | None:
    """Return the layers that use a window according to `layer_types`, or None if this setting is missing."""
    kinds, known = settings.values.get("layer_types"), ("full_attention", "sliding_attention")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or len(kinds) != n_layer or not all(kind in known for kind in kinds):
        raise InputError(f"layer_types: expected {n_layer} {' or '.join(known)} values, found {brief(kinds)}")
    layers = tuple(i for i, kind in enumerate(kinds) if kind == "sliding_attention")
    has_window = settings.get("sliding_window", WHOLE) is not None
    windows = TERMS[architecture].windows
    if windows != "last":
        agree = layers == (tuple(range(n_layer)) if has_window and windows == "all" else ())
    else:
        agree = not layers or (has_window and settings.get("use_sliding_window", FLAG) is True)
    if not agree:
        raise InputError(f"layer_types {brief(kinds)} contradict sliding_window or {architecture}'s rules")
    return layers

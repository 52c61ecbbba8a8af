"""What files of every format say of a decoder in the same terms: typed values, and the config that they
describe in the words of Hugging Face's config.json."""

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
from .model_file import biases_of, check_biases, check_depth, unfused

_TRANSFORMERS = "what transformers takes where the config does not say"
WHOLE, COUNT, POSITIVE = "a whole number above 0", "a whole number", "a positive number"
MAX_LAYERS = 10_000  # as the names of tensors count them
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
    """Raises InputError for a value that is there and not of this kind."""
    if value is not None and not _FITS[kind](value):
        raise InputError(f"{key}: expected {kind}, found {brief(value)}")


def one_of(what: str, value: Any, names: Iterable[str], hint: str = "") -> str:
    """The value, which is one of some names. Raises InputError for another one."""
    if not isinstance(value, str) or value not in names:
        works = ", ".join(names)
        raise InputError(f"{what} {brief(value)} is not supported; these are: {works}{hint}")
    return value


class Settings:
    """The settings of a model as a file has them, with types checked, and notes of what was taken for
    those that it lacks.

    Needs no note: what the shapes of the tensors prove.
    """

    def __init__(self, values: Mapping[str, Any], notes: list[str], prefix: str = "") -> None:
        self.values, self.notes, self.prefix = values, notes, prefix

    def get(self, key: str, kind: str) -> Any | None:
        """A value, None where it is missing or null; a list of one value for all layers is that value."""
        value = self.values.get(self.prefix + key)
        if isinstance(value, np.ndarray):
            if not 0 < value.size <= MAX_LAYERS or (value != value[0]).any():
                raise InputError(f"{self.prefix}{key} differs from layer to layer")
            value = value[0].item()
        check_value(self.prefix + key, value, kind)
        return value

    def need(self, key: str, kind: str) -> Any:
        value = self.get(key, kind)
        if value is None:
            raise InputError(f"'{self.prefix}{key}' is missing")
        return value

    def assume(self, key: str, kind: str, default: Any, why: str) -> Any:
        """A value, or the default of those who define the format."""
        value = self.get(key, kind)
        if value is None:
            shown = f"{default:,.10g}" if is_positive(default) else str(default).lower()
            self.notes.append(f"{key} = {shown} ({why})")
            return default
        return value


def decoder_config(
    architecture: str, said: Settings, tensors: Mapping[str, StoredTensor], factors: tuple[float, ...] = (),
    adjacent_pairs: bool = False,
) -> tuple[DecoderConfig, dict[str, StoredTensor]]:  # fmt: skip
    """The config that settings describe in the words of Hugging Face's config.json, and the tensors with what
    lies fused apart. `factors` are those of a GGUF's RoPE, and `adjacent_pairs` is how its rows lie.

    Raises InputError for a setting that is missing or not supported.
    """
    terms = TERMS[architecture]

    def size(name: str, kind: str = WHOLE, times: int = 1) -> Any:
        key = terms.keys[name]
        if name in terms.defaults:
            return said.assume(key, kind, terms.defaults[name] * times, _TRANSFORMERS)
        return said.need(key, kind)

    n_layer, n_head, width = size("n_layer"), size("n_head"), size("n_embd")
    check_depth(n_layer, tensors)
    activation = _activation(said, terms)
    get_head_dim = said.need if terms.explicit_head_dim else said.get
    head_dim = (get_head_dim("head_dim", WHOLE) if "head_dim" in terms.keys else None) or width // n_head
    n_kv_head = (said.get(terms.keys["n_kv_head"], WHOLE) if "n_kv_head" in terms.keys else None) or n_head
    tensors = unfused(tensors, n_head * head_dim, n_kv_head * head_dim)
    biases = biases_of(tensors)
    check_biases(architecture, biases)
    window, windowed = _window(said, architecture, n_layer)
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
        rope=_rope(said, factors) if terms.rope else None,
        tied=_is_tied(said, terms, "lm_head" in tensors),
        biases=biases,
        qk_norm=terms.qk_norm,
        window=window,
        windowed_layers=windowed,
        adjacent_pairs=adjacent_pairs,
        activation=activation,
        score_scales=_score_scales(said, terms, n_layer, head_dim),
    )
    return config, tensors


def _activation(said: Settings, terms: FileTerms) -> str:
    key = terms.keys["activation"]
    found = said.values.get(key)
    if found is None:
        said.notes.append(f"{key} = {terms.activation} ({_TRANSFORMERS})")
        return terms.activations[terms.activation]
    return terms.activations[one_of(key, found, terms.activations)]


def _score_scales(said: Settings, terms: FileTerms, n_layer: int, head_dim: int) -> tuple[float, ...]:
    """What the scores of each layer are multiplied by, where flags of the config say another number than
    1/sqrt(head_dim)."""
    scaled, by_layer = (said.get(key, FLAG) if key else None for key in terms.score_flags)
    if scaled is not False and not by_layer:
        return ()
    whole = 1.0 if scaled is False else 1 / math.sqrt(head_dim)
    return tuple(whole / (i + 1) if by_layer else whole for i in range(n_layer))


def _is_tied(said: Settings, terms: FileTerms, has_head: bool) -> bool:
    """What the config says; where it says nothing, transformers' own default or the tensors do."""
    tied, why = terms.tied, _TRANSFORMERS
    if tied is None:
        tied, why = not has_head, f"lm_head.weight is {'' if has_head else 'not '}there"
    return bool(said.assume("tie_word_embeddings", FLAG, tied, why))


def _window(said: Settings, architecture: str, n_layer: int) -> tuple[int | None, tuple[int, ...]]:
    """The sliding window and the layers that have it: as `layer_types` says, or the older settings."""
    given = said.values.get("sliding_window") is not None
    if given and TERMS[architecture].windows == "none":
        said.notes.append(f"sliding_window is not used: a {architecture} has none")
    if given and TERMS[architecture].windows == "last":
        said.assume("use_sliding_window", FLAG, False, _TRANSFORMERS)
    layers = _windowed_layers(said, architecture, n_layer)
    if not layers:
        return None, ()
    size = said.get("sliding_window", WHOLE)
    if "sliding_window" not in said.values:
        size = said.assume("sliding_window", WHOLE, 4096, _TRANSFORMERS)
    return (size, layers) if size else (None, ())


def _rope(said: Settings, factors: tuple[float, ...]) -> Rope:
    """From `rope_theta` and `rope_scaling`, or from `rope_parameters`, which has both in one."""
    old, new = (said.get(key, OBJECT) or {} for key in ("rope_scaling", "rope_parameters"))
    if old and new and old != new:
        raise InputError("rope_scaling and rope_parameters contradict each other")
    scaling = {key: value for key, value in (new or old).items() if value is not None}
    for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        outer = said.values.get(key)
        if outer is not None and scaling.setdefault(key, outer) != outer:
            raise InputError(f"{key}: {brief(scaling[key])} and {brief(outer)} contradict each other")
    inner = Settings(scaling, said.notes)
    theta = inner.assume("rope_theta", POSITIVE, 10000.0, _TRANSFORMERS)
    partial = inner.get("partial_rotary_factor", POSITIVE)
    if partial not in (None, 1):
        raise InputError(f"partial_rotary_factor {partial}: RoPE over a part of the head is not supported")
    taken = {}
    if _scaling_kind(scaling) == "yarn":
        context = said.need("max_position_embeddings", WHOLE)
        usual = {"original_max_position_embeddings": context, "beta_fast": 32.0, "beta_slow": 1.0}
        taken = {key: inner.assume(key, POSITIVE, value, _TRANSFORMERS) for key, value in usual.items()}
    outside = ("rope_theta", "partial_rotary_factor")
    settings = {key: value for key, value in (scaling | taken).items() if key not in outside}
    return _scaled_rope(theta, settings, factors)


_ORIGINAL = "original_max_position_embeddings"  # our original_context; all else that scales RoPE is called so
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
    """The kind of RoPE scaling, by its new name or its old one."""
    return scaling.get("rope_type", scaling.get("type", "default"))


def _scaled_rope(theta: float, scaling: Mapping[str, Any], factors: tuple[float, ...]) -> Rope:
    """RoPE from its base and what scales it, in the words of Hugging Face's `rope_scaling`.

    Raises InputError for a kind or a setting that is not supported, and for one that is missing.
    """
    kind = _scaling_kind(scaling)
    needs = _SCALING_NEEDS.get(kind) if isinstance(kind, str) else None
    if needs is None:
        works = ", ".join(_SCALING_NEEDS)
        raise InputError(f"RoPE scaling {brief(kind)} is not supported; these are: {works}")
    said = {key: v for key, v in scaling.items() if key not in ("rope_type", "type") and v is not None}
    for key in (*needs, *said):
        fits = _FITS[FLAG] if key == "truncate" else is_positive
        if key not in said or key not in _SCALING or not fits(said[key]):
            raise InputError(f"RoPE scaling {kind!r}: cannot use {brief(key)[1:-1]} {brief(said.get(key))}")
    if kind == "yarn" and theta <= 1:
        raise InputError(f"RoPE scaling 'yarn' over a base of {theta}")
    ours = {"original_context" if key == _ORIGINAL else key: value for key, value in said.items()}
    return Rope(theta, kind, factors=factors, **ours)


def _windowed_layers(said: Settings, architecture: str, n_layer: int) -> tuple[int, ...]:
    """The layers that have a sliding window where a file names one: those that `layer_types` says; else
    all of a mistral, none of a llama, of a qwen those from max_window_layers on, where
    use_sliding_window says so (`windows` of the architecture's terms)."""
    typed = _typed_layers(said, architecture, n_layer)
    if typed is not None:
        return typed
    windows = TERMS[architecture].windows
    if windows == "all":
        return tuple(range(n_layer))
    if windows == "none" or not said.get("use_sliding_window", FLAG):
        return ()
    return tuple(range(said.need("max_window_layers", COUNT), n_layer))


def _typed_layers(said: Settings, architecture: str, n_layer: int) -> tuple[int, ...] | None:
    """The windowed layers by `layer_types`, None where it is not there. It must agree with the rest."""
    kinds, known = said.values.get("layer_types"), ("full_attention", "sliding_attention")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or len(kinds) != n_layer or not all(kind in known for kind in kinds):
        raise InputError(f"layer_types: expected {n_layer} of {' and '.join(known)}, found {brief(kinds)}")
    layers = tuple(i for i, kind in enumerate(kinds) if kind == "sliding_attention")
    given = said.get("sliding_window", WHOLE) is not None
    windows = TERMS[architecture].windows
    if windows != "last":
        agree = layers == (tuple(range(n_layer)) if given and windows == "all" else ())
    else:
        agree = not layers or (given and said.get("use_sliding_window", FLAG) is True)
    if not agree:
        raise InputError(f"layer_types {brief(kinds)} contradict sliding_window or a {architecture}'s rules")
    return layers

"""What files of every format say of a decoder in the same terms: typed values, RoPE, sliding windows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..architecture.plans.rope import Rope
from ..errors import InputError
from ..text.brief import brief
from .file_terms import TERMS

WHOLE, COUNT, POSITIVE = "a whole number above 0", "a whole number", "a positive number"
MAX_LAYERS = 10_000  # as the names of tensors count them
FLAG, TEXT, OBJECT = "true or false", "text", "an object"


def is_whole(value: Any) -> bool:
    return is_count(value) and value > 0


def is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def is_positive(value: Any) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and 0 < value < 1e38


_FITS: dict[str, Callable[[Any], bool]] = {
    WHOLE: is_whole,
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


_SCALING = {  # Hugging Face's names of what scales RoPE: ours
    "factor": "factor",
    "original_max_position_embeddings": "original_context",
    "low_freq_factor": "low_freq_factor",
    "high_freq_factor": "high_freq_factor",
    "beta_fast": "beta_fast",
    "beta_slow": "beta_slow",
    "attention_factor": "attention_factor",
    "truncate": "truncate",
}
_SCALING_NEEDS = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_max_position_embeddings"),
}


def scaling_kind(scaling: Mapping[str, Any]) -> Any:
    """The kind of RoPE scaling, by its new name or its old one."""
    return scaling.get("rope_type", scaling.get("type", "default"))


def scaled_rope(theta: float, scaling: Mapping[str, Any], factors: tuple[float, ...] = ()) -> Rope:
    """RoPE from its base and what scales it, in the words of Hugging Face's `rope_scaling`.

    Raises InputError for a kind or a setting that is not supported, and for one that is missing.
    """
    kind = scaling_kind(scaling)
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
    return Rope(theta, kind, factors=factors, **{_SCALING[key]: value for key, value in said.items()})


def yarn_defaults(context: int, scaling: Settings, why: str) -> dict[str, Any]:
    """What yarn's settings lack, noted."""
    usual = {"original_max_position_embeddings": context, "beta_fast": 32.0, "beta_slow": 1.0}
    return {key: scaling.assume(key, POSITIVE, value, why) for key, value in usual.items()}


def windowed_layers(said: Settings, architecture: str, n_layer: int) -> tuple[int, ...]:
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

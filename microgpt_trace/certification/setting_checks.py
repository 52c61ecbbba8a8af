"""Compare the settings of an export with those of its original, by what the models compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..arrays.rounding import to_bf16, to_f16
from ..decoder.catalogue import GGUF_NAMES, architecture_named
from ..decoder.config import DecoderConfig
from ..decoder.setting_names import NAMES, setting_named
from ..decoder.shared_options import ACTIVATIONS
from ..plans.kinds import Rotation, Scores
from ..plans.plan import Plan, kind_of
from ..plans.rope import Rope, rope_frequencies
from ..text.brief import brief
from ..text.wording import listed, ranges
from .certificate import CertificateCheck, Status
from .opening import Side, check_of

_USUAL_SCALE = "1 / sqrt(head_dim)"
_SCALING = {  # the settings of each kind of RoPE scaling
    "linear": ("factor",),
    "llama3": ("factor", "original_context", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor", "original_context", "beta_fast", "beta_slow", "attention_factor", "truncate"),
    "longrope": ("original_context", "attention_factor", "factors"),
}
_SOURCES = {  # settings that follow from other settings, unless the file contains a wrong value
    "n_kv_head": ("n_head",), "head_dim": ("n_embd", "n_head"), "n_inner": ("n_embd",),
    "rope_channels": ("n_embd", "n_head", "head_dim"), "rope_layers": ("n_layer",),
    "rope_factors": ("n_embd", "n_head", "head_dim"),
    "windowed_layers": ("n_layer",), "dense_layers": ("n_layer",),
    "rope_attention_factor": ("context_length", "rope_factor"),
}  # fmt: skip
_GGUF_NAMES = {"mistral": "llama", **{own: name.partition(" ")[0] for name, own in GGUF_NAMES.items()}}
_IN_FILES: Mapping[str, Callable[[Any, Any], Any]] = {  # how files store other values than ours
    "architecture": lambda value, config: _GGUF_NAMES.get(value, value),
    "logits_multiplier": lambda value, config: 1 / value,
    "score_scale": lambda value, config: config.head_dim**-0.5 if value == _USUAL_SCALE else value,
    "query_pre_attn_scalar": lambda value, config: round(_IN_FILES["score_scale"](value, config) ** -2, 4),
    "rope_channels": lambda value, config: config.head_dim if value == "all" else value,
    "partial_rotary_factor": lambda value, config: 1.0 if value == "all" else value / config.head_dim,
    "activation": lambda value, config: next(name for name, own in ACTIVATIONS.items() if own == value),
}


def settings_checks(export: Side, original: Side) -> list[CertificateCheck]:
    """Return a check for each setting that a model has, in the order of `NAMES`. The ids are
    "settings.NAME". Values are the same if they are the same in float32, and rounded if the value of the
    export is the value of the original in bf16 or f16."""
    sides = {"export": export, "original": original}
    mine, theirs = _values(export.config, original.config), _values(original.config, export.config)
    if not (mine.get("window") and theirs.get("window")):  # one fault: the size or the layers
        size: Any = theirs.get("window") or 0
        right = np.array_equal(export.metadata.get(_key("window", export), ()), size)
        one = "window" if right else "windowed_layers"
        mine.pop(one, None), theirs.pop(one, None)
    problems: dict[str, list[str]] = {}
    for which, side in sides.items():
        for problem in side.problems:
            part, _, name = check_of(problem).partition(".")
            if part == "settings":
                problems.setdefault(name, []).append(f"In the {which}: {problem.text}")
    checks: dict[str, CertificateCheck] = {}
    for name in [name for name in {**NAMES, **problems} if name in {**mine, **theirs, **problems}]:
        status, detail = _compared(mine.get(name), theirs.get(name))
        if not (mine and theirs):
            status, detail = "not checked", "The settings of a file cannot be read."
        differs = status == "different"
        if name in problems:
            status, detail = "different", " ".join([detail] * differs + problems[name])
        if differs or (theirs and problems.get(name, [""])[-1].startswith("In the export")):
            wrong = [own for own, check in checks.items() if check.status == "different"]
            detail += _advice(name, theirs.get(name), export, original, wrong)
        for which, side in sides.items():
            for note in side.assumed:
                key, equals, _ = note.partition(" = ")
                if equals and setting_named(key) == name:
                    detail += f" The {which} does not say it: {note}."
        checks[name] = CertificateCheck(f"settings.{name}", status, detail)
    return list(checks.values())


def _values(config: DecoderConfig | None, other: DecoderConfig | None) -> dict[str, Any]:
    """Return the settings of a model by name, so that equal values mean equal computations. A window that
    hides no position of the context is None."""
    if config is None:
        return {}
    own, same = config.architecture, other is not None and _structure(config.plan) == _structure(other.plan)
    scales = tuple(dict.fromkeys(kind.scale for kind in config.plan.kinds(Scores)))
    usual = np.allclose(scales, config.head_dim**-0.5, 1e-6, 0)
    context = max(own.context_length for own in (config, other) if own)
    windowed = [i for i, size in enumerate(config.windows) if size and abs(size) < context]
    return {name: getattr(config, name) for name in NAMES if hasattr(config, name)} | {
        "architecture": min(own, other.architecture) if other and same else own,
        "score_scale": _USUAL_SCALE if usual else scales if len(scales) > 1 else scales[0],
        "window": config.window if windowed else None, "windowed_layers": tuple(windowed),
        **_rope_values(config, other),
    }  # fmt: skip


def _structure(plan: Plan) -> set[Any]:
    """Return the operations of a plan without layers and numbers."""
    rows = ((row, getattr(row.kind, "centred", None)) for row in plan.values())
    return {(kind_of(row.name), type(row.kind), centred, *map(kind_of, row.inputs)) for row, centred in rows}


def _rope_values(config: DecoderConfig, other: DecoderConfig | None) -> dict[str, Any]:
    turned, rope, local = config.plan.of_kind(Rotation), config.rope, getattr(config, "window_rope", None)
    if rope is None or not turned:
        return {}
    channels, layers = turned[0].kind.channels, tuple(dict.fromkeys(row.layer for row in turned))
    values: dict[str, Any] = {
        "rope_base": rope.theta, "rope_channels": "all" if channels == config.head_dim else channels,
        "rope_layers": layers if len(layers) < config.n_layer else "all",
        "rope_pairs": "neighbours" if turned[0].kind.adjacent else "halves of a head",
    }  # fmt: skip
    if local is not None:
        values |= {"rope_window_base": local.theta, "rope_window_scaling": local.kind}
    if other is None or other.rope is None:
        return values | _scaling(rope)
    if any(_equal_turns(rope, other.rope, theta, channels) for theta in (rope.theta, other.rope.theta)):
        same = min(rope, other.rope, key=lambda rope: (rope.kind == "default", str(vars(rope))))
        return values | _scaling(same)
    if {"default", "llama3"} == {rope.kind, other.rope.kind} and (rope.factors or other.rope.factors):
        plain, turns = (rope_frequencies(own, channels)[0] for own in (Rope(rope.theta), rope))
        return values | {"rope_scaling": "llama3", "rope_factors": tuple((plain / turns).tolist())}
    if rope.factors or other.rope.factors:  # both in GGUF files, or a longrope
        values["rope_factors"] = rope.factors
    return values | (_scaling(rope) if rope.kind == other.rope.kind else {"rope_scaling": rope.kind})


def _equal_turns(a: Rope, b: Rope, theta: float, channels: int) -> bool:
    """Return True if the scalings of RoPE with this base have the same effect in short and in long texts."""
    both = (replace(rope, theta=theta) for rope in (a, b))
    try:
        first, second = (
            [np.append(*rope_frequencies(rope, channels, length)) for length in (1, 1 << 31)] for rope in both
        )
    except ValueError:  # the divisors belong to another number of channels
        return False
    return np.allclose(first, second, 1e-5, 0)


def _scaling(rope: Rope) -> dict[str, Any]:
    values = {f"rope_{name}": getattr(rope, name) for name in _SCALING.get(rope.kind, ())}
    if "rope_attention_factor" in values:  # None means the usual factor
        values["rope_attention_factor"] = rope_frequencies(replace(rope, factors=()), 2)[1]
    return {"rope_scaling": rope.kind, **values}


def _compared(a: Any, b: Any) -> tuple[Status, str]:
    """Return the status of a setting of the export and of the original, and both values."""
    one, both = f"{_shown(a)}.", f"{_shown(a)} in the export, {_shown(b)} in the original."
    if a == b:
        return "same", one
    numbers = [np.atleast_1d(np.asarray(value)) for value in (a, b)]
    kinds = {own.dtype.kind for own in numbers}
    if "f" not in kinds or not kinds <= {*"if"} or numbers[0].shape != numbers[1].shape:
        return "different", both
    mine, theirs = (own.astype(np.float32) for own in numbers)
    if np.allclose(mine, theirs, 1e-6, 0):
        return "same", both if _shown(a) != _shown(b) else one
    if any(np.array_equal(mine, rounded(theirs)) for rounded in (to_bf16, to_f16)):
        return "rounded", f"{both} The value of the export has 16 bits."
    return "different", both


def _shown(value: Any) -> str:
    """Return a value as in a sentence."""
    if value is None or value == ():
        return "none"
    if (
        isinstance(value, tuple)
        and all(isinstance(own, int) for own in value)
        and [*value] == sorted({*value})
    ):
        return f"layers {ranges(value)}"
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value[:8])) + ", ..." * (len(value) > 8)
    if isinstance(value, bool) or not isinstance(value, float | int):
        return str(value).lower() if isinstance(value, bool) else value
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e15 else f"{value:.6g}"


def _advice(name: str, value: Any, export: Side, original: Side, wrong: Sequence[str]) -> str:
    """Return sentences that say which key of the export should have which value, and which `wrong` settings
    explain a setting."""
    key, is_gguf = _key(name, export), export.format.startswith("GGUF")
    own = key if key in _IN_FILES else name
    if key in original.metadata:
        value = original.metadata[key]
    elif own in _IN_FILES and value is not None and (is_gguf or name != "architecture"):
        value = _IN_FILES[own](value, original.config)
    text = str(value)[:60] if isinstance(value, str | float | int) else brief(value)
    text = text.lower() if isinstance(value, bool) else text
    again = "onvert the model again with a current converter"
    if not key:
        advice = f" C{again}; {export.format.partition(' ')[0]} has no key for this setting."
    elif isinstance(value, tuple) or name == "rope_attention_factor":  # files store these in other ways
        advice = f" Correct {key}, or c{again}."
    elif value is None:
        advice = f" Remove {key}, or c{again}." if key in export.metadata else f" C{again}."
    else:
        place = "config.json" if export.format.startswith("Hugging") else "the metadata"
        inner = ".rope_type" * (key in ("rope_scaling", "rope_parameters") and isinstance(value, str))
        advice = f" Write {key}{inner} = {text} into {place}, or c{again}."
    sources = (*_SOURCES.get(name, ()), "architecture")
    stated = np.array_equal(export.metadata.get(key, value), value)  # a right value, or none
    causes = [f"settings.{source}" for source in sources if source in wrong and stated]
    return advice + (f" This follows from {listed(causes)}." if causes else "")


def _key(name: str, side: Side) -> str:
    """Return the key of a setting in a file: the key in the file, or the usual key of the architecture."""
    is_gguf = side.format.startswith("GGUF")
    usual = architecture_named(side.config.architecture) if side.config else None
    own = {usual.gguf_eps, *usual.sizes.values()} if usual else set()
    keys, prefix = NAMES.get(name, ("", ""))[0 if is_gguf else 1].split(), ""
    if is_gguf and name != "architecture":
        prefix = f"{side.metadata.get('general.architecture')}."
    known = {key.removeprefix(prefix) for key in side.metadata if key.startswith(prefix)}
    return prefix + min(keys, key=lambda key: (key not in known, key not in own)) if keys else ""

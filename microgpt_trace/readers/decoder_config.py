"""Build the config of a decoder from settings under the keys of Hugging Face's config.json. Say what stands
in the way of a model whose architecture is not supported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..decoder.architecture import Architecture
from ..decoder.catalogue import architecture_named
from ..decoder.config import DecoderConfig
from ..decoder.settings import FLAG, POSITIVE, TRANSFORMERS, WHOLE, Settings
from ..errors import InputError
from ..text.brief import brief
from ..text.wording import ranges
from ..untrusted_files import is_count
from .model_file import biases_of, check_heads, checked_depth, split_fused

HEADS = ("n_embd", "n_head", "n_kv_head", "head_dim")


def decoder_config(name: str, settings: Settings, adjacent_pairs: bool = False) -> DecoderConfig:
    """Build the config of the architecture `name`, and split fused tensors.

    `adjacent_pairs` is True if RoPE rotates adjacent rows of q and k together. Raises InputError if a setting
    is missing or not supported.
    """
    architecture, problems = architecture_named(name), settings.problems
    sizes = settings.reading(lambda: _sizes(settings, architecture))
    sizes["n_layer"] = checked_depth(sizes["n_layer"], problems.tensors, problems)
    options = settings.reading(lambda: architecture.options(settings, sizes))
    if settings.values.get("sliding_window") is not None and "sliding_window" not in settings.used:
        settings.notes.append(f"sliding_window is not used by a {name}")
    sizes |= {name: options[name] for name in sizes.keys() & options.keys()}
    tensors = split_fused(problems.tensors, sizes | options, architecture.names.by_head, problems)
    biases = biases_of(tensors if problems.strict else [*tensors, *architecture.biases])
    if missing := set(architecture.biases).difference(biases):
        raise InputError(f"the bias 'layer0.{min(missing)}' is missing; every {name} has this bias")
    values: dict[str, Any] = {
        "architecture": name, **sizes, "biases": biases, **options, "adjacent_pairs": adjacent_pairs,
        "tied": settings.reading(lambda: _is_tied(settings, architecture, "lm_head" in tensors)),
    }  # fmt: skip
    values |= problems.settled()
    try:
        check_heads(config := architecture.config(**values), tensors)
    except InputError as error:
        if problems.other is None:
            raise
        wrong = [name for name in HEADS if values[name] != getattr(problems.other, name)]
        problems.note("setting", error, [*wrong, error.setting][0])
        config = architecture.config(**values | problems.settled(*HEADS))
    problems.config, problems.tensors = config, tensors
    return config


def overridden(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with the values that the user set. A key such as "rope_scaling.truncate" sets a
    value within a setting. Raises InputError if such a setting has no values within."""
    result = dict(values)
    for key, value in overrides.items():
        outer, dot, inner = key.partition(".")
        if dot and not isinstance(result.get(outer), dict):
            raise InputError(f"--set {key}: expected values within {outer}, found {brief(result.get(outer))}")
        result[outer] = overridden(result[outer], {inner: value}) if dot else value
    return result


def check_overrides(settings: Settings, overrides: Mapping[str, Any]) -> None:
    """Note the settings that the user set, instead of notes on values that they replace. Raises InputError if
    the architecture does not read a setting."""
    for key, value in overrides.items():
        if key.partition(".")[0] not in settings.used:
            raise InputError(f"--set {key}: expected one of {', '.join(sorted(settings.used))}")
        settings.notes[:] = [note for note in settings.notes if not note.startswith(f"{key} = ")]
        settings.notes.append(f"{key} = {brief(value)} (--set)")


def _sizes(settings: Settings, architecture: Architecture) -> dict[str, Any]:
    """Return the dimensions, by our names. `head_dim` and `n_kv_head` may be missing."""
    keys, sizes = architecture.sizes, dict[str, Any]()

    def read(name: str, kind: str = WHOLE, default: Any = None) -> None:
        has_null = name == "n_kv_head" and name in keys and settings.has(keys[name])
        if name in architecture.defaults and not has_null:
            default = architecture.defaults[name] * (sizes["n_embd"] if name == "n_inner" else 1)
            sizes[name] = settings.get_or_default(keys[name], kind, default)
        elif default is None:
            sizes[name] = settings.require(keys[name], kind)
        else:
            sizes[name] = (settings.get(keys[name], kind) if name in keys else None) or default

    for name in ("n_layer", "n_head", "n_embd", "n_inner", "vocab_size", "context_length"):
        read(name)
    read("head_dim", default=sizes["n_embd"] // sizes["n_head"])
    read("n_kv_head", default=sizes["n_head"])
    read("norm_eps", POSITIVE)
    return sizes


def _is_tied(settings: Settings, architecture: Architecture, has_head: bool) -> bool:
    """Return tie_word_embeddings, or else the default of transformers, or else True if lm_head is missing."""
    tied, why = architecture.tied, TRANSFORMERS
    if tied is None:
        tied, why = not has_head, f"lm_head.weight is {'in the file' if has_head else 'missing'}"
    return bool(settings.get_or_default("tie_word_embeddings", FLAG, tied, why))


_COUNTS = {  # keys of config.json, or of GGUF metadata without the prefix -> what a number above 0 means
    "num_experts": "a mixture of {} experts", "num_local_experts": "a mixture of {} experts",
    "n_routed_experts": "a mixture of {} experts", "expert_count": "a mixture of {} experts",
    "kv_lora_rank": "keys and values compressed to {} channels",
    "attention.kv_lora_rank": "keys and values compressed to {} channels",
    "ssm_state_size": "a state space of {} channels", "state_size": "a state space of {} channels",
    "ssm.state_size": "a state space of {} channels",
}  # fmt: skip
_KNOWN_LAYERS = ("full_attention", "sliding_attention")


def unsupported(
    name: Any, names: Iterable[str], values: Mapping[str, Any], prefix: str = "", hint: str = ""
) -> InputError:
    """Return the error that an architecture is not supported, with the names that work. The error names the
    settings of a config.json, or of GGUF metadata with this prefix, that no supported architecture has, such
    as "a mixture of 128 experts"."""
    obstacles = "; ".join(dict.fromkeys(_obstacles(values, prefix)))
    reason = f" ({obstacles})" * bool(obstacles)
    return InputError(
        f"architecture {brief(name)}{reason} is not supported; supported: {', '.join(names)}{hint}"
    )


def _obstacles(values: Mapping[str, Any], prefix: str) -> Iterator[str]:
    if values.get("is_encoder_decoder") is True:
        yield "an encoder and a decoder"
    if isinstance(values.get("text_config"), dict):
        yield "a model of texts and other inputs"
        yield from _obstacles(values["text_config"], prefix)
    kinds = values.get("layer_types")
    if isinstance(kinds, list) and all(isinstance(kind, str) for kind in kinds):
        for other in dict.fromkeys(kind for kind in kinds if kind not in _KNOWN_LAYERS):
            layers = [i for i, kind in enumerate(kinds) if kind == other]
            yield f"{brief(other.replace('_', ' '))[1:-1]} in layers {ranges(layers)}"
    for key, words in _COUNTS.items():
        count = values.get(prefix + key)
        if is_count(count) and count:
            yield words.format(f"{count:,}")

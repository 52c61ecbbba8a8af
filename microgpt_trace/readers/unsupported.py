"""Say what stands in the way of a model whose architecture is not supported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..decoder.settings import is_count
from ..text.brief import brief
from ..text.wording import ranges

_COUNTS = {  # keys of config.json, or of GGUF metadata without the prefix -> what a number above 0 means
    "num_experts": "a mixture of {} experts", "num_local_experts": "a mixture of {} experts",
    "n_routed_experts": "a mixture of {} experts", "expert_count": "a mixture of {} experts",
    "kv_lora_rank": "keys and values compressed to {} channels",
    "attention.kv_lora_rank": "keys and values compressed to {} channels",
    "ssm_state_size": "a state space of {} channels", "state_size": "a state space of {} channels",
    "ssm.state_size": "a state space of {} channels",
}  # fmt: skip
_KNOWN_LAYERS = ("full_attention", "sliding_attention")


def unsupported(name: Any, names: Iterable[str], obstacles: str, hint: str = "") -> str:
    """Return the message that an architecture is not supported, with the `obstacles` and the names that
    work."""
    reason = f" ({obstacles})" * bool(obstacles)
    return f"architecture {brief(name)}{reason} is not supported; supported: {', '.join(names)}{hint}"


def obstacles(values: Mapping[str, Any], prefix: str = "") -> str:
    """Return the settings of a config.json, or of GGUF metadata with this prefix, that no supported
    architecture has, such as "a mixture of 128 experts". Return "" if no setting shows an obstacle."""
    return "; ".join(dict.fromkeys(_obstacles(values, prefix)))


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

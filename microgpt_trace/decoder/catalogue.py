"""Catalogue: all supported architectures and their events. This module needs no model and no file.

A module of architectures/ is imported when it is first needed. If the model of a dump is not known, the
arrays of the dump are identified by the names of events.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from ..hooks.event import EventSpec
from ..plans import microgpt_plan
from ..plans.blocks import BIASES
from ..plans.kinds import Choice, Kind, Linear, Rotation
from ..plans.plan import Operation, Plan, kind_of, layer_of, prefix_of
from ..plans.rope import Rope

if TYPE_CHECKING:
    from .architecture import Architecture

ARCHITECTURES: Mapping[str, str] = {  # the name in config.json -> the module
    "llama": "llama",
    "mistral": "llama",
    "qwen2": "llama",
    "qwen3": "llama",
    "gpt2": "gpt2",
    "smollm3": "llama",
    "olmo2": "olmo2",
    "gpt_neox": "gpt_neox",
    "gemma2": "gemma",
    "gemma3_text": "gemma",
    "phi3": "phi3",
    "granite": "granite",
    "mixtral": "mixtral",
    "qwen3_moe": "qwen3_moe",
    "qwen2_moe": "qwen2_moe",
    "gpt_oss": "gpt_oss",
    "deepseek_v3": "deepseek",
    "deepseek_v2": "deepseek",
    "glm4_moe_lite": "deepseek",
    "glm4_moe": "glm4_moe",
    "minimax_m2": "glm4_moe",
    "olmo3": "olmo2",
    "exaone4": "olmo2",
    "glm4": "phi3",
    "gemma": "gemma",
    "cohere": "layer_norms",
    "cohere2": "layer_norms",
    "stablelm": "layer_norms",
    "phi": "layer_norms",
    "starcoder2": "layer_norms",
    "gemma4_text": "gemma4",
    "ministral3": "llama_siblings",
    "ernie4_5": "llama_siblings",
    "hunyuan_v1_dense": "llama_siblings",
    "apertus": "llama_siblings",
    "bloom": "falcon",
    "mpt": "falcon",
    "falcon": "falcon",
    "llama4_text": "llama4",
}
GGUF_NAMES = {  # names in GGUF files that differ
    "gptneox": "gpt_neox", "gemma3": "gemma3_text", "qwen3moe": "qwen3_moe", "qwen2moe": "qwen2_moe",
    "gpt-oss": "gpt_oss", "llama with experts": "mixtral", "olmo2 with windows": "olmo3",
    "command-r": "cohere", "phi2": "phi",
    "deepseek2": "deepseek_v3", "deepseek2 with softmax": "deepseek_v2", "glm4moe": "glm4_moe",
    "minimax-m2": "minimax_m2", "gemma4": "gemma4_text",
    "mistral3": "ministral3", "llama4": "llama4_text", "hunyuan-dense": "hunyuan_v1_dense",
}  # fmt: skip


def architecture_named(name: str) -> Architecture:
    """Return an architecture by its name in `ARCHITECTURES`. Raises KeyError for other names."""
    module = import_module(f"{__package__}.architectures.{ARCHITECTURES[name]}")
    found: Architecture = module.ARCHITECTURES[name]
    return found


SIZES: Any = {
    "n_layer": 1, "n_embd": 2, "n_head": 1, "n_kv_head": 1, "head_dim": 2, "n_inner": 2, "vocab_size": 2,
    "context_length": 2, "norm_eps": 1e-5, "rope": Rope(1e4),
}  # fmt: skip


@cache
def example(name: str) -> Plan:
    """Return an example plan of an architecture, with every optional row. Usually, a plan has one layer and
    one head."""
    each = architecture_named(name)
    usual: dict[str, Any] = {"architecture": name, **SIZES, "tied": True, "biases": BIASES}
    return each.config(**{**usual, **each.example}).plan


@cache
def examples() -> tuple[Plan, ...]:
    """Return an example plan of microGPT and of each family."""
    own: Any = SimpleNamespace(**SIZES, activation="ReLU", biases=(), tied=False)
    return (microgpt_plan.plan_of(own), *map(example, families()))


def families() -> tuple[str, ...]:
    """Return the first architecture of each family."""
    return tuple(dict.fromkeys(family_of(name)[0] for name in ARCHITECTURES))


def family_of(name: str) -> tuple[str, ...]:
    """Return the architectures of a module of architectures/ that share the names of parameters with this
    architecture. They also share the modules of transformers."""
    module, names = ARCHITECTURES[name], architecture_named(name).names
    siblings = [own for own, other in ARCHITECTURES.items() if other == module]
    return tuple(own for own in siblings if architecture_named(own).names is names)


@cache
def known_rows() -> Mapping[str, Operation]:
    """Return a row for every event of any architecture. The keys are names of events without layer and head.
    Every architecture computes its events in the order of these keys."""
    order: list[str] = []
    rows: dict[str, Operation] = {}
    for plan in examples():
        place = 0
        for row in plan.values():
            kind = kind_of(row.name)
            if kind not in rows:
                order.insert(place, kind)
                rows[kind] = row
            place = order.index(kind) + 1
    return {kind: rows[kind] for kind in order}


def known_row(name: str) -> Operation | None:
    """Return a row for the event with this name, or None if no architecture has such an event."""
    return known_rows().get(kind_of(name))


def has_keys(name: str) -> bool:
    """Return True for attention scores and weights, whose last axis has an entry for each key."""
    row = known_row(name)
    return row is not None and row.causal


def kind_named(event: str | EventSpec) -> Kind | None:
    """Return the kind of an event. If there is only a name, and no architecture has this event, return
    None."""
    name = event if isinstance(event, str) else event.name
    row = event if isinstance(event, Operation) else known_row(name)
    return None if row is None else row.kind


@cache
def kinds_in_heads() -> frozenset[str]:
    """Return the names, without a layer, of the events whose channels are heads side by side."""
    return frozenset(kind_of(name) for plan in examples() for name in plan.heads)


@cache
def turned_names() -> frozenset[str]:
    """Return the names, without a layer, of the events and parameters whose channels RoPE turns in pairs."""
    names: set[str] = set()
    for plan in examples():
        for row in (row for rotation in plan.of_kind(Rotation) for row in plan.behind(rotation.name)):
            names |= {row.name, *(row.kind.names if isinstance(row.kind, Linear) else ())}
    return frozenset(map(kind_of, names))


@cache
def leaving_kinds() -> tuple[str, ...]:
    """Return the names, without a layer, of the events that contain the residual stream after a layer."""
    return tuple(dict.fromkeys(kind_of(plan.streams[-1]) for plan in examples()))


@cache
def _choices() -> Mapping[str, str]:
    return {kind_of(name): kind_of(own) for plan in examples() for name, own in plan.chosen_by.items()}


def choice_of(name: str) -> str | None:
    """Return the event of chosen experts whose order the parts of an event follow, or None."""
    choice = _choices().get(kind_of(name))
    return None if choice is None else prefix_of(name) + choice


@cache
def routers() -> frozenset[str]:
    """Return the names, without a layer, of the events of router logits."""
    return frozenset(kind_of(row.inputs[0]) for plan in examples() for row in plan.of_kind(Choice))


def place_of(name: str) -> tuple[float, int, str]:
    """Return a key that sorts names of events in order of computation. Other names come last."""
    kinds, row = list(known_rows()), known_row(name)
    if row is None:
        return math.inf, len(kinds), name
    layer, outside = layer_of(name), -1 if row.stage == "embedding" else math.inf
    return (outside if layer is None else layer), kinds.index(kind_of(name)), name

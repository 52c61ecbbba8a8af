"""What the tensors of other engines are called, and which events of ours they are. Knows no file.

A name is normalised once (words and numbers in lower case, separators gone: "model.layers.3.mlp.up_proj",
"model_layers_3_mlp_up_proj.npy" and "model/layers/3/mlp/up-proj" are one name) and looked up in one table,
where # stands for the number of the layer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from ..hooks.names import ALIASES
from .engine_names import (
    ADJACENT_NAMES,
    ENTERS,
    ENTERS_LAYER,
    ENTRANCES,
    MORE_NAMES,
    NAMES,
    REFUSED,
    SECOND_NAMES,
    SPELLINGS,
)

_SUFFIXES = (".npy", ".bin")
_ALLOWED = re.compile(r"[A-Za-z0-9 ._/\\():-]+")
_WORDS = re.compile(r"[a-z]+|[0-9]+|#")
_MAX_DIGITS, _MAX_NUMBERS = 4, 8
# Below GPT-2's stack wte is a microGPT's matrix, and h0 any hidden state.
_TOLD_BY_ITSELF = re.compile(r"model\.transformer\.(h\.#\.(ln|attn|mlp).*|ln_f)")


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a name stands for.

    `events` are ours; of several the values lie side by side in the rows (fused products), in that
    order. Without events `reason` says why a name that is known cannot be compared. `adjacent` says that
    the rows may come in GGUF's order, pairs of RoPE next to each other. `layout` is one of Recorded's.
    `second` says that the name gives way where another tensor has the event's first name: the output
    of `mlp` is that of `mlp.down_proj`, and a dump of all modules holds both. Of several `candidates` the
    first that a model has is meant.
    """

    events: tuple[str, ...] = ()
    reason: str = ""
    adjacent: bool = False
    layout: str = ""
    second: bool = False
    candidates: tuple[str, ...] = ()


def meaning_of(name: str) -> Meaning | None:
    """The meaning of a name in a dump: ours, apr's stages with a layer ("layer-0/ffn_gate"), Hugging
    Face's module paths, llama.cpp's graph names, TransformerLens's hooks, our reference files' keys.
    None for a name that is none of these.

    Some names say less than they seem to. apr's `qkv_matmul` is taken before the biases: a model that has
    them must refuse it. The last of transformers' `hidden_states` is the final norm's output, which no name
    tells. TransformerLens's `blocks.0.hook_resid_pre`, `mlp.hook_pre` and `mlp.hook_post` and llama.cpp's
    `Qcur` and `Kcur` are other events where there are positions, no gate or no RoPE: they have candidates.
    llama.cpp's `ffn_gate` and `ffn_up` are taken before the biases.
    """
    name = without_suffix(name)
    if name.endswith((".weight", ".bias")):
        return Meaning(reason="a parameter, not an activation")
    if not _ALLOWED.fullmatch(name):
        return None
    words = _WORDS.findall(name.lower())
    if words[:1] in (["backward"], ["update"]):
        return Meaning(reason="gradients and updates are not compared")
    return _looked_up(words) or _looked_up(_without_wrapping(words))


def without_suffix(name: str) -> str:
    """A tensor's name without the suffix of its file."""
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name


def is_event(name: str) -> bool:
    """Whether a forward event of either family has exactly this name, in a model of enough layers."""
    if "#" in name:
        return False
    pattern = re.sub(r"^layer(0|[1-9][0-9]{0,3})\.", "layer#.", name)
    return re.sub(r"\.head[0-9]+$", ".head#", pattern) in _own_events()


def known_events() -> list[str]:
    """The names of all events, with # for the numbers of layers and heads."""
    return list(_own_events())


def _without_wrapping(words: list[str]) -> list[str]:
    """A module's path inside the model, without wrappers before it and "output" after it."""
    while words[:1] in (["base"], ["model"], ["module"]):
        words = words[1:]
    if words[-2:-1] in (["output"], ["out"]) and words[-1] == "0":  # the first of a module's outputs
        words = words[:-1]
    return ["model", *(words[:-1] if words[-1:] in (["output"], ["out"]) else words)]


def _looked_up(words: list[str]) -> Meaning | None:
    """The row of the table that these words have, its events with their numbers."""
    table = _table()
    if found := table.get(".".join(words)):
        return found
    numbers = [i for i, word in enumerate(words) if word.isdigit() and len(word) <= _MAX_DIGITS]
    if len(numbers) > _MAX_NUMBERS:
        return None
    for i in numbers:
        if found := table.get(".".join([*words[:i], "#", *words[i + 1 :]])):
            return _for_layer(found, int(words[i]))
    if len(numbers) == 2 and words[-2:-1] == ["head"] and numbers[-1] == len(words) - 1:
        found = table.get(".".join([*words[:1], "#", *words[2:-1], "#"]))
        layer, head = int(words[1]), int(words[-1])
        return found and Meaning((numbered(found.events[0], layer).replace("#", str(head)),))
    return None


def _for_layer(meaning: Meaning, layer: int) -> Meaning:
    candidates = tuple(numbered(event, layer) for event in meaning.candidates)
    if not layer and meaning.events == (ENTERS_LAYER,):
        candidates = ENTRANCES
    events = tuple(numbered(event, layer) for event in meaning.events)
    return replace(meaning, events=events, candidates=candidates)


def numbered(event: str, layer: int) -> str:
    """An event with the number of its layer: layer#.attn.q -> layer3.attn.q"""
    if event in ENTERS:
        return f"layer{layer - 1}.mlp.residual" if layer else ENTERS[event]
    return event.replace("#", str(layer), 1)


_APR_SECOND = ("qkv_matmul", "layer_output")  # where there is qkv_bias, or post_ffn_residual


@cache
def _own_events() -> dict[str, None]:
    """The forward events of both families in order, with # for the numbers of layers and heads."""
    from ..architecture.plans.catalogue import examples

    names = [_of_any_layer(name) for plan in examples() for name in plan]
    return dict.fromkeys(name.replace("head0", "head#") for name in names)


def _of_any_layer(name: str) -> str:
    return name.replace("layer0", "layer#")


@cache
def names_of(engine: str) -> dict[str, tuple[str, ...]]:
    """The events of each name that an engine has in the table, in order of computation, names as in the table
    and events with # for the layer: {"attn.c_attn": ("layer#.attn.q", "layer#.attn.k", "layer#.attn.v")}"""
    engines, *rows = (line.split() for line in NAMES.strip().split("\n"))
    column = engines.index(engine)
    return {
        row[column]: tuple(f"layer#.{e}" if e.startswith(("attn.", "mlp.")) else e for e in row[0].split("+"))
        for row in rows
        if row[column] != "-"
    }


def module_meaning(engine: str, path: str) -> Meaning:
    """The meaning of what a module of any layer gives, "" for the layer itself; ".input" behind the path asks
    for what it reads. Its events have # for the layer."""
    return _table()[_key(SPELLINGS[engine][0] + path)]


def _spelled(engine: str, name: str, events: Sequence[str]) -> str:
    in_layer, in_model, after = SPELLINGS[engine]
    return f"{in_layer}{name}{after}" if "#" in events[0] else in_model + name


def _read_by(engine: str) -> Iterator[tuple[str, Meaning]]:
    """The inputs of the modules that read one event, as the plan with all events of the engine has it. The
    name of an input is a second one where a module gives that event."""
    from ..architecture.plans.catalogue import examples

    named = names_of(engine)
    given = {event for events in named.values() for event in events}
    plans = ({_of_any_layer(name): row for name, row in plan.items()} for plan in examples())
    rows = next(rows for rows in plans if given <= rows.keys())
    entered = {first: entering for entering, first in ENTERS.items()}
    for name, events in named.items():
        inputs = rows[events[0]].inputs
        if len(inputs) == 1 and events != ("final.norm",):  # what that reads is the last layer's
            read = _of_any_layer(inputs[0])
            meaning = Meaning((entered.get(read, read),), second=read in given)
            yield f"{_spelled(engine, name, events)}.input", meaning


@cache
def _table() -> dict[str, Meaning]:
    """Every known name, normalised, and what it means."""
    named = {name: Meaning((name,)) for name in _own_events()}
    named |= {name: Meaning(reason=reason) for name, reason in REFUSED.items()}
    named |= {
        _spelled(engine, name, events): Meaning(events)
        for engine in SPELLINGS
        for name, events in names_of(engine).items()
    }
    for engine in ("transformers", "GPT-2"):
        named |= dict(_read_by(engine))
    named |= {name: _meaning(said) for name, said in MORE_NAMES.items()}
    named |= {name: replace(_meaning(said), second=True) for name, said in SECOND_NAMES.items()}
    named |= {name: replace(_meaning(said), adjacent=True) for name, said in ADJACENT_NAMES.items()}
    named["kqv-#"] = Meaning(("layer#.attn.context",), layout="HTD", second=True)  # build_attn_mha
    below = [name for name in named if _TOLD_BY_ITSELF.fullmatch(name)]
    named |= {name.replace("transformer.", ""): named[name] for name in below}
    for stage in ALIASES:
        named |= _apr(stage)
    return {_key(name): meaning for name, meaning in named.items()}


def _key(name: str) -> str:
    return ".".join(_WORDS.findall(name.lower()))


def _meaning(said: str) -> Meaning:
    """Several events of one name stand with a space between them, candidates with a |."""
    first, *others = said.split(" | ")
    events = (first,) if first in ENTERS else tuple(first.split())
    return Meaning(events, candidates=(first, *others) if others else ())


def _apr(stage: str) -> dict[str, Meaning]:
    """A stage of apr trace as its files are called: below a layer's folder, or for the whole model."""
    # The alias qkv_bias has no events, because it selects nothing that qkv_matmul does not.
    aliased = ALIASES["qkv_matmul" if stage == "qkv_bias" else stage]
    events = tuple(event.replace("*", "#") for event in aliased)
    if stage == "embedding":  # per layer for apr: the file lies in layer-0
        return dict.fromkeys(("embedding", "layer-#/embedding"), Meaning(events[:1]))
    if not events:
        return dict.fromkeys((stage, f"layer-#/{stage}"), Meaning(reason=_NO_COUNTERPART))
    if "#" not in events[0]:
        return {stage: Meaning(events)}
    whole = {stage: Meaning(reason="a stage of apr trace without its layer: --map says which")}
    return whole | {f"layer-#/{stage}": Meaning(events, second=stage in _APR_SECOND)}


_NO_COUNTERPART = "a stage of apr trace that has no counterpart here"

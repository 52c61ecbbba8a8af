"""Find the event for the name of a tensor in another engine.

A name is normalised to words and numbers in lower case, without separators. "model.layers.3.mlp.up_proj",
"model_layers_3_mlp_up_proj.npy" and "model/layers/3/mlp/up-proj" become the same normalised name. A table
maps normalised names, with # for the layer number, to events.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache

from ..decoder.catalogue import architecture_named, example, examples, families
from ..hooks.names import ALIASES
from ..plans.plan import kind_of
from ..text.frozen import frozen
from . import engine_names
from .torch_modules import LAST_OUTPUT, LAYER_INPUT, modules_of, numbered, of_any_layer

_ALLOWED = re.compile(r"[A-Za-z0-9 ._/\\():-]+")
_WORDS = re.compile(r"[a-z]+|[0-9]+|#")
_MAX_DIGITS, _MAX_NUMBERS = 4, 8
# Names that are clear without "transformer.". Not wte (perhaps a matrix) and h0 (perhaps a hidden state).
_CLEAR_NAME = re.compile(r"model\.transformer\.(h\.#\.(ln|attn|mlp).*|ln_f)")


@frozen
class Meaning:
    """The meaning of a name in a dump: one event, several events, or the reason why no event matches.

    - `events`: the events in the tensor. A fused tensor contains several events side by side, in the order of
      the list.
    - `reason`: the reason why the tensor cannot be compared, if there is no event.
    - `adjacent`: True if the two channels of a RoPE pair may be side by side, as in GGUF files.
    - `layout`: the layout of the tensor, with the values of `Recorded.layout`.
    - `by_head`: True if the rows of a fused tensor are q, k and v of the first head, then of the next head.
    - `second`: True if the name counts only in dumps that lack the first name of the event. For instance, a
      dump of all modules contains both `mlp` and `mlp.down_proj`, whose outputs are equal.
    - `candidates`: a list of events. The tensor is the first candidate that the model computes.
    """

    events: tuple[str, ...] = ()
    reason: str = ""
    adjacent: bool = False
    layout: str = ""
    by_head: bool = False
    second: bool = False
    candidates: tuple[str, ...] = ()


def meaning_of(name: str, architecture: str = "") -> Meaning | None:
    """Return the meaning of a name in a dump of an architecture, or None for an unknown name. Without an
    architecture, the first architecture that knows the name decides.

    Known names are the names of our events, stages of apr with a layer ("layer-0/ffn_gate"), module paths of
    Hugging Face, graph names of llama.cpp, hooks of TransformerLens, and keys of our reference files.

    Some names need care:
    - apr's `qkv_matmul` and llama.cpp's `ffn_gate` and `ffn_up` lack biases. The caller must refuse
      `qkv_matmul` for a model with biases.
    - In transformers, the last tensor of `hidden_states` is the output of the final norm, but no name shows
      which tensor is the last.
    - The event of some names depends on the model, so these names have candidates. Examples are
      `mlp.hook_pre` and `mlp.hook_post` of TransformerLens, and `Qcur` and `Kcur` of llama.cpp.
    """
    name = plain_name(name)
    if not name:
        return Meaning(reason=engine_names.NOT_FIRST)
    if name.endswith((".weight", ".bias")):
        return Meaning(reason="a parameter, not an activation")
    if not _ALLOWED.fullmatch(name):
        return None
    words = _WORDS.findall(name.lower())
    if words[:1] in (["backward"], ["update"]):
        return Meaning(reason="gradients and updates are not compared")
    known = [architecture] if architecture else families()
    spellings = [*_spellings(words), *_spellings(_without_wrapping(words))]
    found = (_look_up(spellings, own) for own in known)
    return next(filter(None, found), None)


def plain_name(name: str) -> str:
    """Return the name of a tensor without the extension of its file. For files of msprobe or SGLang's dumper,
    return the name of the value in the file, or "" if the value of msprobe is no first output of a module."""
    name = without_suffix(name)
    if found := re.fullmatch(engine_names.MSPROBE_FILE, name):
        return found[1] if found[2] == "forward.0.output.0" else ""
    if found := re.fullmatch(engine_names.DUMPER_FILE, name):
        layer = re.search(engine_names.DUMPER_LAYER, name)
        inner = found[1]
        return f"layers.{layer[1]}.{inner}" if layer and not re.search("[0-9]", inner) else inner
    return name


def meanings_of(names: Sequence[str], architecture: str) -> dict[str, Meaning | None]:
    """Return the meaning of each name of a dump of an architecture. A dump with fused products of vLLM or
    SGLang has other values under the names of layers and activation functions."""
    found = {name: meaning_of(name, architecture) for name in names}
    plain = {name: plain_name(name) for name in names}
    returned = " ".join(modules_of(architecture).returned)
    fused = [re.fullmatch(engine_names.FUSED, own) for own in plain.values()]
    if any(one and one[1] not in returned for one in fused):
        for name, own in plain.items():
            if re.fullmatch(engine_names.PAIRED, own):
                found[name] = Meaning(reason=engine_names.WITHOUT_RESIDUAL)
            elif own.endswith("mlp.act_fn"):  # SiluAndMul
                found[name] = meaning_of(own.replace("act_fn", "down_proj.input"), architecture)
    return found


def architecture_of(names: Sequence[str]) -> str:
    """Return the architecture that knows most of these names of a dump, or the first such architecture."""
    return max(families(), key=lambda own: sum(meaning_of(name, own) is not None for name in names))


def without_suffix(name: str) -> str:
    """Return a tensor's name without the extension of its file."""
    return re.sub(r"\.(npy|bin|pt|pth)$", "", name)


def is_event(name: str) -> bool:
    """Return True if a forward event of microGPT or a decoder has exactly this name, in any layer."""
    if "#" in name:
        return False
    pattern = re.sub(r"^layer(0|[1-9][0-9]{0,3})\.", "layer#.", name)
    return re.sub(r"\.head[0-9]+$", ".head#", pattern) in known_events()


def _without_wrapping(words: list[str]) -> list[str]:
    """Remove wrappers such as "base" from the start of a module's path, and "output" from its end."""
    while words[:1] in (["base"], ["model"], ["module"], ["language"]):
        words = words[1:]
    if words[-2:-1] in (["output"], ["out"]) and words[-1] == "0":  # index 0 is the first output of a module
        words = words[:-1]
    return ["model", *(words[:-1] if words[-1:] in (["output"], ["out"]) else words)]


def _spellings(words: list[str]) -> Iterator[tuple[str, int, str]]:
    """Yield the name that consists of `words`, and the name with # in place of a layer number, and perhaps of
    a head number, with these numbers."""
    yield ".".join(words), 0, ""
    numbers = [i for i, word in enumerate(words) if word.isdigit() and len(word) <= _MAX_DIGITS]
    if len(numbers) <= _MAX_NUMBERS:
        for i in numbers:
            yield ".".join([*words[:i], "#", *words[i + 1 :]]), int(words[i]), ""
        if numbers == [1, len(words) - 1] and words[-2] == "head":
            yield ".".join([*words[:1], "#", *words[2:-1], "#"]), int(words[1]), words[-1]


def _look_up(spellings: list[tuple[str, int, str]], architecture: str) -> Meaning | None:
    """Return the meaning of the first spelling that the architecture knows."""
    table = _table(architecture)
    for name, layer, head in spellings:
        if meaning := table.get(name):
            if head:
                return Meaning((numbered(meaning.events[0], layer).replace("#", head),))
            return _for_layer(meaning, layer, architecture) if "#" in name else meaning
    return None


def _for_layer(meaning: Meaning, layer: int, architecture: str) -> Meaning:
    if meaning.events == (LAYER_INPUT,):
        streams, layer = example(architecture).streams, layer - 1
        if layer < 0:
            return replace(meaning, events=streams[:1], candidates=engine_names.ENTRANCES)
        meaning = replace(meaning, events=(f"layer#.{kind_of(streams[-1])}",))
    candidates = tuple(numbered(event, layer) for event in meaning.candidates)
    events = tuple(numbered(event, layer) for event in meaning.events)
    return replace(meaning, events=events, candidates=candidates)


_APR_SECOND = ("qkv_matmul", "layer_output")  # second names; the first are qkv_bias and post_ffn_residual


@cache
def known_events() -> dict[str, None]:
    """Return all forward events of microGPT and decoders. # stands for layer and head numbers."""
    names = [of_any_layer(name) for plan in examples() for name in plan]
    return dict.fromkeys(name.replace("head0", "head#") for name in names)


def _names_in_engines() -> Iterator[tuple[str, str]]:
    """Yield each name in the table of engines, with the event."""
    (_, *engines), *rows = (line.split() for line in engine_names.NAMES.strip().split("\n"))
    for event, *names in rows:
        for engine, name in zip(engines, names, strict=True):
            in_layer, in_model, after = engine_names.SPELLINGS[engine]
            if name != "-" and event.startswith(("attn.", "mlp.")):
                yield f"{in_layer}{name}{after}", f"layer#.{event}"
            elif name != "-":
                yield in_model + name, event


def _module_names(architecture: str) -> Iterator[tuple[str, Meaning]]:
    """Yield the names of modules and of inputs of modules. The input of a module is a second name of an event
    that another module returns, and so is a module without parameters."""
    modules = modules_of(architecture)

    def spelled(path: str) -> str:
        outer = "" if path == "lm_head" else modules.architecture.names.outer
        return f"model.{outer}{path.removeprefix('model.')}"

    first = next(path for path in modules.read if path.startswith(modules.layers))
    for path, event in modules.read.items():
        if event == LAYER_INPUT and path not in (first, modules.layers):
            continue  # in some models, a later module reads the stream after attention
        if event == LAST_OUTPUT:
            yield f"{spelled(path)}.input", Meaning(reason=engine_names.UNNUMBERED)
        else:
            second = event in modules.of_parameters or event == LAYER_INPUT or path in modules.other
            yield f"{spelled(path)}.input", Meaning((event,), second=second)
            if path.endswith("norm"):  # in vLLM and SGLang, a norm returns (norm, the sum that it reads)
                yield f"{spelled(path)}.1", Meaning((event,), second=second)
        if path.endswith("norm"):
            yield f"{spelled(path)}.0", Meaning(modules.returned.get(path, ()))
    for path, events in modules.other.items():
        yield spelled(path), Meaning(events, second=events[0] in modules.of_parameters)
    heads = tuple(row.name for row in modules.plan.head)
    for path, events in modules.returned.items():
        if path in modules.other:  # an embedding that multiplies its rows
            continue
        if len(heads) > 1 and events == heads[:1]:  # some models neither scale nor cap the logits
            yield spelled(path), Meaning(events, candidates=(heads[0], heads[-1]))
            continue
        yield spelled(path), Meaning(events, by_head=path in modules.split_by_head)
    for path in modules.architecture.unclear_modules:
        yield spelled(path), Meaning(reason=engine_names.UNCLEAR)


@cache
def _table(architecture: str) -> dict[str, Meaning]:
    """Return the meaning of every known name of an architecture, by normalised name."""
    named = {name: Meaning((name,)) for name in known_events()}
    named |= {name: Meaning(reason=reason) for name, reason in engine_names.REFUSED.items()}
    named |= {name: Meaning((event,)) for name, event in _names_in_engines()}
    named |= dict(_module_names(architecture))
    named |= {name: _meaning(text) for name, text in engine_names.MORE_NAMES.items()}
    named |= {name: _meaning(text, second=True) for name, text in engine_names.SECOND_NAMES.items()}
    named |= {name: _meaning(text, adjacent=True) for name, text in engine_names.ADJACENT_NAMES.items()}
    own = architecture_named(architecture)
    named |= {name: Meaning(reason=reason) for name, reason in own.refused_names.items()}
    named |= {name: _meaning(text) for name, text in own.engine_names.items()}
    named["kqv-#"] = Meaning(("layer#.attn.context",), layout="HTD", second=True)  # build_attn_mha
    clear = [name for name in named if _CLEAR_NAME.fullmatch(name)]
    named |= {name.replace("transformer.", ""): named[name] for name in clear}
    for stage in ALIASES:
        named |= _apr(stage)
    if "model.lm_head" in named:  # also a stage of apr, which knows no scaled or capped logits
        named["lm_head"] = named["model.lm_head"]
    return {".".join(_WORDS.findall(name.lower())): meaning for name, meaning in named.items()}


def _meaning(text: str, second: bool = False, adjacent: bool = False) -> Meaning:
    """Parse text from engine_names.py: spaces separate events, and | separates candidates."""
    first, *others = text.split(" | ")
    events = (first,) if first == LAYER_INPUT else tuple(first.split())
    candidates = (first, *others) if others else ()
    return Meaning(events, second=second, adjacent=adjacent, candidates=candidates)


def _apr(stage: str) -> dict[str, Meaning]:
    """Return the meanings of a stage of apr trace by name, with and without a layer."""
    # ALIASES lists the events of qkv_bias under qkv_matmul.
    aliased = ALIASES["qkv_matmul" if stage == "qkv_bias" else stage]
    events = tuple(event.replace("*", "#") for event in aliased)
    if stage == "embedding":  # apr writes this file in layer-0
        return dict.fromkeys(("embedding", "layer-#/embedding"), Meaning(events[:1]))
    if not events:
        reason = "a stage of apr trace that corresponds to none of our events"
        return dict.fromkeys((stage, f"layer-#/{stage}"), Meaning(reason=reason))
    if "#" not in events[0]:
        return {stage: Meaning(events)}
    without_layer = {stage: Meaning(reason="a stage of apr trace without a layer number; use --map")}
    return without_layer | {f"layer-#/{stage}": Meaning(events, second=stage in _APR_SECOND)}

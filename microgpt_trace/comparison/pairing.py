"""Which events two sides have in common, on which tokens; what cannot be compared is refused here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..architecture.plans.catalogue import known_row, place_of
from ..architecture.plans.kinds import Shape
from ..architecture.plans.plan import HEAD_EVENTS, layer_of
from ..dumps.layouts import LAST, OWN, Recorded, fits
from ..dumps.recording import Recording, agreed, of_model
from ..errors import InputError
from ..hooks.event import EventSpec
from ..hooks.names import select_names
from ..text.brief import token_list
from .compared_runs import ComparedRun, ModelRun, RecordedRun, Shapes, first_model, opened
from .read_tokens import tokens_said, with_tokens

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel, TraceInput
    from ..dumps.mapping import NameMap


def prepare_sides(
    sources: Sequence[Any], text: str | None, tokens: Sequence[int] | None, names: NameMap | None,
    layouts: Mapping[str, str],
) -> list[ComparedRun]:  # fmt: skip
    """The sources as sides that read the same tokens. Raises InputError where they do not."""
    if text is not None and tokens is not None:
        raise InputError("--tokens takes the place of a text: give one of the two")
    found = open_all(sources, names)
    models = [source for source in found if not isinstance(source, Recording)]
    _refuse_other_models(models)
    if tokens is None and text is None and names is not None:
        tokens = names.tokens
    if models and tokens is None and text is None:
        found, tokens = _telling(found, models[0])
    recordings = [source for source in found if isinstance(source, Recording)]
    if models:
        inputs = _read_by(models, text, tokens)
        _refuse_other_tokens_of(recordings, models[0], inputs[0].tokens)
        tokens = inputs[0].tokens
    else:
        inputs, tokens = [], _tokens_between(recordings, text, tokens)
    agreed("positions of logits", [(r.origin, r.positions) for r in recordings if "logits" in r.statistics])
    layouts = _by_names(layouts, recordings)
    shapes = _shapes_of(models, recordings, tokens)
    model, reading = models[0] if models else None, iter(inputs)
    return [
        RecordedRun(source, shapes, tokens, layouts, model)
        if isinstance(source, Recording)
        else ModelRun(source, next(reading))
        for source in found
    ]


def open_all(sources: Sequence[Any], names: NameMap | None) -> list[Any]:
    """Each opened, recordings as the first model has events."""
    found = [opened(Path(one), names) if isinstance(one, str | Path) else one for one in sources]
    plan = next((one.plan for one in found if not isinstance(one, Recording)), None)
    return [of_model(one, plan) if plan and isinstance(one, Recording) else one for one in found]


def _read_by(
    models: Sequence[LanguageModel], text: str | None, tokens: Sequence[int] | None
) -> list[TraceInput]:
    """What each model reads; one that names no tokens reads those that another makes of the text. Raises
    InputError where they make other tokens of it."""
    speaking = [model for model in models if model.names_tokens]
    if tokens is None and speaking and len(speaking) < len(models):
        tokens = speaking[0].read(text).tokens
    inputs = [model.read(text if tokens is None else None, tokens) for model in models]
    for model, read in zip(models, inputs, strict=True):
        if read.tokens != inputs[0].tokens:
            raise InputError(
                f"the same text is other tokens: {token_list(inputs[0].tokens)} for {models[0].origin}, "
                f"{token_list(read.tokens)} for {model.origin}; --tokens gives both the same"
            )
    return inputs


def labels_of(inputs: TraceInput) -> tuple[str, ...]:
    """The text of each token; none where the model names no tokens."""
    return () if inputs.labels == tuple(map(str, inputs.tokens)) else inputs.labels


def _refuse_other_models(models: Sequence[LanguageModel]) -> None:
    """Models that are compared are of one family and have as many layers."""
    for first, model in pairwise(models):
        if model.family != first.family:
            raise InputError(f"{first.origin} is a {first.family} and {model.origin} a {model.family}")
        layers, others = first.config.n_layer, model.config.n_layer
        if layers != others:
            raise InputError(
                f"{layers} layers in {first.origin}, {others} in {model.origin}: not the same model"
            )


def _telling(sources: Sequence[Any], model: LanguageModel) -> tuple[list[Any], tuple[int, ...] | None]:
    """The sources, and the tokens that the first recording says that says any; where none does, those whose
    embedding the first holds that holds one, which is then told so. Raises InputError where none tells."""
    told, recordings = list(sources), [i for i, one in enumerate(sources) if isinstance(one, Recording)]
    said = next((sources[i].tokens for i in recordings if sources[i].tokens is not None), None)
    for i in recordings:
        if said is None:
            told[i] = with_tokens(sources[i], model)
            said = told[i].tokens
    if recordings and said is None:
        raise InputError(
            f"{sources[recordings[0]].origin} does not say its tokens, and holds no embedding of "
            f"{model.origin} to tell them from: give the text or --tokens"
        )
    return told, said


def _refuse_other_tokens_of(
    recordings: Sequence[Recording], model: LanguageModel, tokens: tuple[int, ...]
) -> None:
    for recording in recordings:
        own = tokens_said(recording, model, tokens)
        if own is not None and own != tokens:
            how = "holds the embedding of" if recording.tokens is None else "was recorded on"
            raise InputError(
                f"other tokens: {recording.origin} {how} {token_list(own)}, {model.origin} reads "
                f"{token_list(tokens)}"
            )


def _tokens_between(
    recordings: Sequence[Recording], text: str | None, tokens: Sequence[int] | None
) -> tuple[int, ...] | None:
    """The tokens of recordings that no model stands beside: they must say the same ones."""
    if text is not None:
        raise InputError(
            "a text is for a model to read, and neither side is one: --tokens says what was read"
        )
    said = agreed("tokens", [*((r.origin, r.tokens) for r in recordings), ("--tokens", tokens)])
    silent = [r.origin for r in recordings if r.tokens is None]
    if silent and tokens is None:
        raise InputError(f"{silent[0]} does not say its tokens: --tokens says what both sides read")
    return said


def _by_names(layouts: Mapping[str, str], recordings: Sequence[Recording]) -> dict[str, str]:
    """The layouts that were said for names, globs or stages of apr, by name. Raises InputError where a
    glob matches nothing that a dump holds."""
    names = list(dict.fromkeys(name for recording in recordings for name in recording.tensors))
    found: dict[str, str] = {}
    for glob, letters in layouts.items():
        if not names:
            raise InputError(f"layout of {glob!r}: no dump holds arrays")
        found |= dict.fromkeys(select_names([glob], names), letters)
    return found


def _shapes_of(
    models: Sequence[LanguageModel], recordings: Sequence[Recording], tokens: Sequence[int] | None
) -> Shapes:
    """The shapes of our events: of the models, which must have the same, or else of the recordings."""
    length = len(tokens or ())
    if not models:
        return _shapes_between(recordings, length)
    shapes = models[0].plan.shapes(length)
    for model in models[1:]:
        for name, other in model.plan.shapes(length).items():
            if shapes.get(name, other) != other:
                raise InputError(
                    f"{name}: {list(shapes[name])} in {models[0].origin}, {list(other)} in {model.origin}: "
                    "not the same model"
                )
    return shapes


def event_specs_of(sides: Sequence[ComparedRun]) -> dict[str, EventSpec]:
    """Every event that a side has, in order of computation."""
    model = first_model(sides)
    if model is not None:
        specs = model.model.hooks.specs
        return {name: spec for name, spec in specs.items() if name in model.shapes}
    names = sorted({name for side in sides for name in side.names}, key=place_of)
    rows = ((name, known_row(name)) for name in names)
    return {n: EventSpec(n, row.stage, layer_of(n), "", causal=row.causal) for n, row in rows if row}


def paired_names(a: ComparedRun, b: ComparedRun, specs: Mapping[str, EventSpec]) -> list[str]:
    """The events that both sides have, in order of computation. Raises InputError where there is none."""
    common = {*a.names} & {*b.names}
    if not common & specs.keys():
        raise InputError(
            f"{a.origin} and {b.origin} have no event in common{_hint(a)}{_hint(b)}; --suggest-map drafts a "
            "map of the names"
        )
    return [name for name in specs if name in common]


def _hint(side: ComparedRun) -> str:
    names = [unpaired.name for unpaired in side.unpaired[:3]] or side.names[:3]
    return f"; {side.origin} has {', '.join(names)}" if names and isinstance(side, RecordedRun) else ""


# --- Shapes where no model tells them ---------------------------------------------------------------


def _shapes_between(recordings: Sequence[Recording], length: int) -> dict[str, Shape]:
    """The shape that every event must have for all recordings to hold it, for `length` tokens.

    Events that lie side by side in a tensor are left out: nothing tells where one ends. Raises
    InputError for a tensor that is no rows of so many tokens.
    """
    shapes: dict[str, Shape] = {}
    for name in dict.fromkeys(name for recording in recordings for name in recording.tensors):
        stored = [recording.tensors[name] for recording in recordings if name in recording.tensors]
        if not any(recorded.beside for recorded in stored):
            shapes[name] = _common_shape(name, stored, length)
    for recording in recordings:
        for name, event in recording.statistics.items():
            shapes.setdefault(name, event.shape)
    return shapes


def _common_shape(name: str, stored: Sequence[Recorded], length: int) -> Shape:
    """The first shape that one of the tensors may have and all fit."""
    known = [recorded for recorded in stored if recorded.layout == OWN] or stored
    candidates = [shape for recorded in known for shape in _candidates(name, recorded, length)]
    for shape in candidates:
        if all(fits(name, recorded, {name: shape}) for recorded in stored):
            return shape
    return candidates[0]


def _candidates(name: str, recorded: Recorded, length: int) -> list[Shape]:
    total, stored, layout = math.prod(recorded.shape), recorded.shape, recorded.layout
    if name == "loss":
        return [()]
    if not total:
        raise InputError(f"{recorded.source}: {list(stored)} holds nothing")
    if layout == OWN and name in HEAD_EVENTS:
        return [(length, stored[-1])]
    row = known_row(name)
    square = (length, length) if row is not None and row.causal and length > 1 else ()
    single = math.prod(stored[:-1]) == 1 and len(stored) > 1  # one row, and length of it is not known
    many, rest = divmod(total, length * length if square else length)
    found: list[Shape] = []
    if not rest and not (single and length > 1) and layout != LAST:
        found.append((many, *square) if square else (length, many))
    if square and not total % length:
        found.append((total // length, *square))
    elif not square and layout != OWN and (single or len(stored) == 1 or layout == LAST):
        found.append((length, total))
    if not found:
        raise InputError(f"{recorded.source}: {list(stored)} is no {name} of {length} tokens")
    return found

"""Find the common tokens, shapes and events of two sides. Refuse sides that cannot be compared."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..decoder.catalogue import has_keys, known_row, place_of
from ..dumps.layouts import Recorded, Shapes, fits
from ..dumps.recording import Recording, agreed, of_model
from ..errors import InputError
from ..hooks.event import EventSpec
from ..hooks.names import select_names
from ..naming.user_map import LAST, OWN, TENSORS
from ..plans.kinds import Shape
from ..plans.plan import layer_of, over_tokens
from ..text.brief import token_list
from .compared_runs import ComparedRun, ModelRun, RecordedRun, first_model, open_source
from .own_names import named_sides, need_own_names, specs_by_name
from .read_tokens import NO_TOKENS, TEXT_AND_TOKENS, TokenIds, Tokens, tokens_of, with_tokens

if TYPE_CHECKING:
    from ..models.language_model import LanguageModel, TraceInput
    from ..naming.user_map import NameMap


def prepare_sides(
    sources: Sequence[Any], text: str | None, tokens: TokenIds, names: NameMap | None,
    layouts: Mapping[str, str],
) -> list[ComparedRun]:  # fmt: skip
    """Open the sources and prepare the sides of a comparison. Raises InputError if the tokens differ."""
    if text is not None and tokens is not None:
        raise InputError(TEXT_AND_TOKENS)
    sources = open_all(sources, names)
    models = [source for source in sources if not isinstance(source, Recording)]
    _refuse_other_models(models)
    if tokens is None and text is None and names is not None:
        tokens = names.tokens
    if models and tokens is None and text is None:
        sources, tokens = _with_known_tokens(sources, models[0])
    recordings = [source for source in sources if isinstance(source, Recording)]
    of_events = text is not None or tokens is not None or layouts or (names is not None and names.entries)
    if not models and not of_events and need_own_names(recordings, tokens):
        return [*named_sides(recordings)]
    if models:
        inputs = _read_by(models, text, tokens)
        _refuse_other_tokens_of(recordings, models[0], inputs[0].tokens)
        tokens = inputs[0].tokens
    else:
        inputs, tokens = [], _tokens_between(recordings, text, tokens)
    agreed("positions of logits", [(r.origin, r.positions) for r in recordings if "logits" in r.statistics])
    layouts = _layouts_by_name(layouts, recordings)
    shapes = _shapes_of(models, recordings, tokens)
    model, runs = models[0] if models else None, map(ModelRun, models, inputs)
    return [
        RecordedRun(one, shapes, tokens, layouts, model) if isinstance(one, Recording) else next(runs)
        for one in sources
    ]


def open_all(sources: Sequence[Any], names: NameMap | None) -> list[Any]:
    """Open the sources that are paths. If a tensor fits several events, the first model decides."""
    sources = [open_source(Path(one), names) if isinstance(one, str | Path) else one for one in sources]
    model = next((one for one in sources if not isinstance(one, Recording)), None)
    return [of_model(one, model) if model and isinstance(one, Recording) else one for one in sources]


def _read_by(models: Sequence[LanguageModel], text: str | None, tokens: TokenIds) -> list[TraceInput]:
    """Return the input of each model. A model without a vocabulary reads the tokens of another model. Raises
    InputError if the models split the text into different tokens."""
    with_vocabulary = [model for model in models if model.names_tokens]
    if tokens is None and with_vocabulary and len(with_vocabulary) < len(models):
        tokens = with_vocabulary[0].read(text).tokens
    inputs = [model.read(text if tokens is None else None, tokens) for model in models]
    for model, own in zip(models, inputs, strict=True):
        if own.tokens != inputs[0].tokens:
            raise InputError(
                f"the models split the text into different tokens: {models[0].origin} into "
                f"{token_list(inputs[0].tokens)}, {model.origin} into {token_list(own.tokens)}; give "
                "both models the same tokens with --tokens"
            )
    return inputs


def labels_of(inputs: TraceInput) -> tuple[str, ...]:
    """Return the text of each token, or () if the model has no vocabulary."""
    return () if inputs.labels == tuple(map(str, inputs.tokens)) else inputs.labels


def _refuse_other_models(models: Sequence[LanguageModel]) -> None:
    """Raise InputError if the models differ in their family or their number of layers."""
    for first, model in pairwise(models):
        if model.family != first.family:
            raise InputError(f"{first.origin} is a {first.family}, but {model.origin} is a {model.family}")
        layers, others = first.config.n_layer, model.config.n_layer
        if layers != others:
            numbers = f"{first.origin} has {layers} layers and {model.origin} {others}"
            raise InputError(f"{numbers}: not the same model")


def _with_known_tokens(sources: Sequence[Any], model: LanguageModel) -> tuple[list[Any], Tokens]:
    """Return the sources, and the tokens of the first recording that has tokens. If no recording has tokens,
    read the tokens from the first recording with rows of the embedding, and store the tokens in this
    recording. Raises InputError if no recording has tokens or rows of the embedding."""
    sources, recordings = list(sources), [i for i, one in enumerate(sources) if isinstance(one, Recording)]
    tokens = next((sources[i].tokens for i in recordings if sources[i].tokens is not None), None)
    for i in recordings:
        if tokens is None:
            sources[i] = with_tokens(sources[i], model)
            tokens = sources[i].tokens
    if recordings and tokens is None:
        raise InputError(NO_TOKENS.format(sources[recordings[0]].origin, model.origin))
    return sources, tokens


def _refuse_other_tokens_of(
    recordings: Sequence[Recording], model: LanguageModel, tokens: tuple[int, ...]
) -> None:
    for recording in recordings:
        own = tokens_of(recording, model, tokens)
        if own is not None and own != tokens:
            how = "contains the embedding of" if recording.tokens is None else "was recorded on"
            raise InputError(
                f"different tokens: {recording.origin} {how} {token_list(own)}, {model.origin} reads "
                f"{token_list(tokens)}"
            )


def _tokens_between(recordings: Sequence[Recording], text: str | None, tokens: TokenIds) -> Tokens:
    """Return the common tokens of recordings without a model. Raises InputError if the tokens differ."""
    if text is not None:
        raise InputError(
            "only a model can read a text, and neither side is a model: give the token ids with --tokens"
        )
    common = agreed("tokens", [*((r.origin, r.tokens) for r in recordings), ("--tokens", tokens)])
    silent = [r.origin for r in recordings if r.tokens is None]
    if silent and tokens is None:
        raise InputError(f"{silent[0]} has no token ids: give the tokens of both sides with --tokens")
    return common


def _layouts_by_name(layouts: Mapping[str, str], recordings: Sequence[Recording]) -> dict[str, str]:
    """Return the layout of each event that matches a name, a glob or a stage of apr. Raises InputError if a
    name, glob or stage matches no event of a dump."""
    names = list(dict.fromkeys(name for recording in recordings for name in recording.tensors))
    by_name: dict[str, str] = {}
    for glob, letters in layouts.items():
        if not names:
            raise InputError(f"layout of {glob!r}: no dump has arrays")
        by_name |= dict.fromkeys(select_names([glob], names), letters)
    return by_name


def _shapes_of(models: Sequence[LanguageModel], recordings: Sequence[Recording], tokens: TokenIds) -> Shapes:
    """Return the shapes of the events in the models, which must agree, or else in the recordings."""
    length = len(tokens or ())
    if not models:
        return _shapes_between(recordings, length)
    shapes = models[0].plan.shapes(length)
    for model in models[1:]:
        for name, other in model.plan.shapes(length).items():
            if shapes.get(name, other) != other:
                raise InputError(
                    f"{name} is {list(shapes[name])} in {models[0].origin} and {list(other)} in "
                    f"{model.origin}: not the same model"
                )
    return shapes


def event_specs_of(sides: Sequence[ComparedRun]) -> dict[str, EventSpec]:
    """Return the events of the first model, or else of all recordings, in order of computation."""
    model = first_model(sides)
    if model is not None:
        return {name: spec for name, spec in model.model.hooks.specs.items() if name in model.shapes}
    if all(isinstance(side, RecordedRun) and side.recording.names_of == TENSORS for side in sides):
        apart = [own.name for side in sides for own in side.unpaired]
        return specs_by_name([*sides[0].names, *apart])
    names = sorted({name for side in sides for name in side.names}, key=place_of)
    rows = ((name, known_row(name)) for name in names)
    return {n: EventSpec(n, row.stage, layer_of(n), "", causal=row.causal) for n, row in rows if row}


def paired_names(a: ComparedRun, b: ComparedRun, specs: Mapping[str, EventSpec]) -> list[str]:
    """Return the common events of both sides, in order of computation. Raises InputError if the sides share
    no event."""
    common = {*a.names} & {*b.names}
    if not common & specs.keys():
        raise InputError(
            f"{a.origin} and {b.origin} have no event in common{_hint(a)}{_hint(b)}; --suggest-map drafts a "
            "map from the names to events"
        )
    return [name for name in specs if name in common]


def _hint(side: ComparedRun) -> str:
    names = [unpaired.name for unpaired in side.unpaired[:3]] or side.names[:3]
    return f"; {side.origin} has {', '.join(names)}" if names and isinstance(side, RecordedRun) else ""


# --- Shapes without a model -------------------------------------------------------------------------


def _shapes_between(recordings: Sequence[Recording], length: int) -> dict[str, Shape]:
    """Return the shape of each event. The shape fits all recordings and `length` tokens. Events that share
    one tensor are left out, because their widths are not known. Raises InputError if the rows of a tensor do
    not fit `length`."""
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
    """Return the first possible shape that fits all tensors, or else the first possible shape."""
    certain = [recorded for recorded in stored if recorded.layout == OWN] or stored
    candidates = [shape for recorded in certain for shape in _candidates(name, recorded, length)]
    for shape in candidates:
        if all(fits(name, recorded, {name: shape}) for recorded in stored):
            return shape
    return candidates[0]


def _candidates(name: str, recorded: Recorded, length: int) -> list[Shape]:
    total, stored, layout = math.prod(recorded.shape), recorded.shape, recorded.layout
    count = length if recorded.rows is None else len(recorded.rows)
    if name == "loss":
        return [()]
    if not total:
        raise InputError(f"{recorded.source}: the shape {list(stored)} has no elements")
    if layout == OWN and over_tokens(name):
        return [(length, stored[-1])]
    square = (length, length) if has_keys(name) and length > 1 else ()
    single = math.prod(stored[:-1]) == 1 and len(stored) > 1  # one row, perhaps the last row of several
    many, rest = divmod(total, count * length if square else count)
    shapes: list[Shape] = []
    if not rest and not (single and count > 1) and layout != LAST:
        shapes.append((many, *square) if square else (length, many))
    if square and not total % length:
        shapes.append((total // length, *square))
    elif not square and layout != OWN and (single or len(stored) == 1 or layout == LAST):
        shapes.append((length, total))
    if not shapes:
        raise InputError(
            f"{recorded.source}: the shape {list(stored)} does not fit {name} of {length} tokens"
        )
    return shapes

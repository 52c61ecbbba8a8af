"""A map drafted for a dump beside a model: which of its names is which event."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..architecture.model import LanguageModel
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..dumps.map_writing import to_toml
from ..dumps.name_suggestion import suggest, unplaced
from ..dumps.recording import Recording
from ..errors import InputError
from ..running.event_stream import EventStream
from .read_tokens import ambiguous, embedding_of, recognise


def drafted_map(sides: Sequence[Any], text: str | None, tokens: Sequence[int] | None) -> str:
    """The TOML of a map from a dump's names to events, for `--map`.

    One side is a dump and the other a model, which runs on the text, the tokens, or those that the dump
    says or whose embedding it holds. Raises InputError where it is otherwise.
    """
    dumps = [side for side in sides if isinstance(side, Recording)]
    models = [side for side in sides if not isinstance(side, Recording)]
    if len(dumps) != 1:
        raise InputError("--suggest-map compares a dump with a model: one of each")
    (dump,), (model,) = dumps, models
    said: tuple[str, ...] = ()
    if text is not None and tokens is not None:
        raise InputError("--tokens takes the place of a text: give one of the two")
    if text is None and tokens is None:
        tokens = dump.tokens or _found_tokens(model, dump)
        if tokens is None:
            raise InputError(
                f"{dump.origin} does not say its tokens, and no array of it is rows of the embedding: give "
                "the text or --tokens"
            )
        said = () if dump.tokens else ambiguous(model, tokens)
    inputs = model.read(text if tokens is None else None, tokens)
    shapes = model.plan.shapes(len(inputs.tokens))
    names = [name for name, spec in model.hooks.specs.items() if name in shapes and not spec.extra]
    with one_blas_thread(), np.errstate(all="ignore"), EventStream(model, inputs, names) as stream:
        found = suggest(dump, model, _values(stream, len(inputs.tokens)), shapes)
    return to_toml(found, unplaced(found, dump), dump, inputs.tokens, said)


def _values(stream: EventStream, length: int) -> Iterator[tuple[str, Array]]:
    """Whole events; logits that come in parts are put together."""
    parts: dict[str, list[Array]] = {}
    for name, value, positions in stream:
        if value.ndim and len(positions) < length:
            parts.setdefault(name, []).append(value)
        else:
            yield name, value
    for name, values in parts.items():
        yield name, np.concatenate(values)


def _found_tokens(model: LanguageModel, dump: Recording) -> tuple[int, ...] | None:
    """The tokens of the first array that is rows of the embedding. Names that stand alone come before
    those of many layers: each array that is none costs a product with the whole embedding."""
    named = dump.tensors.get(embedding_of(model)[0])
    unknown = [left.recorded for left in dump.leftovers if left.readable]
    like = Counter(re.sub("[0-9]+", "#", recorded.source) for recorded in unknown)
    unknown.sort(key=lambda recorded: like[re.sub("[0-9]+", "#", recorded.source)])
    for recorded in [named] if named else unknown:
        tokens = recognise(model, recorded)
        if tokens is not None:
            return tokens
    return None

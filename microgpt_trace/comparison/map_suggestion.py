"""Draft a map from the names of a dump's tensors to the events of a model."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..architecture.model import LanguageModel
from ..architecture.plans.plan import kind_of
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..dumps.name_suggestion import Suggestion, Unplaced, suggest
from ..dumps.recording import Recording
from ..errors import InputError
from ..grouping import grouped
from ..naming.user_map import OWN, MapEntry, lines_for
from ..running.event_stream import EventStream
from .read_tokens import NO_TOKENS, TEXT_AND_TOKENS, ambiguous, embedding_of, recognise


def drafted_map(sides: Sequence[Any], text: str | None, tokens: Sequence[int] | None) -> str:
    """Return a map from a dump's names to events, as TOML for `--map`.

    One side is a dump. The other side is a model, which runs on the text or the tokens. By default, the
    tokens are read from the dump or recognised from the embedding in the dump. Raises InputError if the sides
    are not a dump and a model, or no tokens are known.
    """
    dumps = [side for side in sides if isinstance(side, Recording)]
    models = [side for side in sides if not isinstance(side, Recording)]
    if len(dumps) != 1:
        raise InputError("--suggest-map compares a dump with a model: give one of each")
    (dump,), (model,) = dumps, models
    notes: tuple[str, ...] = ()
    if text is not None and tokens is not None:
        raise InputError(TEXT_AND_TOKENS)
    if text is None and tokens is None:
        tokens = dump.tokens or _read_tokens(model, dump)
        if tokens is None:
            raise InputError(NO_TOKENS.format(dump.origin, model.origin))
        notes = () if dump.tokens else ambiguous(model, tokens)
    inputs = model.read(text if tokens is None else None, tokens)
    shapes = model.plan.shapes(len(inputs.tokens))
    names = [name for name, spec in model.hooks.specs.items() if name in shapes and not spec.extra]
    with one_blas_thread(), np.errstate(all="ignore"), EventStream(model, inputs, names) as stream:
        suggestions, unplaced = suggest(dump, model, _values(stream, len(inputs.tokens)), shapes)
    return _to_toml(suggestions, unplaced, dump, inputs.tokens, notes)


def _values(stream: EventStream, length: int) -> Iterator[tuple[str, Array]]:
    """Yield the name and value of each event. Events that arrive in parts, such as logits, come last."""
    parts: dict[str, list[Array]] = {}
    for name, value, positions in stream:
        if value.ndim and len(positions) < length:
            parts.setdefault(name, []).append(value)
        else:
            yield name, value
    for name, values in parts.items():
        yield name, np.concatenate(values)


def _read_tokens(model: LanguageModel, dump: Recording) -> tuple[int, ...] | None:
    """Return the tokens of the first array that has rows of the embedding, or None. Arrays of the layers,
    whose names differ only in a number, are tried last."""
    event, matrix = embedding_of(model)
    named, table = dump.tensors.get(event), model.parameter(matrix)
    unknown = [left.recorded for left in dump.leftovers if left.readable]
    count = Counter(re.sub("[0-9]+", "#", recorded.source) for recorded in unknown)
    unknown.sort(key=lambda recorded: count[re.sub("[0-9]+", "#", recorded.source)])
    results = (recognise(model, one, table=table) for one in ([named] if named else unknown))
    return next((tokens for tokens in results if tokens is not None), None)


# --- TOML ---


def _to_toml(
    suggestions: Sequence[Suggestion], unplaced: Sequence[Unplaced], recording: Recording,
    tokens: Sequence[int], notes: Sequence[str],
) -> str:  # fmt: skip
    """Return the map as TOML, with notes about the tokens as comments. If possible, write one line with {i}
    for the tensors of all layers. Tensors that match no event are listed with the reason."""
    lines = ["# drafted from names, shapes and sampled values (large values are clipped); check before use"]
    if recording.tensors:
        lines.append(f"# {len(recording.tensors)} tensors are known by their names and not listed here")
    lines += [f"# {note}" for note in notes] + [f"tokens = {[int(token) for token in tokens]}", "[events]"]
    written = [(_entry(together), _comment(together)) for together in _lines(suggestions, recording)]
    width = min(max((len(entry) for entry, _ in written), default=0), 60)
    lines += [f"{entry:<{width}}  # {comment}" for entry, comment in written]
    for one in unplaced:
        many = f" of {one.tensors} layers" if one.tensors > 1 else ""
        lines.append(f"# not placed: {_quoted(one.name)} {list(one.shape)}{many}: {one.reason}")
    count = sum(one.tensors for one in unplaced)
    lines.append(f"# events: {len(suggestions)} placed; tensors not placed: {count}")
    return "\n".join(lines) + "\n"


def _lines(suggestions: Sequence[Suggestion], recording: Recording) -> list[list[Suggestion]]:
    """Group the suggestions by lines: one line for a pattern with {i} that matches no other tensors."""

    def line_of(one: Suggestion) -> tuple[str, str]:
        return (one.pattern, kind_of(one.event)) if one.pattern else (one.event, "")

    sources = [left.recorded.source for left in recording.leftovers]
    sources += [recorded.source for recorded in recording.tensors.values()]
    lines: list[list[Suggestion]] = []
    for (pattern, _), members in grouped(suggestions, line_of).items():
        tensor = pattern.rpartition("[")[0] if members[0].source.endswith("]") else pattern
        matches = len(list(lines_for(MapEntry("", tensor), sources))) if len(members) > 1 else 0
        alone = matches != len(members) or len({one.layout for one in members}) > 1
        lines += [[one] for one in members] if alone else [members]
    return lines


def _entry(together: Sequence[Suggestion]) -> str:
    one = together[0]
    event, source = one.event, _quoted(one.source)
    if len(together) > 1:
        event, source = f"layer{{i}}.{kind_of(one.event)}", _quoted(one.pattern)
    if one.several or one.layout not in ("TC", "HTS", OWN):
        source = f"{{ from = {source}, layout = {_quoted(one.layout)} }}"
    return f"{_quoted(event)} = {source}"


def _comment(together: Sequence[Suggestion]) -> str:
    """Describe how well the tensors of a line match its events."""
    agreeing = [one.distance for one in together if one.why == "values"]
    others = [one.distance for one in together if one.why != "values"]
    if len(together) == 1:
        how = f"by {together[0].why}; values differ by {others[0]:.2g}" if others else "values agree"
    else:
        how = f"values agree in {len(agreeing)} of {len(together)} layers"
        how += f", and differ by at most {max(others):.2g} in the others" if others else ""
    how += f", {max(agreeing):.1e}" if not others else ""
    known = min(one.known for one in together)
    return how + (f"; {1 - known:.0%} of the values are not finite" if known < 1 else "")


def _quoted(text: str) -> str:
    """Quote a text as a TOML basic string on one line, with unprintable characters escaped."""
    return "".join(
        c if c.isprintable() else f"\\u{ord(c):04x}" if ord(c) < 0x10000 else f"\\U{ord(c):08x}"
        for c in json.dumps(text, ensure_ascii=False)
    )

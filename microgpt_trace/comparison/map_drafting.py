"""Draft a map from the names of a dump's tensors to the events of a model.

Every tensor is loaded once. Only samples of the values of tensors and events stay in memory.
Shape letters: F is the number of recorded tensors, E of events and N of sampled elements.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from itertools import accumulate, combinations, pairwise, product
from typing import Any, NamedTuple

import numpy as np

from ..arrays.stats import Array, causal_mask
from ..arrays.threads import one_blas_thread
from ..decoder.catalogue import kinds_in_heads
from ..dumps.layouts import Recorded, Shapes, fit, fits
from ..dumps.recording import Recording
from ..errors import InputError
from ..grouping import grouped, natural_order
from ..interpreter.event_stream import EventStream
from ..interpreter.run import row_forward
from ..models.language_model import LanguageModel, TraceInput, head_dim
from ..naming.map_writing import Unplaced, map_as_toml
from ..naming.suggestion import PAIR, SAME, Evidence, NamedTensor, Suggested, agreeing, assign
from ..operations.pass_state import PassState
from ..plans.kinds import Choice, Linear
from ..plans.plan import Plan, kind_of
from .read_tokens import NO_TOKENS, TEXT_AND_TOKENS, ambiguous, embedding_of, recognise

ELEMENTS = 512  # maximum number of sampled elements of an array
CLIP = np.float32(4)  # clip at 4 medians, so that a huge channel (as in SmolLM2) does not dominate
FIRST, LAST = 6, 3  # the tensors of each kind of name that are tried as an unknown event
WORK = 1 << 28  # maximum number of elements that are computed to find the inputs of an operation
_TINY = np.float32(1e-30)


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
        groups = _sampled(_values(stream, len(inputs.tokens)), names, model.plan)
        evidence = _gathered(dump, model, names, groups, shapes, inputs)
    found = assign(evidence)
    if dump.tensors:
        notes = (f"{len(dump.tensors)} tensors are known by their names and not listed here", *notes)
    sources = [one.source for one in [*dump.tensors.values(), *(left.recorded for left in dump.leftovers)]]
    return map_as_toml(evidence, found, _unplaced(dump, evidence, found), sources, inputs.tokens, notes)


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


# --- Sampled values ----------------------------------------------------------------------------------


def _sample(array: Array, causal: bool) -> Array:
    """Return a sample [N] of an array [.., T, W] in float32, NaN where the mask hides an element. All arrays
    of one shape are sampled at the same places."""
    if causal:
        array = np.where(causal_mask(*array.shape[-2:]), array, np.nan)
    return np.ravel(array)[_places(array.size)].astype(np.float32)


@lru_cache(maxsize=64)
def _places(size: int) -> Array:
    return np.sort(np.random.default_rng(0).choice(size, min(size, ELEMENTS), replace=False))


class _Samples:
    """The samples [E, N] of events. Magnitudes are clipped at 4 medians."""

    def __init__(self, samples: Sequence[Array]) -> None:
        values = np.stack(samples)
        self._finite = np.isfinite(values)
        magnitudes = np.where(self._finite & (values != 0), np.abs(values), np.nan)
        magnitudes[np.isnan(magnitudes).all(axis=1)] = 1
        self._scale = np.nanmedian(magnitudes, axis=1, keepdims=True)
        self._clipped = np.clip(values / self._scale, -CLIP, CLIP)

    def compare(self, one: Array) -> tuple[Array, Array]:
        """Return the relative L2 distances [E] of a sample [N] over the elements that are finite in both
        samples, and the share of these elements."""
        both = self._finite & np.isfinite(one)
        theirs = np.where(both, self._clipped, 0)
        gap = np.where(both, np.clip(one / self._scale, -CLIP, CLIP), 0) - theirs
        distance = np.linalg.norm(gap, axis=1) / np.maximum(np.linalg.norm(theirs, axis=1), _TINY)
        share = both.sum(axis=1) / np.maximum(self._finite.sum(axis=1), 1)
        return np.where(both.any(axis=1), distance, np.inf), share


class _EventGroup(NamedTuple):
    """All events with one shape and one list of possible layouts."""

    columns: Array  # the indices of these E events
    example: str  # the name of the first event
    samples: Mapping[tuple[int, ...], _Samples]  # of all rows and of the last row, by shape


def _sampled(events: Iterable[tuple[str, Array]], names: Sequence[str], plan: Plan) -> list[_EventGroup]:
    """Return groups of the events with samples of their values."""
    groups: dict[tuple[tuple[int, ...], bool, bool], list[tuple[str, Array, Array]]] = {}
    for name, value in events:
        causal = plan[name].causal
        last = value[..., -1:, :] if value.ndim > 1 else value
        key = value.shape, kind_of(name) in kinds_in_heads(), causal
        groups.setdefault(key, []).append((name, _sample(value, causal), _sample(last, causal)))
    result = []
    for (shape, _, _), members in groups.items():
        own, all_rows, last_rows = zip(*members, strict=True)
        last_shape = (*shape[:-2], 1, shape[-1]) if shape else ()
        samples = {last_shape: _Samples(last_rows), shape: _Samples(all_rows)}
        result.append(_EventGroup(np.array([names.index(name) for name in own]), own[0], samples))
    return result


# --- Tensors of the dump -----------------------------------------------------------------------------


def _source_name(recorded: Recorded) -> str:
    """Return the name of a tensor in a map: without `.npy`, unless the short name looks like a slice."""
    short = recorded.source.removesuffix(".npy")
    return recorded.source if short.endswith("]") else short


def _slices_of(recorded: Recorded, plan: Plan, shapes: Shapes) -> Iterator[tuple[str, Recorded]]:
    """Yield a slice for each product in a tensor that may contain several products with the same input, such
    as q, k and v. The slice is named as in a map: "[:, :896]"."""
    products = (row for row in plan.of_kind(Linear) if row.kind.columns is None and row.layer == 0)
    for rows in grouped(products, lambda row: row.inputs[0]).values():
        for first, last in combinations(range(len(rows) + 1), 2):
            widths = [shapes[row.name][1] for row in rows[first:last]]
            axes = [axis for axis, size in enumerate(recorded.shape) if size == sum(widths)]
            length, rest = divmod(math.prod(recorded.shape), sum(widths))
            if len(widths) > 1 and axes and not rest and length in (1, shapes[rows[0].name][0]):
                for start, stop in pairwise(accumulate(widths, initial=0)):
                    yield _slice(recorded, axes[-1], start, stop)


def _slice(recorded: Recorded, axis: int, start: int, stop: int) -> tuple[str, Recorded]:
    index, words = [slice(None)] * len(recorded.shape), [":"] * len(recorded.shape)
    index[axis] = slice(start, stop)
    words[axis] = f"{start or ''}:{'' if stop == recorded.shape[axis] else stop}"
    shape = (*recorded.shape[:axis], stop - start, *recorded.shape[axis + 1 :])
    part = replace(recorded, shape=shape, read=lambda: recorded.read()[tuple(index)])
    return f"[{', '.join(words)}]", part


def _gathered(
    dump: Recording, model: LanguageModel, names: Sequence[str], groups: Sequence[_EventGroup],
    shapes: Shapes, inputs: TraceInput,
) -> Evidence:  # fmt: skip
    """Compare every unknown tensor with every event of its shape, in every layout that fits."""
    readable = sorted(
        (left.recorded for left in dump.leftovers if left.readable),
        key=lambda recorded: natural_order(recorded.source),
    )
    parts = [(one, *part) for one in readable for part in (("", one), *_slices_of(one, model.plan, shapes))]
    pairs, dim = np.zeros((len(parts), len(names)), PAIR), partial(head_dim, model)
    pairs["distance"] = np.inf
    for row, (_, _, recorded) in enumerate(parts):
        read = cache(recorded.read)
        for group in groups:
            for layout in fits(group.example, recorded, shapes, dim(group.example)):
                once = replace(recorded, read=read, layout=layout)
                value = fit(group.example, once, shapes, head_dim=dim(group.example)).array
                sample = _sample(value, model.plan[group.example].causal)
                distance, share = group.samples[value.shape].compare(sample)
                own = pairs[row, group.columns]
                seen = own["layout"] != ""
                own["several"] |= seen
                better = ~seen | (distance < own["distance"])
                own["layout"][better], own["distance"][better] = layout, distance[better]
                own["finite"][better] = share[better]
                pairs[row, group.columns] = own
    tensors = [NamedTensor(_source_name(one), cut, recorded.shape) for one, cut, recorded in parts]
    agree, streams = agreeing(pairs["distance"]), {*model.plan.residuals}
    right = max((i + 1 for i, name in enumerate(names) if name in streams and agree[:, i].any()), default=0)
    evidence = Evidence(tensors, names, [name in dump.tensors for name in names], right, pairs)
    run = PassState(model, np.array(inputs.tokens), targets=inputs.targets)
    _mark_operations(dump, evidence, [recorded for *_, recorded in parts], run, shapes)
    return evidence


def _mark_operations(
    dump: Recording, evidence: Evidence, tensors: Sequence[Recorded], run: PassState, shapes: Shapes
) -> None:
    """Mark the tensors of the first layer that follow from each other by an operation of the model.

    After an error all values disagree, but later operations still follow from the dump's own inputs. For an
    unknown event, tensors of its shape are tried. Every tensor but one must fail.
    """
    plan, pairs, dim = run.model.plan, evidence.pairs, partial(head_dim, run.model)
    column, agree = {name: i for i, name in enumerate(evidence.events)}, agreeing(pairs["distance"])
    rest = [row for row in range(len(tensors)) if not agree[row].any()]

    def as_event(row: int, i: int) -> Recorded:
        return replace(tensors[row], layout=str(pairs["layout"][row, i]))

    best = pairs["distance"].argmin(axis=0) if tensors else ()
    found = {name: as_event(best[i], i) for name, i in column.items() if agree[:, i].any()}
    found |= {name: one for name, one in dump.tensors.items() if len(fits(name, one, shapes, dim(name))) == 1}

    def candidates(name: str) -> list[tuple[int, Array, Array]]:
        """Return distinct tensors that may be an event: the index, the value and its sample."""
        fitting = [row for row in rest if evidence.fits[row, column[name]]]
        alike = grouped(fitting, lambda row: re.sub("_?[0-9]+", "", tensors[row].source)).values()
        few = [*dict.fromkeys(row for rows in alike for row in (*rows[:FIRST], *rows[-LAST:]))]
        few = few[: WORK // 8 // math.prod(shapes[name])]
        ones = {-1: found[name]} if name in found else {row: as_event(row, column[name]) for row in few}
        distinct: dict[bytes, tuple[int, Array, Array]] = {}
        for row, one in ones.items():
            value = fit(name, one, shapes, head_dim=dim(name)).array.astype(np.float32)
            sample = _sample(value, plan[name].causal)
            if value.shape == shapes[name]:
                distinct.setdefault(sample.tobytes(), (row, value, sample))
        return [*distinct.values()]

    rows = [row for row in plan.values() if not row.layer and row.inputs]
    for row in [*rows, *reversed(rows)]:  # a later operation may determine the output of an earlier one
        events = [*row.inputs, row.name]
        new = column.keys() >= {*events} and not found.keys() >= {*events}
        if not new or any(isinstance(plan[name].kind, Choice) for name in events):
            continue
        *inputs, outputs = map(candidates, events)
        if not outputs or math.prod(map(len, inputs)) * outputs[0][1].size > WORK:
            continue
        samples, tried = _Samples([sample for *_, sample in outputs]), [(1.0, [0]), (1.0, [0])]
        for chosen in product(*inputs):
            value = row_forward(row, dict(zip(row.inputs, (own for _, own, _ in chosen), strict=True)), run)
            distance, share = samples.compare(_sample(value, row.causal))
            distance[share < 0.5] = 1
            tried.append((float(distance.min()), [at for at, *_ in (*chosen, outputs[distance.argmin()])]))
        (first, indices), (second, _) = sorted(tried)[:2]
        for name, at in zip(events, indices, strict=False) if first < min(SAME, second / 3 - 1e-5) else ():
            if at in rest:
                rest.remove(at)
                found[name], pairs["follows"][at, column[name]] = as_event(at, column[name]), True


def _unplaced(dump: Recording, evidence: Evidence, found: Mapping[int, Suggested]) -> list[Unplaced]:
    """Return the tensors that match no event, with the reasons."""
    refused = [left for left in dump.leftovers if not left.readable]
    unplaced = [Unplaced(_source_name(one.recorded), one.recorded.shape, one.reason) for one in refused]
    placed = {evidence.tensors[row].source for row in found}
    for row, (source, cut, shape) in enumerate(evidence.tensors):
        if source not in placed and not cut:
            reason = "values, names and order do not determine the event of this tensor"
            if evidence.agree[row].any():
                distance = np.where(evidence.agree[row], evidence.pairs["distance"][row], np.inf)
                reason = f"a copy of {evidence.events[int(distance.argmin())]}"
            elif not evidence.fits[row].any():
                reason = "no event has this shape"
            unplaced.append(Unplaced(source, shape, reason))
    return unplaced

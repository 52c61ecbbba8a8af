"""Compare two dumps of any model by the names of their tensors, without knowledge of the architecture."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..arrays.stats import Array
from ..dumps.layouts import Recorded
from ..dumps.recording import Recording
from ..errors import InputError
from ..hooks.event import EventSpec
from ..plans.kinds import Shape
from ..text.wording import abridged, counted
from .compared_runs import ComparedRun, RecordedRun, Unpaired

_NUMBER = re.compile(r"(?<![0-9])[0-9]{1,3}(?![0-9])")  # a longer number is not the number of a layer
SEEN = 1e-3  # a row, channel or head differs if its difference is at least this share of the largest


def need_own_names(recordings: Sequence[Recording], tokens: Sequence[int] | None) -> bool:
    """Return True if dumps must be compared by the names of their tensors: they have no known tokens, or most
    names that they share are no names of our events."""
    if not all(own.again for own in recordings):
        return False
    events = set.intersection(*({*own.tensors} for own in recordings))
    sources = [{one.source for one in own.tensors.values()} for own in recordings]
    others = [{left.recorded.source for left in own.leftovers if left.readable} for own in recordings]
    shared = set.intersection(*(a | b for a, b in zip(sources, others, strict=True)))
    unknown = tokens is None and any(own.tokens is None for own in recordings)
    return bool(shared) and (unknown or 2 * len(events) < len(shared))


def named_sides(recordings: Sequence[Recording]) -> list[RecordedRun]:
    """Return the sides of a comparison by names. A tensor becomes [rows, channels], or [heads, rows,
    channels] if it has more axes. Raises InputError if the dumps share no name."""
    named = [own.again(own_names=True) if own.again else own for own in recordings]
    shared = [name for name in named[0].tensors if all(name in own.tensors for own in named[1:])]
    if not shared:
        raise InputError(f"{' and '.join(own.origin for own in named)} have no name of a tensor in common")
    shapes, unpaired = dict[str, Shape](), list[Unpaired]()
    for name in shared:
        stored = [_plain(own.tensors[name].shape) for own in named]
        if 0 in stored[0]:
            unpaired.append(Unpaired(name, "the tensor has no elements"))
        elif len(set(stored)) == 1:
            shapes[name] = stored[0]
        else:
            apart = " and ".join(f"{list(one.tensors[name].shape)} in {one.origin}" for one in named)
            unpaired.append(Unpaired(name, f"the shapes differ: {apart}"))
    if not shapes:
        first = unpaired[0]
        raise InputError(f"no tensor has the same shape on both sides; {first.name}: {first.reason}")
    sides = []
    for own in named:
        tensors = {name: _reshaped(own.tensors[name], shape) for name, shape in shapes.items()}
        alone = [Unpaired(name, "only on this side") for name in own.tensors if name not in shared]
        sides.append(RecordedRun(replace(own, tensors=tensors), shapes, None, unpaired=[*unpaired, *alone]))
    return sides


def _plain(shape: Shape) -> Shape:
    """Return a shape without axes of length 1, as [], [rows, channels] or [heads, rows, channels]."""
    axes = [size for size in shape if size != 1]
    if len(axes) < 2:
        return (1, *axes) if axes else ()
    return (math.prod(axes[:-2]), *axes[-2:]) if len(axes) > 2 else tuple(axes)


def _reshaped(recorded: Recorded, shape: Shape) -> Recorded:
    return replace(recorded, shape=shape, read=lambda: recorded.read().reshape(shape))


def specs_by_name(names: Sequence[str]) -> dict[str, EventSpec]:
    """Return what is known about tensors: the first number in the name counts as the number of the layer."""
    found = {name: _NUMBER.search(name) for name in names}
    return {name: EventSpec(name, "", int(own[0]) if own else None, "") for name, own in found.items()}


def where_apart(sides: Sequence[ComparedRun], first: str | None) -> str:
    """Return the heads, rows and channels of the event `first` that differ, if both sides are dumps."""
    runs = [side for side in sides[:2] if isinstance(side, RecordedRun) and not side.statistics]
    if first is None or len(runs) < 2:
        return ""
    a, b = (run.fitted(first).array for run in runs)
    return parts_apart(a, b) if a.shape == b.shape else ""


def parts_apart(a: Array, b: Array) -> str:
    """Return the heads, rows and channels in which two arrays of one shape differ, in words.

    >>> parts_apart(np.zeros((3, 4)), np.eye(3, 4, 1))
    'differs in all 3 rows and in 3 of 4 channels (1, 2, 3)'
    """
    if not a.ndim:
        return ""
    with np.errstate(all="ignore"):
        apart = np.nan_to_num(np.abs(a.astype(np.float64) - b), nan=math.inf)
        apart[(a == b) | (np.isnan(a) & np.isnan(b))] = 0.0
    limit, words = SEEN * min(float(apart.max()), np.finfo(np.float64).max), []
    for axis, what in enumerate(("head", "row", "channel")[-a.ndim :]):
        others = tuple(other for other in range(a.ndim) if other != axis)
        found, size = np.flatnonzero(apart.max(axis=others) > limit), a.shape[axis]
        if len(found) == size:
            words.append(f"all {counted(size, what)}" if size > 1 else f"the one {what}")
        else:
            words.append(f"{len(found)} of {counted(size, what)} ({abridged([*map(str, found)])})")
    return f"differs in {', in '.join(words[:-1])} and in {words[-1]}"

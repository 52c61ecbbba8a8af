"""Shapes of events where no model tells them: of what two recordings of the same tokens hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ..architecture.catalogue import known_row
from ..architecture.kinds import Shape
from ..architecture.plan import HEAD_EVENTS
from ..dumps.layouts import fits
from ..dumps.recorded import OWN, Recorded
from ..dumps.recording import Recording
from ..errors import InputError

BESIDE = "side by side with {}, and no model tells their widths"


def shapes_between(recordings: Sequence[Recording], length: int) -> dict[str, Shape]:
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


def _candidates(name: str, recorded: Recorded, length: int) -> Iterator[Shape]:
    total, stored = math.prod(recorded.shape), recorded.shape
    if name == "loss":
        yield ()
        return
    if not total:
        raise InputError(f"{recorded.source}: {list(stored)} holds nothing")
    if recorded.layout == OWN and name in HEAD_EVENTS:
        yield length, stored[-1]
        return
    row = known_row(name)
    rows = length * length if row is not None and row.causal else length
    square = (length, length) if rows > length else ()
    single = math.prod(stored[:-1]) == 1 and len(stored) > 1  # one row, and length of it is not known
    if not total % rows and not (single and length > 1) and recorded.layout != "last":
        yield (total // rows, *square) if square else (length, total // length)
    if square and not total % length:
        yield (total // length, *square)
    elif not square and recorded.layout != OWN and (single or len(stored) == 1 or recorded.layout == "last"):
        yield length, total
    elif total % rows:
        raise InputError(f"{recorded.source}: {list(stored)} is no {name} of {length} tokens")

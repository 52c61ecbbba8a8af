"""The tensors of a dump as plain data, and their layouts: how a stored shape becomes the shape of an event.

Only the shape decides the layout, and not the values. microgpt/operations.py and operations/
explain the shape letters. C is the width of any row, so q, k, v and context ([T, H*D]) are also [T, C].
Stored shapes may contain more or fewer axes of length 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import accumulate

from ..arrays.stats import Array
from ..decoder.catalogue import choice_of, kinds_in_heads
from ..errors import InputError
from ..naming.user_map import LAST, OWN
from ..plans.plan import kind_of, over_tokens
from ..text.frozen import frozen

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]  # by event
Positions = tuple[int, ...] | None


@frozen
class Reading:
    """One way to read a stored tensor: reshape it to `axes`, transpose by `order`, reshape to `shape`."""

    letters: str
    axes: Shape  # the length of each axis, in the order of `letters`
    order: tuple[int, ...]
    shape: Shape
    last_of: int = 0  # T if the tensor contains only the last position, else 0

    @property
    def in_words(self) -> str:
        """The layout in words, such as "[T, H, D]", "the last row" or "one number"."""
        if self.letters in (OWN, LAST):
            return "one number" if self.letters == OWN else "the last row"
        return f"[{', '.join(self.letters)}]"

    @property
    def moves(self) -> tuple[tuple[int, int], ...]:
        """The length and stride of each axis of the result, after merging axes that form one longer axis.

        Two readings of a stored shape lead to the same values if and only if their `moves` are equal.
        """
        moves: list[tuple[int, int]] = []
        for axis in self.order:
            length, stride = self.axes[axis], math.prod(self.axes[axis + 1 :])
            if length == 1:
                continue
            if moves and moves[-1][1] == length * stride:
                length *= moves.pop()[0]
            moves.append((length, stride))
        return tuple(moves)


def readings_of(stored: Shape, expected: Shape, layout: str, head_dims: Collection[int]) -> list[Reading]:
    """Return all readings that turn a stored shape into `expected` ([T, C], [H, T, S] or []). Readings with
    the same values are listed once.

    If `layout` is not empty, only this layout is allowed. If `layout` is empty, an array with a single axis
    is read in our order. `head_dims` lists possible widths of a head, and is empty if rows contain no heads.
    """
    distinct: dict[tuple[tuple[int, int], ...], Reading] = {}
    lengths = _without_ones(stored)
    for reading in _candidates(expected, head_dims):
        requested, possible = layout == reading.letters, [_without_ones(reading.axes)]
        if requested or reading.letters in ("TC", "HTS", LAST):
            possible.append((math.prod(reading.axes),))  # a single axis fits too
        if (requested or not layout) and lengths in possible:
            distinct.setdefault(reading.moves, reading)
    return list(distinct.values())


def _candidates(expected: Shape, head_dims: Collection[int]) -> Iterator[Reading]:
    if not expected:
        yield Reading(OWN, (), (), ())
    elif len(expected) == 3:
        heads, length, keys = expected
        yield Reading("HTS", expected, (0, 1, 2), expected)
        yield Reading("THS", (length, heads, keys), (1, 0, 2), expected)
        yield Reading(LAST, (heads, 1, keys), (0, 1, 2), (heads, 1, keys), length)
    else:
        length, width = expected
        yield Reading("TC", expected, (0, 1), expected)
        yield Reading("CT", (width, length), (1, 0), expected)
        for dim in head_dims:
            heads = width // dim
            yield Reading("HTD", (heads, length, dim), (1, 0, 2), expected)
            yield Reading("THD", (length, heads, dim), (0, 1, 2), expected)
        yield Reading(LAST, (1, width), (0, 1), (1, width), length)
        for dim in head_dims:
            yield Reading(LAST, (width // dim, 1, dim), (0, 1, 2), (1, width), length)


def _without_ones(shape: Shape) -> Shape:
    return tuple(length for length in shape if length != 1)


def fits(name: str, recorded: Recorded, shapes: Shapes, head_dim: int | None = None) -> list[str]:
    """Return all layouts that turn the tensor into the shape of an event.

    The result is [OWN] for a single number and for a tensor in our order, and [] if no layout fits.
    """
    expected = _expected(name, recorded, shapes)
    if recorded.layout == OWN:
        rows = over_tokens(name) and recorded.shape[1:] == expected[1:] and recorded.shape[0] <= expected[0]
        return [OWN] if rows or recorded.shape == expected or _is_number(recorded, expected) else []
    dims = _head_dims(name, recorded, shapes, head_dim)
    return [reading.letters for reading in readings_of(recorded.shape, expected, recorded.layout, dims)]


def fit(
    name: str, recorded: Recorded, shapes: Shapes, *, head_dim: int | None = None,
    order: Array | None = None, positions: Positions = None,
) -> Fitted:  # fmt: skip
    """Return a recorded tensor in the shape of the event `name`. `shapes` maps all events to shapes.

    `positions` lists the position of each row of logits and probs, if the tensor is in our order. `order`
    (see `file_order`) lists the place of each channel in the model's file. Tensors with `adjacent` are
    reordered by `order`. Raises InputError unless exactly one layout fits.
    """
    expected = _expected(name, recorded, shapes)
    if recorded.layout == OWN:
        reading, rows = _own(name, recorded, expected, None if recorded.rows else positions)
    else:
        reading = _the_reading(name, recorded, expected, _head_dims(name, recorded, shapes, head_dim))
        rows = (reading.last_of - 1,) if reading.last_of > 1 else None
    rows = recorded.rows or rows
    array = recorded.read().reshape(reading.axes).transpose(reading.order).reshape(reading.shape)
    notes = _reading_notes(recorded.shape, reading)
    if recorded.beside:
        heads, of_each = 1, ""
        if recorded.by_head:
            if head_dim is None:
                raise InputError(f"{recorded.source}: only a model can split the parts of each head")
            keys = [event for event in recorded.beside if event.endswith(".k")] or recorded.beside
            heads, of_each = shapes[keys[0]][1] // head_dim, " of each head"
        ends = [0, *accumulate(shapes[event][1] // heads for event in recorded.beside)]
        start, stop = ends[recorded.beside.index(name) :][:2]
        array = array.reshape(len(array), heads, -1)[..., start:stop].reshape(len(array), -1)
        notes.append(f"columns {start} to {stop - 1} of {ends[-1]}{of_each}")
    if order is not None and recorded.adjacent:
        array = array.take(order, axis=-1)
        notes.append("rows reordered from GGUF's order to Hugging Face order")
    return Fitted(array, rows, "; ".join(notes))


def _expected(name: str, recorded: Recorded, shapes: Shapes) -> Shape:
    """Return the shape of the event, or of all events of a fused tensor side by side."""
    for event in (name, *recorded.beside):
        if event not in shapes:
            raise InputError(f"{recorded.source}: this model has no event {event!r}")
        if recorded.beside and len(shapes[event]) != 2:
            raise InputError(f"{recorded.source}: {event} cannot be a part of a fused tensor")
    expected = shapes[name]
    if recorded.beside:
        expected = expected[0], sum(shapes[event][1] for event in recorded.beside)
    if recorded.rows is not None and len(expected) > 1:
        if recorded.rows[-1] >= expected[-2]:
            found = recorded.rows[-1]
            raise InputError(f"{recorded.source}: expected positions below {expected[-2]}, found {found}")
        expected = *expected[:-2], len(recorded.rows), expected[-1]
    return expected


def _head_dims(name: str, recorded: Recorded, shapes: Shapes, head_dim: int | None) -> Collection[int]:
    """Return possible widths of a head, or of a chosen expert's part. If `head_dim` is None, and for parts of
    experts, the length of any stored axis is possible."""
    of_experts = choice_of(name) in shapes
    if not of_experts and not _has_heads(name, recorded):
        return ()
    dims = {*recorded.shape} - {0, 1} if head_dim is None or of_experts else {head_dim}
    width = _expected(name, recorded, shapes)[1]
    return [dim for dim in sorted(dims) if width % dim == 0]


def _has_heads(name: str, recorded: Recorded) -> bool:
    """Return True if each row of the tensor consists of heads."""
    return all(kind_of(event) in kinds_in_heads() for event in recorded.beside or (name,))


def _own(name: str, recorded: Recorded, expected: Shape, positions: Positions) -> tuple[Reading, Positions]:
    """Return the reading of a tensor in our order, and the positions of the rows (None for all positions)."""
    if positions is not None and over_tokens(name) and positions != tuple(range(expected[0])):
        wrong = [position for position in positions if not 0 <= position < expected[0]]
        if wrong:
            raise InputError(f"{recorded.source}: expected positions below {expected[0]}, found {wrong[0]}")
        expected = (len(positions), *expected[1:])
    else:
        positions = None
    if recorded.shape != expected and not _is_number(recorded, expected):
        shapes = f"expected {list(expected)}, found {list(recorded.shape)}"
        raise InputError(f"{recorded.source}: {name}: {shapes}")
    return Reading(OWN, expected, tuple(range(len(expected))), expected), positions


def _is_number(recorded: Recorded, expected: Shape) -> bool:
    """Return True if the event is a single number and the tensor has one element."""
    return not expected and math.prod(recorded.shape) == 1


def _the_reading(name: str, recorded: Recorded, expected: Shape, head_dims: Collection[int]) -> Reading:
    """Return the reading that fits. Raises InputError if no reading fits, or several readings fit."""
    readings = readings_of(recorded.shape, expected, recorded.layout, head_dims)
    if len(readings) == 1:
        return readings[0]
    if readings:
        layouts = " or ".join(f"{reading.in_words} ({reading.letters})" for reading in readings)
        raise InputError(
            f"{recorded.source}: {list(recorded.shape)} can be {name} as {layouts}; choose one with "
            f"--layout {name}=LETTERS, or with layout in a map"
        )
    letters = [reading.letters for reading in _candidates(expected, (1,) * _has_heads(name, recorded))]
    if recorded.layout and recorded.layout not in letters:
        works = ", ".join(dict.fromkeys(letters)) if expected else "no layout for a single number"
        raise InputError(f"{recorded.source}: layout of {name}: expected {works}, found {recorded.layout!r}")
    possible = [r for r in _candidates(expected, head_dims) if recorded.layout in ("", r.letters)]
    shown = [r for r in possible if not r.last_of]
    shown += [r for r in possible if r.last_of][:1]  # one of the shapes that contain just the last row
    expectation = ", ".join(f"{r.in_words} {list(r.axes)}" for r in shown)
    expectation = expectation or f"{recorded.layout} of {list(expected)}"
    raise InputError(f"{recorded.source}: {name}: expected {expectation}, found {list(recorded.shape)}")


def _reading_notes(stored: Shape, reading: Reading) -> list[str]:
    """Describe how a stored shape was read. Return [] for our shape, with or without axes of length 1."""
    if reading.letters == OWN:
        return []
    plain = (1,) * (len(stored) - len(reading.shape)) + reading.shape == stored
    if plain and len(reading.moves) < 2 and not reading.last_of:
        return []
    cut = _without_ones(stored) != _without_ones(reading.axes) and not reading.last_of
    return [f"{list(stored)} read as {reading.in_words}" + f" = {list(reading.axes)}" * cut]


NO_EVENT = "no event has that name"  # the reason of a leftover


@frozen(eq=False)
class Recorded:
    """A tensor of a recording. The numbers are read only when `read()` is called.

    `layout` is OWN, one of LAYOUTS, or "" if the shape decides the layout. `beside` lists all events of a
    fused tensor, such as apr's qkv. `adjacent` is True if rows of q and k may be in GGUF's order. If
    `candidates` is not empty, the tensor is the first candidate that the model has. If `by_head` is true, a
    row of a fused tensor is q, k and v of the first head, then of the next head.
    """

    source: str  # shown in messages: "Qcur-0.npy", "layer-0/ffn_up.bin"
    shape: tuple[int, ...]  # the shape in the file
    read: Callable[[], Array]  # returns a float32 or float64 array of this shape
    layout: str = ""
    beside: tuple[str, ...] = ()
    adjacent: bool = False
    candidates: tuple[str, ...] = ()
    by_head: bool = False
    rows: tuple[int, ...] | None = None  # the position of each row, or None for all positions
    axis: int | None = None  # join the tensors of ranks along this axis
    ranks: OfRanks | None = None


@frozen(eq=False)
class OfRanks:
    """How a tensor was made from the `parts` of ranks: "joined", "summed", ... Each column is in the parts of
    `per` ranks. `odd` says which ranks have other values, or is empty."""

    how: str
    parts: tuple[Recorded, ...]
    per: int = 1
    odd: str = ""


@frozen(eq=False)
class Leftover:
    """A tensor that belongs to no event, with the reason.

    If `readable` is False, `read()` raises InputError: numbers are missing or have an unsupported type.
    """

    recorded: Recorded
    reason: str
    readable: bool = True


@frozen(eq=False)
class Fitted:
    """A recorded tensor in the shape of our event: [T, W], [H, T, S] or [].

    `positions` lists the position of each row, or is None if all positions are stored. `note` describes how
    the stored shape was read.
    """

    array: Array
    positions: Positions = None
    note: str = ""

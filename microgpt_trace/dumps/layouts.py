"""Recorded: a tensor that another run left, as plain data. Layouts: how a stored shape relates to the shape
of our event, found without a look at values.

Shape letters as in microgpt/operations.py and architecture/operations/; C stands for the width of any row,
[T, C] for what these say of the stream and [T, H*D] for q, k, v and context. A length of 1 may stand anywhere
or be missing. Knows no file format.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from ..architecture.plans.catalogue import kinds_in_heads
from ..architecture.plans.plan import HEAD_EVENTS, kind_of
from ..arrays.stats import Array
from ..errors import FileFormatError, InputError
from ..readers.conventions import is_count
from ..text.brief import brief, frozen

Shape = tuple[int, ...]

LAST = "last"
LAYOUTS: tuple[str, ...] = (
    "TC",  # a row per position
    "CT",  # a column per position
    "HTD",  # of q, k, v and context: a head after the other
    "THD",  # the same, a position after the other: the rows of TC cut into heads
    "HTS",  # of scores and weights: a square of queries and keys for each head
    "THS",  # the same, a query after the other
    LAST,  # the last position's row alone
)


@dataclass(frozen=True, slots=True)
class Reading:
    """One way to take a stored tensor: cut into `axes`, put into `order`, as our event's `shape`."""

    letters: str
    axes: Shape  # as the letters name them
    order: tuple[int, ...]  # which axis comes first, second ...
    shape: Shape
    last_of: int = 0  # the number of positions, where the last one's row is all there is

    def takes(self, stored: Shape, flat: bool) -> bool:
        """Whether a tensor of that shape can be read so; `flat` allows one axis for all of them."""
        found = _without_ones(stored)
        if found == _without_ones(self.axes):
            return True
        return flat and len(found) == 1 and found[0] == math.prod(self.axes)

    def apply(self, array: Array) -> Array:
        return array.reshape(self.axes).transpose(self.order).reshape(self.shape)

    @property
    def written(self) -> str:
        """[T, H, D], or what else a person would call it."""
        if self.letters in (OWN, LAST):
            return "one number" if self.letters == OWN else "the last row"
        return f"[{', '.join(self.letters)}]"

    @property
    def moves(self) -> tuple[tuple[int, int], ...]:
        """Length and stride, in stored elements, of the axes in our order; as few axes as will do.

        Two readings of one stored shape give the same values exactly if their moves are the same.
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


def readings_of(
    stored: Shape, expected: Shape, *, layout: str = "", head_dims: Collection[int] = ()
) -> list[Reading]:
    """The readings of a stored shape that give [T, C], [H, T, S] or [], each with values of its own.

    `layout` leaves one reading. `head_dims` are the widths that a head may have: several where it is
    not known, none where a row has no heads. One axis alone is taken in our order, unless told.
    """
    distinct: dict[tuple[tuple[int, int], ...], Reading] = {}
    for reading in _candidates(expected, head_dims):
        chosen = layout == reading.letters
        flat = chosen or reading.letters in ("TC", "HTS", LAST)
        if (chosen or not layout) and reading.takes(stored, flat):
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


def fits(
    name: str, recorded: Recorded, shapes: Mapping[str, Shape], head_dim: int | None = None
) -> list[str]:
    """The letters of the readings of a tensor as an event; none where it cannot be that event.

    The letters are OWN for a number alone, and for a tensor that is in our order.
    """
    expected = _expected(name, recorded, shapes)
    if recorded.layout == OWN:
        some = name in HEAD_EVENTS and recorded.shape[1:] == expected[1:] and recorded.shape[0] <= expected[0]
        return [OWN] if some or recorded.shape == expected or _is_number(recorded, expected) else []
    dims = _head_dims(name, recorded, expected, head_dim)
    found = readings_of(recorded.shape, expected, layout=recorded.layout, head_dims=dims)
    return [reading.letters for reading in found]


def fit(
    name: str,
    recorded: Recorded,
    shapes: Mapping[str, Shape],
    *,
    head_dim: int | None = None,
    order: Array | None = None,
    positions: tuple[int, ...] | None = None,
) -> Fitted:
    """A recorded tensor as the event `name` has it; `shapes` are those of all events.

    `positions` are those that the rows of logits and probs have in a tensor in our order.
    `order` says for each channel where a tensor has it that follows the order of the model's file
    (`file_order`). Raises InputError where the shape fits in no way or in several.
    """
    expected = _expected(name, recorded, shapes)
    if recorded.layout == OWN:
        reading, rows = _own(name, recorded, expected, positions)
    else:
        dims = _head_dims(name, recorded, expected, head_dim)
        reading = _the_reading(name, recorded, expected, dims)
        rows = (reading.last_of - 1,) if reading.last_of > 1 else None
    array, notes = reading.apply(recorded.read()), _taken(recorded.shape, reading)
    if recorded.beside:
        ends = [0, *accumulate(shapes[event][1] for event in recorded.beside)]
        start, stop = ends[recorded.beside.index(name) :][:2]
        array = array[:, start:stop]
        notes.append(f"columns {start} to {stop - 1} of {ends[-1]}")
    if order is not None and recorded.adjacent:
        array = array.take(order, axis=-1)
        notes.append("rows put from GGUF's order into Hugging Face order")
    return Fitted(array, rows, "; ".join(notes))


def _expected(name: str, recorded: Recorded, shapes: Mapping[str, Shape]) -> Shape:
    """The shape of the event, or of all events whose rows lie side by side."""
    for event in (name, *recorded.beside):
        if event not in shapes:
            raise InputError(f"{recorded.source}: {event!r} is no event of this model")
        if recorded.beside and len(shapes[event]) != 2:
            raise InputError(f"{recorded.source}: {event} is no event whose rows lie beside others")
    if not recorded.beside:
        return shapes[name]
    return shapes[name][0], sum(shapes[event][1] for event in recorded.beside)


def _head_dims(name: str, recorded: Recorded, expected: Shape, head_dim: int | None) -> Collection[int]:
    """The widths of a head to try: those that the shape has, where the model's is not known."""
    if not _has_heads(name, recorded):
        return ()
    tried = {*recorded.shape} - {0, 1} if head_dim is None else {head_dim}
    return [dim for dim in sorted(tried) if expected[1] % dim == 0]


def _has_heads(name: str, recorded: Recorded) -> bool:
    """Whether the rows are heads side by side."""
    return all(kind_of(event) in kinds_in_heads() for event in recorded.beside or (name,))


def _own(
    name: str, recorded: Recorded, expected: Shape, positions: tuple[int, ...] | None
) -> tuple[Reading, tuple[int, ...] | None]:
    """The tensor as it is, and the positions of its rows, None where it has all of them."""
    if positions is not None and name in HEAD_EVENTS and positions != tuple(range(expected[0])):
        wrong = [position for position in positions if not 0 <= position < expected[0]]
        if wrong:
            raise InputError(f"{recorded.source}: position {wrong[0]} is none of {expected[0]} tokens")
        expected = (len(positions), *expected[1:])
    else:
        positions = None
    if recorded.shape != expected and not _is_number(recorded, expected):
        raise InputError(
            f"{recorded.source}: expected {list(expected)} for {name}, found {list(recorded.shape)}"
        )
    return Reading(OWN, expected, tuple(range(len(expected))), expected), positions


def _is_number(recorded: Recorded, expected: Shape) -> bool:
    """Whether it is the one number that the event is, on however many axes."""
    return not expected and math.prod(recorded.shape) == 1


def _the_reading(name: str, recorded: Recorded, expected: Shape, head_dims: Collection[int]) -> Reading:
    found = readings_of(recorded.shape, expected, layout=recorded.layout, head_dims=head_dims)
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(
            f"{recorded.source}: {list(recorded.shape)} is {name} as "
            f"{' or as '.join(f'{reading.written} ({reading.letters})' for reading in found)}; "
            f"--layout {name}=LETTERS, or layout in a map, decides"
        )
    letters = [reading.letters for reading in _candidates(expected, (1,) * _has_heads(name, recorded))]
    if recorded.layout and recorded.layout not in letters:
        works = f"these are: {', '.join(dict.fromkeys(letters))}" if expected else "a number has none"
        raise InputError(f"{recorded.source}: {recorded.layout!r} is no layout of {name}; {works}")
    wanted = [r for r in _candidates(expected, head_dims) if recorded.layout in ("", r.letters)]
    expectation = _listed(wanted) or f"{recorded.layout} of {list(expected)}"
    raise InputError(f"{recorded.source}: {list(recorded.shape)} does not fit {name}; expected {expectation}")


def _listed(readings: Sequence[Reading]) -> str:
    """The shapes that would fit; of those of a last row the first."""
    last = [reading for reading in readings if reading.last_of][:1]
    shown = [*(reading for reading in readings if not reading.last_of), *last]
    return ", ".join(f"{reading.written} {list(reading.axes)}" for reading in shown)


def _taken(stored: Shape, reading: Reading) -> list[str]:
    """What was done to a shape, unless it was ours but for ones in front."""
    if reading.letters == OWN:
        return []
    plain = (1,) * (len(stored) - len(reading.shape)) + reading.shape == stored
    if plain and len(reading.moves) < 2 and not reading.last_of:
        return []
    cut = _without_ones(stored) != _without_ones(reading.axes) and not reading.last_of
    return [f"{list(stored)} taken as {reading.written}" + f" = {list(reading.axes)}" * cut]


OWN = "own"  # a layout: shape and order are those of our events


@frozen(eq=False)
class Recorded:
    """A tensor of a recording, which nothing has been read of before `read()`.

    `layout` is OWN, letters where a map says them ("HTD", "THD", "CT", "TC", "last"), or empty: to be
    found out from the shapes. `beside` names the events whose rows lie side by side in the stored rows,
    this one among them (apr's qkv). `adjacent` says that rows of q and k may come in GGUF's order. Of
    several `candidates` it is the first that a model has.
    """

    source: str  # for messages: "Qcur-0.npy", "layer-0/ffn_up.bin"
    shape: tuple[int, ...]  # as stored
    read: Callable[[], Array]  # float32 or float64, of that shape
    layout: str = ""
    beside: tuple[str, ...] = ()
    adjacent: bool = False
    candidates: tuple[str, ...] = ()


@frozen(eq=False)
class Leftover:
    """A tensor that stands for no event of ours, and why. Of one that is not `readable` the dump has no
    numbers, or some of a type that is not read: `read()` raises InputError."""

    recorded: Recorded
    reason: str
    readable: bool = True


@frozen(eq=False)
class Fitted:
    """A recorded tensor as our event has it: [T, W], [H, T, S] or [].

    `positions` are those of its rows, None where it has all of them; `note` says what was done to it.
    """

    array: Array
    positions: tuple[int, ...] | None = None
    note: str = ""


def readable(text: str) -> str:
    """A file's own words, on one line whatever they are."""
    return text if text.isprintable() else brief(text)


def a_list(path: Path, said: Mapping[str, Any], key: str) -> list[Any]:
    """The list under a key of what a file says. Raises FileFormatError."""
    value = said.get(key)
    if not isinstance(value, list):
        raise FileFormatError(f"{path}: {key}: expected a list, found {brief(value)}")
    return value


def whole_numbers(where: str, value: Any, some: bool = False) -> tuple[int, ...]:
    """A file's list of token ids, positions or lengths; with `some`, at least one. Raises FileFormatError."""
    if not isinstance(value, list) or not all(map(is_count, value)) or (some and not value):
        raise FileFormatError(f"{where}: expected a list of whole numbers, found {brief(value)}")
    return tuple(value)


def sentences(where: str, value: Any) -> tuple[str, ...]:
    """A file's list of texts, each on one line. Raises FileFormatError."""
    if not isinstance(value, list) or not all(isinstance(line, str) for line in value):
        raise FileFormatError(f"{where}: expected a list of sentences, found {brief(value)}")
    return tuple(map(readable, value))

"""Sites: which part of which events is meant, as one writes it on a command line. Knows no values.

    layer0.attn.head2        the whole event; a glob or a stage of apr stands for several
    layer*.mlp.act@3         position 3 of each; -1 is the last one, 0-2 and 0,4 are several
    layer0.mlp.act@3:5       and of it channel 5; @:5 is channel 5 at every position
    layer0.attn.weights[1]   head 1; in brackets the axes of the event as it is shown, here [H, T, T]
    layer0.attn.q[3,0:8]     position 3, channels 0 to 7: ranges in brackets may be Python's

In scores and weights a position is the query's and a channel the key's position.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError
from ..text.brief import frozen
from ..text.wording import listed
from .names import select_names

_SITE = re.compile(r"(?P<name>[^@\[\]]+)(?:@(?P<position>[^:]*)(?::(?P<channel>.*))?|\[(?P<index>.+)\])?")
_RANGE = re.compile(r"(-?[0-9]{1,9})(?:-([0-9]{1,9}))?")
_SLICE = re.compile(r"(-?[0-9]{1,9})?:(-?[0-9]{1,9})?")
AXES = {0: (), 1: ("channel",), 2: ("position", "channel"), 3: ("head", "query", "key")}

TokenOf = Callable[[str], int]


@frozen
class Site:
    """A selector of events and, of them, a part: texts of numbers, empty where all are meant."""

    text: str
    selector: str
    position: str = ""
    channel: str = ""
    index: tuple[str, ...] = ()  # what stood in brackets, an axis each

    def names(self, known: Sequence[str]) -> list[str]:
        """The events meant, in order of computation. Raises InputError where there are none."""
        return select_names([self.selector], known)

    @property
    def place(self) -> str:
        """What stands behind the name: "[1,3]", "@3:5", nothing where all of it is meant."""
        return self.text.strip()[len(self.selector) :]

    def part(
        self, name: str, shape: Sequence[int], token_of: TokenOf | None = None, words: Sequence[str] = ()
    ) -> Part:
        """What is meant of an event of that shape, or of a parameter, whose axes have other `words`.
        `token_of` gives the id of a token named in place of a channel of logits or probs. Raises InputError
        where there is no such place."""
        chosen = [
            None if text in ("", ":") else self._numbers(text, axis, name, shape, token_of, words)
            for axis, text in enumerate(self._axes(name, shape, words))
        ]
        heads = chosen.pop(0) if len(shape) == 3 else None
        positions = chosen.pop(0) if len(shape) > 1 else None
        return Part(heads, positions, chosen.pop(0) if chosen else None)

    def lone(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The axes of which one index is named, as NumPy takes away."""
        several = re.compile(rf"|{_SLICE.pattern}|-?[0-9]+-[0-9]+|.*,.*")
        texts = self._axes(self.selector, shape)
        return tuple(axis for axis, text in enumerate(texts) if not several.fullmatch(text))

    def _axes(self, name: str, shape: Sequence[int], words: Sequence[str] = ()) -> list[str]:
        """The text for each axis of the event."""
        described = f"{self.text}: {describe_shape(name, shape, words)}"
        if len(self.index) > len(shape):
            raise InputError(f"{described}; found {len(self.index)} indices")
        if self.index:
            return [*self.index, *[""] * (len(shape) - len(self.index))]
        if (self.position and len(shape) < 2) or (self.channel and not shape):
            raise InputError(f"{described}: it has no such places")
        return ["", "", self.position, self.channel][-len(shape) :] if shape else []

    def _numbers(
        self, text: str, axis: int, name: str, shape: Sequence[int], token_of: TokenOf | None,
        words: Sequence[str],
    ) -> tuple[int, ...]:  # fmt: skip
        """ "0,3-5,-1" as indices of the axis, or "0:8" in brackets; the axis must have all of them."""
        size, what = shape[axis], (words or AXES[len(shape)])[axis]
        found: list[int] = []
        for part in map(str.strip, text.split(",")):
            sliced = _SLICE.fullmatch(part) if self.index else None
            bounds = sliced or _RANGE.fullmatch(part)
            if bounds is None:
                if token_of is not None and axis == len(shape) - 1 and not found:
                    return (token_of(text),)
                raise InputError(f"{self.text}: expected a {what} like 3, -1, 0-2 or 0,4, found {text!r}")
            first, end = int(bounds[1] or 0), int(bounds[2] or size)
            start = first + size * (first < 0)
            stop = end + size * (end < 0)
            if not sliced:
                stop = end + 1 if bounds[2] else start + 1
            inside = 0 <= start < size
            if not inside or not 0 <= stop <= size:
                wrong = stop - 1 if inside else first
                raise InputError(f"{self.text}: {what} {wrong} of {name}, which has {_span(what, size)}")
            if stop <= start:
                raise InputError(f"{self.text}: {part} ends before it begins")
            found += range(start, stop)
        return tuple(dict.fromkeys(found))


def _span(what: str, size: int) -> str:
    plural = {"query": "queries", "index": "indices"}.get(what, f"{what}s")
    return f"one {what}, 0" if size == 1 else f"{plural} 0 to {size - 1:,}"


def describe_shape(name: str, shape: Sequence[int], words: Sequence[str] = ()) -> str:
    """In words: "layer0.mlp.act is [5, 64], position and channel". Axes of a parameter have other `words`."""
    if not shape:
        return f"{name} is one number"
    said = f", {listed(words or AXES[len(shape)])}" * (len(shape) > 1)
    return f"{name} is {list(shape)}{said}"


@frozen
class Part:
    """Indices of each axis of an event, None where all are meant."""

    heads: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None

    def mask(self, shape: Sequence[int], rows: Sequence[int]) -> Array:
        """Where the part is in an array whose rows have these positions, booleans of that shape."""
        mask = np.ones(shape, bool)
        if self.heads is not None:
            mask &= np.isin(np.arange(shape[0]), self.heads)[:, None, None]
        if self.positions is not None:
            mask &= np.isin(rows, self.positions)[:, None]
        if self.channels is not None:
            mask &= np.isin(np.arange(shape[-1]), self.channels)
        return mask

    def indices(self, shape: Sequence[int], rows: Sequence[int]) -> list[Sequence[int]]:
        """The indices meant on each axis of an array, whose rows have these positions."""
        axes = [self.heads, self.positions, self.channels][-len(shape) :] if shape else []
        found: list[Sequence[int]] = [
            range(size) if axis is None else axis for axis, size in zip(axes, shape, strict=True)
        ]
        if self.positions is not None:
            found[-2] = [rows.index(position) for position in self.positions]
        return found

    def element(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """The index of the one element meant; None where several are."""
        axes = [self.heads, self.positions, self.channels][-len(shape) :] if shape else []
        if any(axis is None or len(axis) != 1 for axis in axes):
            return None
        return tuple(axis[0] for axis in axes if axis is not None)


def parse_site(text: str) -> Site:
    """NAME, NAME@POSITIONS, NAME@POSITIONS:CHANNELS or NAME[INDEX, ...]. Raises InputError."""
    found = _SITE.fullmatch(text.strip())
    if found is None or ("@" in text and not (found["position"] or found["channel"])):
        raise InputError(f"{text!r}: expected NAME, NAME@3, NAME@3:5 or NAME[1,3,2]")
    if found["index"] is None:
        return Site(text, found["name"], found["position"] or "", found["channel"] or "")
    parts = found["index"].split(",")
    index = tuple(
        part.strip() if _SLICE.fullmatch(part.strip()) or _RANGE.fullmatch(part.strip()) else part
        for part in parts
    )
    if not all(index):
        raise InputError(f"{text!r}: an index is missing between the brackets")
    return Site(text, found["name"], index=index)

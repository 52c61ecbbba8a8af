"""Sites: parts of events, as written on a command line.

    layer0.attn.head2        the whole event; a glob or a stage of apr names several events
    layer*.mlp.act@3         position 3 of each event; -1 is the last, 0-2 and 0,4 name several
    layer0.mlp.act@3:5       position 3, channel 5; @:5 is channel 5 at every position
    layer0.attn.weights[1]   head 1; brackets index the axes of the event, here [H, T, T]
    layer0.attn.q[3,0:8]     position 3, channels 0 to 7; brackets also take ranges as in Python

In scores and attention weights, the position is the query's position, and the channel is the key's position.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError
from ..hooks.names import select_names
from ..text.frozen import frozen
from ..text.wording import listed

_SITE = re.compile(r"(?P<name>[^@\[\]]+)(?:@(?P<position>[^:]*)(?::(?P<channel>.*))?|\[(?P<index>.+)\])?")
_RANGE = re.compile(r"(-?[0-9]{1,9})(?:-([0-9]{1,9}))?")
_SLICE = re.compile(r"(-?[0-9]{1,9})?:(-?[0-9]{1,9})?")
AXES = {0: (), 1: ("channel",), 2: ("position", "channel"), 3: ("head", "query", "key")}

TokenOf = Callable[[str], int]


@frozen
class Site:
    """A selector of events, and texts that select a part of each event. An empty text selects everything."""

    text: str
    selector: str
    position: str = ""
    channel: str = ""
    index: tuple[str, ...] = ()  # the texts in brackets, one for each axis

    def names(self, events: Sequence[str]) -> list[str]:
        """Return the matching events, in order of computation. Raises InputError if no event matches."""
        return select_names([self.selector], events)

    @property
    def place(self) -> str:
        """The text after the name: "[1,3]", "@3:5", or nothing for the whole event."""
        return self.text.strip()[len(self.selector) :]

    def part(
        self, name: str, shape: Sequence[int], token_of: TokenOf | None = None, words: Sequence[str] = ()
    ) -> Part:
        """Return the part of an event or parameter of this shape. `token_of` returns the id of a token, which
        names a channel of logits or probs. `words` names the axes of a parameter. Raises InputError if there
        is no such part."""
        chosen = [
            None if text in ("", ":") else self._numbers(text, axis, name, shape, token_of, words)
            for axis, text in enumerate(self._axes(name, shape, words))
        ]
        return Part(*[None] * (3 - len(shape)), *chosen)

    def lone(self, shape: Sequence[int]) -> tuple[int, ...]:
        """Return the axes with a single index, which NumPy would remove."""
        several = re.compile(rf"|{_SLICE.pattern}|-?[0-9]+-[0-9]+|.*,.*")
        texts = self._axes(self.selector, shape)
        return tuple(axis for axis, text in enumerate(texts) if not several.fullmatch(text))

    def _axes(self, name: str, shape: Sequence[int], words: Sequence[str] = ()) -> list[str]:
        described = f"{self.text}: {describe_shape(name, shape, words)}"
        if len(self.index) > len(shape):
            raise InputError(f"{described}; found {len(self.index)} indices")
        if self.index:
            return [*self.index, *[""] * (len(shape) - len(self.index))]
        if (self.position and len(shape) < 2) or (self.channel and not shape):
            raise InputError(f"{described}: it has no such axes")
        return ["", "", self.position, self.channel][-len(shape) :] if shape else []

    def _numbers(
        self, text: str, axis: int, name: str, shape: Sequence[int], token_of: TokenOf | None,
        words: Sequence[str],
    ) -> tuple[int, ...]:  # fmt: skip
        """Parse "0,3-5,-1", or "0:8" in brackets, as indices of an axis. Raises InputError for an index
        outside the axis."""
        size, what = shape[axis], (words or AXES[len(shape)])[axis]
        indices: list[int] = []
        for part in map(str.strip, text.split(",")):
            sliced = _SLICE.fullmatch(part) if self.index else None
            bounds = sliced or _RANGE.fullmatch(part)
            if bounds is None:
                if token_of is not None and axis == len(shape) - 1 and not indices:
                    return (token_of(text),)
                raise InputError(f"{self.text}: expected a {what} such as 3, -1, 0-2 or 0,4, found {text!r}")
            first, end = int(bounds[1] or 0), int(bounds[2] or size)
            start = first + size * (first < 0)
            stop = end + size * (end < 0)
            if not sliced:
                stop = end + 1 if bounds[2] else start + 1
            inside = 0 <= start < size
            if not inside or not 0 <= stop <= size:
                wrong = stop - 1 if inside else first
                raise InputError(f"{self.text}: no {what} {wrong} exists: {name} has {_span(what, size)}")
            if stop <= start:
                raise InputError(f"{self.text}: {part} ends before it begins")
            indices += range(start, stop)
        return tuple(dict.fromkeys(indices))


def _span(what: str, size: int) -> str:
    plural = {"query": "queries", "index": "indices"}.get(what, f"{what}s")
    return f"one {what}, 0" if size == 1 else f"{plural} 0 to {size - 1:,}"


def describe_shape(name: str, shape: Sequence[int], words: Sequence[str] = ()) -> str:
    """Describe a shape with words for its axes: "layer0.mlp.act is [5, 64], position and channel"."""
    if not shape:
        return f"{name} is one number"
    axes = f", {listed(words or AXES[len(shape)])}" * (len(shape) > 1)
    return f"{name} is {list(shape)}{axes}"


@frozen
class Part:
    """The selected indices of each axis of an event. None selects the whole axis."""

    heads: tuple[int, ...] | None = None
    positions: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None

    def mask(self, shape: Sequence[int], rows: Sequence[int]) -> Array:
        """Return the mask of the part in an array of this shape, whose rows have these positions."""
        mask = np.ones(shape, bool)
        if self.heads is not None:
            mask &= np.isin(np.arange(shape[0]), self.heads)[:, None, None]
        if self.positions is not None:
            mask &= np.isin(rows, self.positions)[:, None]
        if self.channels is not None:
            mask &= np.isin(np.arange(shape[-1]), self.channels)
        return mask

    def indices(self, shape: Sequence[int], rows: Sequence[int]) -> list[Sequence[int]]:
        """Return the selected indices on each axis of an array, whose rows have these positions."""
        indices: list[Sequence[int]] = [
            range(size) if axis is None else axis for axis, size in zip(self._axes(shape), shape, strict=True)
        ]
        if self.positions is not None:
            indices[-2] = [rows.index(position) for position in self.positions]
        return indices

    def element(self, shape: Sequence[int]) -> tuple[int, ...] | None:
        """Return the index of the element if the part is a single element, or None."""
        lone = tuple(axis[0] for axis in self._axes(shape) if axis is not None and len(axis) == 1)
        return lone if len(lone) == len(shape) else None

    def _axes(self, shape: Sequence[int]) -> list[tuple[int, ...] | None]:
        return [self.heads, self.positions, self.channels][3 - len(shape) :]


def parse_site(text: str) -> Site:
    """Parse NAME, NAME@POSITIONS, NAME@POSITIONS:CHANNELS or NAME[INDEX, ...]. Raises InputError."""
    match = _SITE.fullmatch(text.strip())
    if match is None or ("@" in text and not (match["position"] or match["channel"])):
        raise InputError(f"{text!r}: expected NAME, NAME@3, NAME@3:5 or NAME[1,3,2]")
    if match["index"] is None:
        return Site(text, match["name"], match["position"] or "", match["channel"] or "")
    parts = match["index"].split(",")
    index = tuple(
        part.strip() if _SLICE.fullmatch(part.strip()) or _RANGE.fullmatch(part.strip()) else part
        for part in parts
    )
    if not all(index):
        raise InputError(f"{text!r}: an index is missing between the brackets")
    return Site(text, match["name"], index=index)

"""Recorded: tensors that another run left behind, as plain data, and how its words are written. Knows no
file format."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..arrays.stats import Array
from ..errors import FileFormatError
from ..readers.conventions import is_count
from ..text.brief import brief, frozen

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

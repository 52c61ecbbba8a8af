"""Sections: what is shown, as data. Knows no screen, no page and no figure.

A command describes what it shows once, as a list of sections; terminal.py lowers them to a screen. Styles are
rich's words for them ("bold red", "dim").
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..arrays.stats import Array

TITLE = "bold cyan"


class Bar(NamedTuple):
    """A bar of a share between 0 and 1, so many characters long where it is 1."""

    share: float
    width: int


class Sparkline(NamedTuple):
    """The course of a series, None where there is no value, in the room that figures leave it."""

    values: Sequence[float | None]


Cell = str | Bar | Sparkline


class Column(NamedTuple):
    """A column: its title, what it shows of a row, the style of that, and how it gives way where there is
    little room."""

    title: str
    cell: Callable[[Any], Cell]
    right: bool = False
    wrap: bool = False
    bar: bool = False  # what does not fit of it may be missing
    whole: bool = False  # never broken: a name that one searches for
    remark: bool = False  # goes behind the text of the first column where it has no room of its own
    style: Callable[[Any], str] | None = None
    from_width: int = 0  # left out where there is less room than so many characters
    elastic: bool = False  # shares with others of its kind the room that the rest leaves, or is left out


class Table(NamedTuple):
    """Rows of anything, shown by columns; `instead` is shown where it has no room, if there is any."""

    columns: Sequence[Column]
    rows: Sequence[Any]
    instead: Sequence[Block] = ()


class Labelled(NamedTuple):
    """Labels with a text each; one without a label goes on with what is said before it."""

    pairs: Sequence[tuple[str, str]]


class Words(NamedTuple):
    """A line of text in pieces of a style each, wrapped where there is less room, indented alike."""

    spans: Sequence[tuple[str, str]]
    indent: int = 0
    from_width: int = 0  # left out where there is less room


class AttentionMatrices(NamedTuple):
    """The weights of every head [H, T, T], a cell the darker the larger, and what the T tokens are called."""

    weights: Array
    labels: Sequence[str]


class DotPlot(NamedTuple):
    """A series as dots, one for the mean of a run of steps, over its first and last step."""

    values: Sequence[float]
    first: int
    last: int


class Listing(NamedTuple):
    """Short texts of a style each, in columns of one width."""

    texts: Sequence[tuple[str, str]]


class Copyable(NamedTuple):
    """A command line, never wrapped: it is there to be copied."""

    label: str
    line: str


Block = Table | Labelled | Words | AttentionMatrices | DotPlot | Listing | Copyable


class Section(NamedTuple):
    """Blocks under a title, if they have one, with a remark beside it. A blank line stands between two."""

    blocks: Sequence[Block] = ()
    title: str = ""
    aside: str = ""
    style: str = TITLE


def words(text: str, style: str = "", indent: int = 0) -> Words:
    """A line of text in one style."""
    return Words(((text, style),), indent)


def indented(text: str, style: str = "") -> Words:
    """The same under something that it belongs to."""
    return words(text, style, indent=2)

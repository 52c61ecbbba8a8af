"""Sections: what is shown, as data. Knows no screen, no page and no figure.

A command describes what it shows once, as a list of sections; the folder terminal lowers them to a screen.
Styles are rich's words for them ("bold red", "dim").
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..arrays.stats import Array

TITLE = "bold cyan"
WIDE = 100  # columns of a terminal from which on tables have all columns


class Bar(NamedTuple):
    """A bar of a share between 0 and 1, so many characters long where it is 1."""

    share: float
    width: int


class SignedBar(NamedTuple):
    """A bar from the middle to the right for a positive value and to the left for a negative one, as long as
    half the room where it is `scale`; none where there is no value."""

    value: float | None
    scale: float


class Sparkline(NamedTuple):
    """The course of a series, None where there is no value, in the room that figures leave it."""

    values: Sequence[float | None]


class ElementCell(NamedTuple):
    """An element of an event or a parameter: its place at the left of the column, its value at the right.
    `about` is its whole name, where it has one, of a gradient with "gradient " before it."""

    place: str
    value: str = ""
    about: str = ""


Cell = str | Bar | SignedBar | Sparkline | ElementCell


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
    style: Callable[[Any], str] | str = ""
    from_width: int = 0  # left out where there is less room than so many characters
    elastic: int = 0  # has the room that the rest leaves, or is left out where that is less

    def style_of(self, row: Any) -> str:
        """The style of what it shows of a row."""
        return self.style if isinstance(self.style, str) else self.style(row)


class Table(NamedTuple):
    """Rows of anything, shown by columns. `about` names the event, the parameter or the element of one that a
    row is of, as that of an ElementCell."""

    columns: Sequence[Column]
    rows: Sequence[Any]
    about: Callable[[Any], str] | None = None


class Labelled(NamedTuple):
    """Labels with a text each; one without a label goes on with what is said before it."""

    pairs: Sequence[tuple[str, str]]


class Words(NamedTuple):
    """A line of text in pieces of a style each, wrapped where there is less room, indented alike. `about`
    names what it speaks of."""

    spans: Sequence[tuple[str, str]]
    indent: int = 0
    about: str = ""


class AttentionMatrices(NamedTuple):
    """The weights of every head [H, T, T], a cell the darker the larger, and what the T tokens are called.

    `sharing` says how many such blocks share the lines of a screen: where heads have no room there, those
    are shown that come first in `order`, and `more` says which these are and how to see another. None: all
    heads, whatever lines they take. `in_figures` says how to see all of a head number by number, `in_file`
    how to keep it where that has no room either.
    """

    weights: Array
    labels: Sequence[str]
    order: Sequence[int]
    more: str = ""
    sharing: int | None = None
    in_figures: str = ""
    in_file: str = ""


class Grid(NamedTuple):
    """Shares from 0 to 1 by row and column, None where there is none, a cell the darker the larger.

    `heads` are lines above the columns, each with what it tells and a text for every column; `numbers` are
    what the columns count, and `about` names what a cell is of, by row and column. Colours that tell
    negative values apart end at -`end` and `end`.
    """

    heads: Sequence[tuple[str, Sequence[str]]]
    numbers: Sequence[int]
    rows: Sequence[tuple[str, Sequence[float | None]]]
    about: Sequence[Sequence[str]] = ()
    end: float = 1.0


class Figures(NamedTuple):
    """A matrix [R, C] number by number under the names of rows and columns, or one of each head [H, R, C],
    whose numbers are `heads`.

    There are `row_count` rows, of which it may have the first; `more` says how to see what has no room.
    """

    values: Array
    rows: Sequence[str]
    columns: Sequence[str]
    row_count: int
    more: str = ""
    heads: Sequence[int] = ()


class DotPlot(NamedTuple):
    """A series as dots, one for the mean of a run of steps, over its first and last step."""

    values: Sequence[float]
    first: int
    last: int


class Copyable(NamedTuple):
    """A command line, never wrapped: it is there to be copied. The label stands right before it."""

    label: str
    line: str


Block = Table | Labelled | Words | AttentionMatrices | Grid | Figures | DotPlot | Copyable


class Section(NamedTuple):
    """Blocks under a title, if they have one, with a remark beside it. A blank line stands between two."""

    blocks: Sequence[Block] = ()
    title: str = ""
    aside: str = ""
    style: str = TITLE


def name_of(row: Any) -> str:
    """What a row of an event or a parameter is about."""
    return row.name


def facts(label: str, texts: Iterable[str]) -> list[tuple[str, str]]:
    """What is said of one label, a text below the other."""
    return [("" if number else label, text) for number, text in enumerate(texts)]


def table_section(
    title: str, columns: Sequence[Column], rows: Sequence[Any], *legend: str,
    about: Callable[[Any], str] | None = None, aside: str = "", more: Iterable[Block] = (),
) -> list[Section]:  # fmt: skip
    """A table under its title, then `more` of it and a legend in lines; nothing where there is no row."""
    if not rows:
        return []
    below = (words(line, "dim") for line in legend)
    return [Section([Table(columns, rows, about), *more, *below], title, aside)]


def fields(form: Callable[[Any], str], paths: Mapping[str, str], **options: Any) -> list[Column]:
    """A column for each title: what `form` writes of an attribute of the rows ("count", "stats.mean"), or of
    several together ("a.loss b.loss")."""

    def column(title: str, value: Callable[[Any], Any]) -> Column:
        return Column(title, lambda row: form(value(row)), **{"right": True, **options})

    return [column(title, attrgetter(*path.split())) for title, path in paths.items()]


def alarm(row: Any) -> str:
    """The style of a row that has to hold."""
    return "" if row.holds else "red"


def words(text: str, style: str = "", indent: int = 0) -> Words:
    """A line of text in one style."""
    return Words(((text, style),), indent)


def indented(text: str, style: str = "") -> Words:
    """The same under something that it belongs to."""
    return words(text, style, indent=2)

"""Sections: the description of a command's output as data. This module depends on no screen, page or figure.

A command describes its output once, as a list of sections. Terminal, page and notebook show this list. Styles
have the names of Rich's styles, such as "bold red" or "dim".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..arrays.stats import Array

TITLE = "bold cyan"
WIDE = 100  # smallest width of a terminal, in characters, for tables with all columns


class Bar(NamedTuple):
    """A bar for a share between 0 and 1; a share of 1 is `width` characters long."""

    share: float
    width: int


class SignedBar(NamedTuple):
    """A bar from the middle of the cell: to the right for a positive value, to the left for a negative value.
    A value of `scale` fills half of the cell. The value None has no bar."""

    value: float | None
    scale: float


class Sparkline(NamedTuple):
    """A small plot of a series, as wide as the other columns permit. None stands for a missing value."""

    values: Sequence[float | None]


class ElementCell(NamedTuple):
    """An element of an event or a parameter: the element's place at the left of the column, the value at the
    right. `about` is the element's full name or "", with "gradient " before the name of a gradient."""

    place: str
    value: str = ""
    about: str = ""


Cell = str | Bar | SignedBar | Sparkline | ElementCell


class Column(NamedTuple):
    """A column: its title, the cell that it shows for a row, and its layout on a narrow screen."""

    title: str
    cell: Callable[[Any], Cell]
    right: bool = False
    wrap: bool = False
    bar: bool = False  # the column may be cut
    whole: bool = False  # True for names: they stay on one line, so that readers can search for them
    remark: bool = False  # if the table is too wide, this text follows the first column's text
    style: Callable[[Any], str] | str = ""
    from_width: int = 0  # the column is omitted on a screen of fewer characters
    elastic: int = 0  # fills the remaining width; omitted if fewer characters remain

    def style_of(self, row: Any) -> str:
        """Return the style of the column's cell in a row."""
        return self.style if isinstance(self.style, str) else self.style(row)


class Table(NamedTuple):
    """Rows of any type, shown by columns. `about` names the event, parameter or element that a row describes,
    like the `about` of an ElementCell."""

    columns: Sequence[Column]
    rows: Sequence[Any]
    about: Callable[[Any], str] | None = None


class Labelled(NamedTuple):
    """Labels, and the text of each label. A text with an empty label continues the previous text."""

    pairs: Sequence[tuple[str, str]]


class Words(NamedTuple):
    """A line of text in pieces. Each piece has a style. The continuation of a wrapped line has the same
    indent. `about` names the event, parameter or element that the text is about."""

    spans: Sequence[tuple[str, str]]
    indent: int = 0
    about: str = ""


class AttentionMatrices(NamedTuple):
    """The attention weights of all heads [H, T, T] as shaded cells, and the labels of the T tokens.

    `sharing` is the number of such blocks that share the lines of a screen. If not all heads fit, the first
    heads of `order` are shown, and `more` explains the choice and how to see another head. With the value
    None, all heads are shown. `in_figures` tells how to see one head in numbers, `in_file` how to save a head
    that is too large.
    """

    weights: Array
    labels: Sequence[str]
    order: Sequence[int]
    more: str = ""
    sharing: int | None = None
    in_figures: str = ""
    in_file: str = ""


class Grid(NamedTuple):
    """Shares by row and column, shown as shaded cells. Most shares are from 0 to 1. None stands for a missing
    share. `heads` are the lines above the columns: a label, and a text for each column. `numbers` are the
    positions or heads of the columns. `about` names the site of each cell. A colour scale runs from -`end` to
    `end`."""

    heads: Sequence[tuple[str, Sequence[str]]]
    numbers: Sequence[int]
    rows: Sequence[tuple[str, Sequence[float | None]]]
    about: Sequence[Sequence[str]] = ()
    end: float = 1.0


class Figures(NamedTuple):
    """A matrix [R, C] in numbers with labelled rows and columns, or a matrix for each of `heads` [H, R, C].
    `values` may hold only the first of `row_count` rows. `more` tells how to see the parts that do not
    fit."""

    values: Array
    rows: Sequence[str]
    columns: Sequence[str]
    row_count: int
    more: str = ""
    heads: Sequence[int] = ()


class DotPlot(NamedTuple):
    """A series as dots, each the mean of successive steps, from the step `first` to the step `last`."""

    values: Sequence[float]
    first: int
    last: int


class Copyable(NamedTuple):
    """A command line for copying, which is never wrapped. Its label comes right before the command line."""

    label: str
    line: str


Block = Table | Labelled | Words | AttentionMatrices | Grid | Figures | DotPlot | Copyable


class Section(NamedTuple):
    """Blocks under an optional title, with a remark beside the title. A blank line separates sections."""

    blocks: Sequence[Block] = ()
    title: str = ""
    aside: str = ""
    style: str = TITLE


def name_of(row: Any) -> str:
    """Return the name of a row that describes an event or a parameter."""
    return row.name


def facts(label: str, texts: Iterable[str]) -> list[tuple[str, str]]:
    """Return labelled lines: the first text has the label, and the other texts continue the first."""
    return [("" if number else label, text) for number, text in enumerate(texts)]


def table_section(
    title: str, columns: Sequence[Column], rows: Sequence[Any], *legend: str,
    about: Callable[[Any], str] | None = None, aside: str = "", more: Iterable[Block] = (),
) -> list[Section]:  # fmt: skip
    """Return a section of a table, then `more` blocks and the lines of a legend; no section without rows."""
    if not rows:
        return []
    below = (words(line, "dim") for line in legend)
    return [Section([Table(columns, rows, about), *more, *below], title, aside)]


def fields(form: Callable[[Any], str], paths: Mapping[str, str], **options: Any) -> list[Column]:
    """Return a column for each title: `form` formats an attribute of the rows ("count", "stats.mean"), or a
    tuple of several ("a.loss b.loss")."""

    def column(title: str, value: Callable[[Any], Any]) -> Column:
        return Column(title, lambda row: form(value(row)), **{"right": True, **options})

    return [column(title, attrgetter(*path.split())) for title, path in paths.items()]


def alarm(row: Any) -> str:
    """Return the style of a row: red if the row does not hold."""
    return "" if row.holds else "red"


def words(text: str, style: str = "", indent: int = 0) -> Words:
    """Return a line of text in one style."""
    return Words(((text, style),), indent)


def indented(text: str, style: str = "") -> Words:
    """Return a line of text, indented below the line that the text belongs to."""
    return words(text, style, indent=2)

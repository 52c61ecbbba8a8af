"""Describe the output of a command as sections. Sections are data that do not depend on a screen or a page.

A command describes its output once, as a list of sections. Terminals, pages and notebooks show these
sections. Styles have the names of Rich's styles, such as "bold red" or "dim".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..arrays.stats import Array

TITLE = "bold cyan"
WIDE = 100  # smallest terminal width, in characters, at which tables have all columns


class Bar(NamedTuple):
    """A bar for a share between 0 and 1. The bar for the share 1 is `width` characters long."""

    share: float
    width: int


class SignedBar(NamedTuple):
    """A bar from the middle of the cell: to the right for a positive value, to the left for a negative value.
    The bar of the value `scale` fills half of the cell. The value None has no bar."""

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
    elastic: int = 0  # smallest width of a column that fills the remaining width; 0: fixed width

    def style_of(self, row: Any) -> str:
        """Return the style of the column's cell in a row."""
        return self.style if isinstance(self.style, str) else self.style(row)


class Table(NamedTuple):
    """Rows of any type, and the columns that show a cell for each row. `about(row)` returns the name of the
    event, parameter or element that the row describes."""

    columns: Sequence[Column]
    rows: Sequence[Any]
    about: Callable[[Any], str] | None = None


class Labelled(NamedTuple):
    """Pairs of a label and a text. A text with an empty label continues the previous text."""

    pairs: Sequence[tuple[str, str]]


class Words(NamedTuple):
    """A line of text in pieces, each with a style. If the text is wrapped, all lines have the same indent.
    `about` is the name of the event, parameter or element that the text describes."""

    spans: Sequence[tuple[str, str]]
    indent: int = 0
    about: str = ""


class AttentionMatrices(NamedTuple):
    """The attention weights of all heads [H, T, T] as shaded cells, and the labels of the T tokens.

    `sharing` is the number of blocks of attention weights on one screen, or None to show all heads. If not
    all heads fit, the first heads of `order` are shown. The text `more` explains the choice of heads, and how
    to see another head. The text `in_figures` explains how to print a head in numbers, and `in_file` how to
    save the weights.
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
    share. `heads` are the header lines: a label, and a text for each column. `numbers` are the positions or
    heads of the columns, or the names of receivers. `about` names the site of each cell. The colour scale
    runs from -`end` to `end`."""

    heads: Sequence[tuple[str, Sequence[str]]]
    numbers: Sequence[int | str]
    rows: Sequence[tuple[str, Sequence[float | None]]]
    about: Sequence[Sequence[str]] = ()
    end: float = 1.0


class Figures(NamedTuple):
    """The numbers of a matrix [R, C] with labelled rows and columns, or of several matrices [N, R, C] with
    captions. `row_count` counts all rows, even if `values` contains only the first rows. `more` explains how
    to see the rest."""

    values: Array
    rows: Sequence[str]
    columns: Sequence[str]
    row_count: int
    more: str = ""
    captions: Sequence[str] = ()


class DotPlot(NamedTuple):
    """A series from step `first` to step `last`, shown as dots. A dot can show the mean of several steps."""

    values: Sequence[float]
    first: int
    last: int


class Copyable(NamedTuple):
    """A command line to copy, after a label on the same line. The line is never wrapped."""

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
    """Return the texts as labelled lines. Only the first line has the label; the other labels are empty."""
    return [("" if number else label, text) for number, text in enumerate(texts)]


def table_section(
    title: str, columns: Sequence[Column], rows: Sequence[Any], *legend: str,
    about: Callable[[Any], str] | None = None, aside: str = "", more: Iterable[Block] = (),
) -> list[Section]:  # fmt: skip
    """Return a section with a table, `more` blocks and the lines of a legend, or [] if there are no rows."""
    if not rows:
        return []
    below = (words(line, "dim") for line in legend)
    return [Section([Table(columns, rows, about), *more, *below], title, aside)]


def fields(form: Callable[[Any], str], paths: Mapping[str, str], **options: Any) -> list[Column]:
    """Return a column for each title in `paths`. `form` formats the attribute at a path such as "stats.mean".
    For a path such as "a.loss b.loss", `form` formats a tuple of two attributes."""

    def column(title: str, value: Callable[[Any], Any]) -> Column:
        return Column(title, lambda row: form(value(row)), **{"right": True, **options})

    return [column(title, attrgetter(*path.split())) for title, path in paths.items()]


def alarm(row: Any) -> str:
    """Return the style of a row, which is red if `row.holds` is False."""
    return "" if row.holds else "red"


def words(text: str, style: str = "", indent: int = 0) -> Words:
    """Return a line of text in one style."""
    return Words(((text, style),), indent)


def indented(text: str, style: str = "") -> Words:
    """Return a line of text that is indented below the previous line."""
    return words(text, style, indent=2)

"""Axes with text on them as it is, what several figures draw there, and pictures that are still to be drawn.
Knows no result.

A token's dollars are no mathematics here. Characters that the font lacks are spelled out, as \\u4e2d, unless
whoever shows the text has fonts of its own, as a viewer of SVG has.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, isfinite, isnan, nan
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ...errors import check_installed
from ...text.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.ft2font import FT2Font

COLUMN, PAGE = 3.4, 7.0  # inches: a column of a page, and both
TEXT, SMALL = 8, 7  # points
LINE = 8.5 / 72  # inches from one line of small text to the next
CHARACTER = 0.062  # inches of one of its letters
BAR = 0.19  # inches from one bar to the next
BLUE, ORANGE, GREY, DARK = "#0072b2", "#d55e00", "#999999", "#333333"  # told apart by colour-blind readers
LINES = (
    (BLUE, "-"), (ORANGE, "--"), ("#009e73", "-."), ("#cc79a7", ":"), ("#e69f00", "-"), ("#56b4e9", "--"),
    (DARK, "-."), (GREY, ":"),
)  # fmt: skip
MARKERS = "os^Dv<>P"

Series = Sequence[float | None]  # None where nothing is known


@dataclass(frozen=True, eq=False, repr=False)
class Panel:
    """Axes to draw on, and how text gets there."""

    ax: Axes
    spelled: bool = True  # what the font lacks is spelled out

    def said(self, text: str) -> str:
        return spelled_out(text) if self.spelled else text

    def label(
        self, title: str = "", *, x: str = "", y: str = "", columns: Sequence[str] | None = None,
        rows: Sequence[str] | None = None, above: int = 0, at_right: bool = False,
    ) -> None:  # fmt: skip
        """What the figure is called, so many lines of a legend above the Axes, what its axes count, and what
        places 0, 1, 2... along them are called. x ends at the right where it may be longer than its axis."""
        if columns is not None:
            self.ticks("x", columns)
        if rows is not None:
            self.ticks("y", rows)
        loc: Literal["right", "center"] = "right" if at_right else "center"
        self.ax.set_xlabel(self.said(x), fontsize=TEXT, parse_math=False, loc=loc)
        self.ax.set_ylabel(self.said(y), fontsize=TEXT, parse_math=False)
        self.ax.tick_params(which="both", labelsize=SMALL)
        self._spell_powers()
        style: dict[str, Any] = {"loc": "left", "fontsize": TEXT, "parse_math": False, "wrap": True}
        self.ax.set_title(self.said(title), pad=4 + 12 * above, **style)

    def _spell_powers(self) -> None:
        """Very large and very small numbers with their exponents, which else stand apart, on other text."""
        from matplotlib.ticker import ScalarFormatter

        for axis in (self.ax.xaxis, self.ax.yaxis):
            largest = max(map(abs, axis.get_view_interval()))
            if isinstance(axis.get_major_formatter(), ScalarFormatter) and not 1e-4 <= largest < 1e6:
                axis.set_major_formatter("{x:g}")
                if axis is self.ax.xaxis:
                    axis.get_major_locator().set_params(nbins=4)  # type: ignore[call-arg]

    def ticks(
        self, axis: Literal["x", "y"], labels: Sequence[str], places: Sequence[float] | None = None
    ) -> None:
        """A label at each of the places, by default 0, 1, 2...; of those too close together some."""
        places = range(len(labels)) if places is None else places
        step = thinned(len(labels), self.inches[axis == "y"])
        shown = [self.said(label) for label in labels[::step]]
        turned: dict[str, Any] = (
            {"rotation": 90} if axis == "x" and max(map(len, shown), default=0) > 2 else {}
        )
        set_ticks = self.ax.set_xticks if axis == "x" else self.ax.set_yticks
        set_ticks(places[::step], shown, fontsize=SMALL, parse_math=False, **turned)

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        """Text at a place of the data."""
        self.ax.text(x, y, self.said(text), parse_math=False, **{"fontsize": SMALL, **style})

    def legend(self, columns: int) -> int:
        """What the lines are called, above the Axes; in how many lines that is."""
        self._legend(ncols=columns, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.1)
        return ceil(len(self.ax.get_legend_handles_labels()[0]) / columns)

    def legend_beside(self) -> None:
        """The same at the right."""
        self._legend(loc="upper left", bbox_to_anchor=(1.01, 1), borderaxespad=0)

    def _legend(self, **where: Any) -> None:
        legend = self.ax.legend(fontsize=SMALL, frameon=False, handlelength=2.4, columnspacing=1.2, **where)
        for text in legend.get_texts():
            text.set_parse_math(False)

    def inset(self, left: float, bottom: float, width: float, height: float) -> Panel:
        """Axes within these, which become their frame."""
        self.ax.set_axis_off()
        return Panel(self.ax.inset_axes((left, bottom, width, height)), self.spelled)

    @property
    def inches(self) -> tuple[float, float]:
        """Width and height, as far as they are known before the figure is laid out."""
        place = self.ax.get_window_extent()
        return place.width / self.ax.figure.dpi, place.height / self.ax.figure.dpi


class Picture(NamedTuple):
    """A figure that is still to be drawn: how many inches it takes, and what draws it."""

    width: float
    height: float
    draw: Callable[[Panel], None]


def on_axes(picture: Picture, ax: Axes | None) -> Axes:
    """The picture on these Axes. Without any on those of a figure of pyplot's, as other libraries do, for
    only that is shown by a notebook below its cell and by `plt.show()`."""
    if ax is None:
        check_installed("matplotlib", "figures are drawn by")
        from matplotlib import pyplot

        figure = pyplot.figure(figsize=(picture.width, picture.height), layout="constrained")
        ax = figure.add_subplot()
    picture.draw(Panel(ax))
    return ax


def stacked(panel: Panel, rooms: Sequence[tuple[float, float]]) -> list[Panel]:
    """Panels one below the other, the first at the top; a room is the height of one and what stays free below
    it, which the last does not need."""
    if len(rooms) == 1:
        return [panel]
    whole, at, found = sum(map(sum, rooms)) - rooms[-1][1], 0.0, list[Panel]()
    for height, below in rooms:
        found.append(panel.inset(0, 1 - (at + height) / whole, 1, height / whole))
        at += height + below
    return found


def gaps(values: Series) -> list[float]:
    """The values, with a gap where there is none or one that is not finite."""
    return [nan if value is None or not isfinite(value) else value for value in values]


def not_finite(values: Series, of: str) -> str:
    """ "not finite: 2 of 5 positions", or nothing where all are."""
    count = sum(map(isnan, gaps(values)))
    return f"not finite: {count:,} of {counted(len(values), of)}" if count else ""


def draw_line(panel: Panel, places: Sequence[float], values: Series, *style: str, **more: Any) -> None:
    """A line with its gaps, over all of the places even where nothing is left of it."""
    panel.ax.plot(places, gaps(values), *style, **more)
    panel.ax.dataLim.update_from_data_x(places, ignore=False)


class SignedValue(NamedTuple):
    """A bar: what it is called and how long it is. A sum of others is none of them."""

    name: str
    value: float
    is_sum: bool = False


def draw_bars(panel: Panel, rows: Sequence[SignedValue], number: Callable[[float], str]) -> None:
    """To the right what is positive, to the left what is negative; what is not finite is a number alone."""
    values = [row.value if isfinite(row.value) else 0.0 for row in rows]
    colours = [
        (DARK if row.is_sum else BLUE if value >= 0 else ORANGE)
        for row, value in zip(rows, values, strict=True)
    ]
    ax = panel.ax
    ax.barh(range(len(rows)), values, color=colours, height=0.72)
    ax.axvline(0, color=GREY, linewidth=0.8)
    numbers = [number(row.value) for row in rows]
    share = max(0.28, 0.04 * max(map(len, numbers)))
    room = share * (max([0.0, *values]) - min([0.0, *values])) or 1.0  # for the numbers
    ax.set_xlim(min([0.0, *values]) - room * any(v < 0 for v in values), max([0.0, *values]) + room)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    for place, (value, text) in enumerate(zip(values, numbers, strict=True)):
        side = "right" if value < 0 else "left"
        gap = room * 0.05 * (-1 if value < 0 else 1)
        panel.write(value + gap, place, text, ha=side, va="center")
    panel.ticks("y", [row.name for row in rows])
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def thinned(count: int, inches: float) -> int:
    """Of so many labels in that room every which one can be shown."""
    least = max(1, ceil(count * LINE / max(inches, LINE)))
    steps = (1, 2, 5, 10, 20, 50, 100, 200, 500)
    return next((step for step in steps if step >= least), least)


def spelled_out(text: str) -> str:
    """The text with what the font lacks as \\u4e2d."""
    if text.isascii():
        return text
    fonts = _fonts()
    known = {c for c in text if c == "\n" or any(font.get_char_index(ord(c)) for font in fonts)}
    return "".join(c if c in known else c.encode("unicode_escape").decode() for c in text)


def _fonts() -> list[FT2Font]:
    """The fonts that matplotlib takes characters from, those that it turns to last included."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    families = FontProperties().get_family()
    return [get_font(findfont(FontProperties(family=[family]))) for family in families]

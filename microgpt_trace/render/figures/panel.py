"""Elements that several figures share: Axes with plain text, pictures that are not drawn yet, lines and bars.

A dollar sign in a token does not start a formula. Characters that the font lacks are replaced by escapes such
as \\u4e2d. SVG files contain all characters, because the viewer of a file can have other fonts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import ceil, isfinite, isnan, nan
from textwrap import fill
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ...errors import check_installed
from ...text.frozen import frozen
from ...text.wording import counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLUMN, PAGE = 3.4, 7.0  # width in inches of one column of a paper, and of both columns
TEXT, SMALL = 8, 7  # points
LINE = 8.5 / 72  # height of a line of small text, in inches
CHARACTER = 0.062  # width of a letter of small text, in inches
BAR = 0.19  # distance from one bar to the next, in inches
BLUE, ORANGE, GREY, DARK = "#0072b2", "#d55e00", "#999999", "#333333"  # safe for colour-blind readers

Series = Sequence[float | None]  # None stands for a missing value


@frozen(slots=False, eq=False)
class Panel:
    """Axes to draw on, with methods that write text on the Axes."""

    ax: Axes
    escapes: bool = True  # True: characters that the font lacks are escaped

    def escaped(self, text: str) -> str:
        """Escape characters that the font lacks, if `escapes` is set."""
        return escaped(text) if self.escapes else text

    def label(
        self, title: str = "", *, x: str = "", y: str = "", columns: Sequence[str] | None = None,
        rows: Sequence[str] | None = None, at_right: bool = False,
    ) -> None:  # fmt: skip
        """Write the title, the labels of the axes, and the tick labels of columns and rows at 0, 1, 2, ...
        If anything drawn has a name, write a legend between the Axes and the title. If `at_right` is set, the
        x label ends at the right of its axis, because the label may be longer than the axis.
        """
        if columns is not None:
            self.ticks("x", columns)
        if rows is not None:
            self.ticks("y", rows)
        loc: Literal["right", "center"] = "right" if at_right else "center"
        self.ax.set_xlabel(self.escaped(x), fontsize=TEXT, parse_math=False, loc=loc)
        self.ax.set_ylabel(self.escaped(y), fontsize=TEXT, parse_math=False)
        self.ax.tick_params(which="both", labelsize=SMALL)
        self._write_exponents_at_ticks()
        lines, title = self._legend(), self.escaped(title)
        if lines:  # matplotlib wraps a title at every word if the title is not yet within the figure
            beside = (self.ax.figure.bbox.width - self.ax.bbox.x0) / self.ax.figure.dpi
            title = fill(title, max(12, int(beside / CHARACTER)))
        style: dict[str, Any] = {"loc": "left", "fontsize": TEXT, "parse_math": False, "wrap": not lines}
        self.ax.set_title(title, pad=4 + 12 * lines, **style)

    def _write_exponents_at_ticks(self) -> None:
        """Write large and small numbers with an exponent at each tick. A single exponent for the whole axis
        would overlap text."""
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
        """Write tick labels at `places` (default: 0, 1, 2, ...), or every n-th if they are too close."""
        places = range(len(labels)) if places is None else places
        step = label_step(len(labels), self.inches[axis == "y"])
        texts = [self.escaped(label) for label in labels[::step]]
        vertical = axis == "x" and max(map(len, texts), default=0) > 2
        style: dict[str, Any] = {"rotation": 90} if vertical else {}
        set_ticks = self.ax.set_xticks if axis == "x" else self.ax.set_yticks
        set_ticks(places[::step], texts, fontsize=SMALL, parse_math=False, **style)

    def write(self, x: float, y: float, text: str, **style: Any) -> None:
        """Write text at a point in data coordinates."""
        self.ax.text(x, y, self.escaped(text), parse_math=False, **{"fontsize": SMALL, **style})

    def _legend(self) -> int:
        """Write a legend above the Axes, from left to right, and return the number of its lines."""
        _, names = self.ax.get_legend_handles_labels()
        if not names:
            return 0
        lines = next(n for n in range(1, len(names) + 1) if n == len(names) or self._fits(names, n))
        legend = self.ax.legend(
            fontsize=SMALL, frameon=False, handlelength=2.4, columnspacing=1.2, borderaxespad=0.1,
            ncols=ceil(len(names) / lines), loc="lower left", bbox_to_anchor=(0, 1),
        )  # fmt: skip
        for text in legend.get_texts():
            text.set_parse_math(False)
        return lines

    def _fits(self, names: Sequence[str], lines: int) -> bool:
        """Return True if the columns of a legend with so many lines fit above the Axes."""
        columns = [names[i : i + lines] for i in range(0, len(names), lines)]
        return sum(max(map(len, column)) * CHARACTER + 0.55 for column in columns) <= self.inches[0]

    def inset(self, left: float, bottom: float, width: float, height: float) -> Panel:
        """Return new Axes within these Axes, and make these Axes invisible."""
        self.ax.set_axis_off()
        return Panel(self.ax.inset_axes((left, bottom, width, height)), self.escapes)

    def stacked(self, rooms: Sequence[tuple[float, float]]) -> list[Panel]:
        """Return panels from top to bottom. `rooms` are pairs of the height of a panel and the margin below
        the panel. The margin below the last panel is not used."""
        if len(rooms) == 1:
            return [self]
        total, top, panels = sum(map(sum, rooms)) - rooms[-1][1], 0.0, list[Panel]()
        for height, margin in rooms:
            panels.append(self.inset(0, 1 - (top + height) / total, 1, height / total))
            top += height + margin
        return panels

    @property
    def inches(self) -> tuple[float, float]:
        """The width and height in inches, which are an estimate before the figure is laid out."""
        place = self.ax.get_window_extent()
        return place.width / self.ax.figure.dpi, place.height / self.ax.figure.dpi


class Picture(NamedTuple):
    """A figure that is not drawn yet: its width and height in inches, and the function that draws it."""

    width: float
    height: float
    draw: Callable[[Panel], None]


def on_axes(picture: Picture, ax: Axes | None) -> Axes:
    """Draw the picture on `ax`, or on a new pyplot figure, which notebooks and `plt.show()` display."""
    if ax is None:
        check_installed("matplotlib", "figures need")
        from matplotlib import pyplot

        figure = pyplot.figure(figsize=(picture.width, picture.height), layout="constrained")
        ax = figure.add_subplot()
    picture.draw(Panel(ax))
    return ax


def gaps(values: Series) -> list[float]:
    """Replace missing values and values that are not finite by NaN, which leaves a gap in a line."""
    return [nan if value is None or not isfinite(value) else value for value in values]


def not_finite(values: Series, noun: str) -> str:
    """Return how many values are not finite, as in "not finite: 2 of 5 positions", or "" for 0."""
    count = sum(map(isnan, gaps(values)))
    return f"not finite: {count:,} of {counted(len(values), noun)}" if count else ""


class SignedValue(NamedTuple):
    """The name and the length of a bar. `is_sum` is True if the bar is the sum of other bars."""

    name: str
    value: float
    is_sum: bool = False


def draw_bars(panel: Panel, rows: Sequence[SignedValue], number: Callable[[float], str]) -> None:
    """Draw horizontal bars from 0 with their numbers. A value that is not finite has no bar."""
    values = [row.value if isfinite(row.value) else 0.0 for row in rows]
    colours = [DARK if row.is_sum else BLUE if row.value < 0 else ORANGE for row in rows]
    ax = panel.ax
    ax.barh(range(len(rows)), values, color=colours, height=0.72)
    ax.axvline(0, color=GREY, linewidth=0.8)
    numbers = [minus(number(row.value)) for row in rows]
    share = max(0.28, 0.04 * max(map(len, numbers)))
    low, high = min([0.0, *values]), max([0.0, *values])
    room = share * (high - low) or 1.0  # room for the numbers
    ax.set_xlim(low - room * (low < 0), high + room)
    ax.set_ylim(len(rows) - 0.5, -0.5)
    for place, (value, text) in enumerate(zip(values, numbers, strict=True)):
        side, gap = ("right", -0.05) if value < 0 else ("left", 0.05)
        panel.write(value + room * gap, place, text, ha=side, va="center")
    panel.ticks("y", [row.name for row in rows])
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)


def label_step(count: int, inches: float) -> int:
    """Return the smallest n so that every n-th of `count` labels fits into `inches`."""
    least = max(1, ceil(count * LINE / max(inches, LINE)))
    steps = (1, 2, 5, 10, 20, 50, 100, 200, 500)
    return next((step for step in steps if step >= least), least)


def minus(text: str) -> str:
    """Replace the hyphens that are minus signs in numbers and formulas, as in "-0.5", "1e-05" or "-log"."""
    return re.sub(r"(?<!\w)-(?=\w)|(?<=\de)-(?=\d)", "−", text)


def escaped(text: str) -> str:
    """Replace characters that the font and its fallback fonts lack by escapes such as \\u4e2d."""
    if text.isascii():
        return text
    from matplotlib.font_manager import FontProperties, findfont, get_font

    families = FontProperties().get_family()
    fonts = [get_font(findfont(FontProperties(family=[family]))) for family in families]
    drawable = {c for c in text if c == "\n" or any(font.get_char_index(ord(c)) for font in fonts)}
    return "".join(c if c in drawable else c.encode("unicode_escape").decode() for c in text)

"""Small drawings of numbers where there is no SVG: blocks of colour, and characters that are blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..page.drawings import Drawings, course, part_of, said_of
from ..page.markup import Markup, element
from ..sections import DotPlot

BAR = 96  # pixels of a bar
PLOT_HEIGHT = 60  # pixels
MOST_COLUMNS = 120  # of a plot, 4 pixels each
MOST_MARKS = 30  # of a sparkline
MARKS = "▁▂▃▄▅▆▇█"


def _share_bar(share: float) -> Markup:
    """A bar of a share between 0 and 1."""
    return _bar(0, BAR * part_of(share), "own")


def _signed_bar(value: float, scale: float) -> Markup:
    """A bar from the middle, to the right where the value is positive."""
    if not (math.isfinite(value) and scale > 0):
        return Markup()
    length = BAR / 2 * part_of(abs(value) / scale)
    return _bar(BAR / 2 - length if value < 0 else BAR / 2, length, "other" if value < 0 else "own")


def _bar(start: float, length: float, kind: str) -> Markup:
    place = f"margin-left: {start:.0f}px; width: {length:.0f}px"
    filled = element("span", class_=f"filled {kind}", style=place)
    return element("span", filled, class_="bar", style=f"width: {BAR}px")


def _sparkline(values: Sequence[float | None]) -> Markup:
    """A character for each value or each mean of several; a blank where there is none, ? for what is not
    finite."""
    return element("span", *map(_mark, course(values, MOST_MARKS).shares), class_="spark")


def _mark(share: float | None) -> str:
    if share is None:
        return " "
    return MARKS[min(int(share * len(MARKS)), len(MARKS) - 1)] if share == share else "?"


def _dots(plot: DotPlot) -> Markup:
    """A column for the mean of each run of steps, the scale at its left, the steps below."""
    found = course(plot.values, MOST_COLUMNS)
    columns = [element("span", class_="column own", style=f"height: {_height(s)}px") for s in found.shares]
    drawn = element("td", *columns, rowspan="2", class_="plot")
    rows = [
        element("tr", element("td", f"{found.high:.4g}", class_="n"), drawn),
        element("tr", element("td", f"{found.low:.4g}", class_="n bottom")),
        element("tr", element("td"), element("td", f"step {plot.first:,} to {plot.last:,}")),
    ]
    return element("table", element("tbody", *rows), title=said_of(plot, found))


def _height(share: float | None) -> int:
    """Pixels of a column, of which the lowest can be seen."""
    return 0 if share is None or share != share else 1 + round((PLOT_HEIGHT - 1) * share)


def _titled(shown: str, name: str) -> Markup:
    """A notebook has nowhere to lead to: the name shows where one points."""
    return element("span", shown, title=name)


IN_NOTEBOOK = Drawings(_share_bar, _signed_bar, _sparkline, _dots, _titled)

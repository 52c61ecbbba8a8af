"""Small drawings of numbers in a notebook, which strips SVG: the characters that a terminal shows."""

from __future__ import annotations

from collections.abc import Sequence

from ..characters import bar, dot_plot, signed_bar, sparkline
from ..page.drawings import Drawings
from ..page.markup import Markup, element
from ..sections import DotPlot

BAR, SIGNED, SPARK, PLOT = 12, 21, 30, 100  # characters of each


def _drawn(text: str) -> Markup:
    return element("span", text, class_="drawn")


def _share_bar(share: float) -> Markup:
    return _drawn(bar(share, BAR))


def _signed_bar(value: float, scale: float) -> Markup:
    return _drawn(signed_bar(value, scale, SIGNED))


def _sparkline(values: Sequence[float | None]) -> Markup:
    return _drawn(sparkline(values, SPARK))


def _dots(plot: DotPlot) -> Markup:
    return element("div", *(element("div", line) for line in dot_plot(plot, PLOT)), class_="drawn")


def _titled(shown: str, name: str) -> Markup:
    """A notebook has nowhere to lead to: the name shows where one points."""
    return element("span", shown, title=name)


IN_NOTEBOOK = Drawings(_share_bar, _signed_bar, _sparkline, _dots, _titled)

"""Make HTML elements from untrusted text, and small SVG drawings of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise
from typing import NamedTuple

from ...text.printable import on_one_line
from ..characters import clipped, course
from ..sections import DotPlot


class Markup(str):
    """Text that is HTML already. `element` does not escape Markup."""

    __slots__ = ()


def text(content: str) -> Markup:
    """Escape text for HTML. Invisible characters are written as escapes, such as \\u202e."""
    return Markup(escape(on_one_line(content)))


def element(tag: str, *children: str, **attributes: str | bool | None) -> Markup:
    """Return an element. Children that are not Markup are escaped. An attribute with None or False is left
    out, and an attribute with True has no value. In the name of an attribute, _ becomes -, but a final _ is
    removed."""
    inside = "".join(_attribute(name, value) for name, value in attributes.items())
    inner = "".join(child if isinstance(child, Markup) else text(child) for child in children)
    return Markup(f"<{tag}{inside}>{inner}</{tag}>")


def _attribute(name: str, value: str | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(on_one_line(str(value)))}"'


MOST_POINTS = 100  # largest number of points in a sparkline
MOST_DOTS = 400  # largest number of dots in a dot plot


class Drawings(NamedTuple):
    """The functions that draw cells and plots. `reference(text, name)` returns a text that refers to the
    event, parameter or element `name`."""

    share_bar: Callable[[float], Markup]
    signed_bar: Callable[[float, float], Markup]
    sparkline: Callable[[Sequence[float | None]], Markup]
    dots: Callable[[DotPlot], Markup]
    reference: Callable[[str, str], Markup]


def _signed_bar(value: float, scale: float) -> Markup:
    """Draw a bar from the middle to the right for a positive value, or to the left for any other value."""
    if not (math.isfinite(value) and scale > 0):
        return Markup()
    part = 50 * clipped(abs(value) / scale)
    return _bar(50 - part if value < 0 else 50, part, "below" if value < 0 else "above")


def _bar(x: float, width: float, kind: str) -> Markup:
    rect = element("rect", x=f"{x:.1f}", y="0", width=f"{width:.1f}", height="10", class_=kind)
    return _drawing("bar", "0 0 100 10", rect)


def _sparkline(values: Sequence[float | None]) -> Markup:
    """Draw a line through a series, with gaps where values are missing."""
    shares, *_ = course(values, MOST_POINTS)
    points = _points(shares, 100 / max(1, len(shares) - 1))
    if not any(points):
        return Markup()
    strokes = [
        f"{'ML'[bool(before)]}{point[0]:.1f} {18 - 16 * point[1]:.1f}"
        for before, point in pairwise([None, *points])
        if point is not None
    ]
    return _drawing("spark", "0 0 100 20", element("path", d="".join(strokes)))


def _drawing(kind: str, box: str, shape: Markup) -> Markup:
    """Return an SVG that fills its box. Screen readers skip it, because its number is also in the text."""
    return element("svg", shape, class_=kind, viewBox=box, preserveAspectRatio="none", aria_hidden="true")


def _dots(plot: DotPlot) -> Markup:
    """Draw a series as dots over its steps. In a long series, each dot is the mean of several steps."""
    shares, low, high = course(plot.values, MOST_DOTS)
    points = _points(shares, 560 / max(1, len(shares) - 1))
    circles = [
        element("circle", cx=f"{60 + point[0]:.1f}", cy=f"{150 - 140 * point[1]:.1f}", r="2")
        for point in points
        if point is not None
    ]
    labels = [
        element("text", f"{high:.4g}", x="54", y="14", text_anchor="end"),
        element("text", f"{low:.4g}", x="54", y="154", text_anchor="end"),
        element("text", f"{plot.first:,}", x="60", y="174"),
        element("text", f"{plot.last:,}", x="620", y="174", text_anchor="end"),
    ]
    steps = f"{len(plot.values):,} values from step {plot.first:,} to {plot.last:,}"
    label = f"{steps}, {low:.4g} to {high:.4g}"
    drawing = element(
        "svg", *circles, *labels, viewBox="0 0 640 180", class_="dots", role="img", aria_label=label
    )
    return element("figure", drawing)


def _points(shares: Sequence[float | None], step: float) -> list[tuple[float, float] | None]:
    """Return a point (x, share) for each share, `step` apart. The point of a missing share is None."""
    return [None if share is None or share != share else (step * n, share) for n, share in enumerate(shares)]


ON_PAGE = Drawings(
    share_bar=lambda share: _bar(0, 100 * clipped(share), "own"),
    signed_bar=_signed_bar,
    sparkline=_sparkline,
    dots=_dots,
    reference=lambda label, name: element("a", label, href=f"#{name}"),
)

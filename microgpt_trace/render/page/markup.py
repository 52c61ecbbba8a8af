"""Markup: elements of a page from text that comes from strangers, and small drawings of numbers as SVG, whose
colours the page gives. Knows no section."""

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
    """Text that is markup already."""

    __slots__ = ()


def text(content: str) -> Markup:
    """Content as text: nothing of it is markup, and what has no shape of its own is spelled out."""
    return Markup(escape(on_one_line(content)))


def element(tag: str, *children: str, **attributes: str | bool | None) -> Markup:
    """An element. Children that are no Markup are text; an attribute of None or False is left out, one of
    True has no value, and an underscore in its name is a dash (class_ is class)."""
    said = "".join(_attribute(name, value) for name, value in attributes.items())
    inner = "".join(own if isinstance(own, Markup) else text(own) for own in children)
    return Markup(f"<{tag}{said}>{inner}</{tag}>")


def _attribute(name: str, value: str | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = name.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(on_one_line(str(value)))}"'


MOST_POINTS = 100  # of a sparkline
MOST_DOTS = 400


class Drawings(NamedTuple):
    """How markup shows what is more than text. `reference` is what shows an event, a parameter or an element
    of one, with the name of that."""

    share_bar: Callable[[float], Markup]
    signed_bar: Callable[[float, float], Markup]
    sparkline: Callable[[Sequence[float | None]], Markup]
    dots: Callable[[DotPlot], Markup]
    reference: Callable[[str, str], Markup]


def _share_bar(share: float) -> Markup:
    """A bar of a share between 0 and 1."""
    return _bar(0, 100 * clipped(share), "own")


def _signed_bar(value: float, scale: float) -> Markup:
    """A bar from the middle, to the right where the value is positive."""
    if not (math.isfinite(value) and scale > 0):
        return Markup()
    part = 50 * clipped(abs(value) / scale)
    return _bar(50 - part if value < 0 else 50, part, "below" if value < 0 else "above")


def _bar(x: float, width: float, kind: str) -> Markup:
    rect = element("rect", x=f"{x:.1f}", y="0", width=f"{width:.1f}", height="10", class_=kind)
    return _drawing("bar", "0 0 100 10", rect)


def _sparkline(values: Sequence[float | None]) -> Markup:
    """A line through a series, broken where there is no value."""
    shares = course(values, MOST_POINTS).shares
    places = _places(shares, 100 / max(1, len(shares) - 1))
    if not any(places):
        return Markup()
    strokes = [
        f"{'ML'[bool(before)]}{place[0]:.1f} {18 - 16 * place[1]:.1f}"
        for before, place in pairwise([None, *places])
        if place is not None
    ]
    return _drawing("spark", "0 0 100 20", element("path", d="".join(strokes)))


def _drawing(kind: str, box: str, shape: Markup) -> Markup:
    """A shape that fills its room. What it shows is said beside it."""
    return element("svg", shape, class_=kind, viewBox=box, preserveAspectRatio="none", aria_hidden="true")


def _dots(plot: DotPlot) -> Markup:
    """A series as dots over its steps, one for the mean of a run of them."""
    found = course(plot.values, MOST_DOTS)
    places = _places(found.shares, 560 / max(1, len(found.shares) - 1))
    circles = [
        element("circle", cx=f"{60 + place[0]:.1f}", cy=f"{150 - 140 * place[1]:.1f}", r="2")
        for place in places
        if place is not None
    ]
    labels = [
        element("text", f"{found.high:.4g}", x="54", y="14", text_anchor="end"),
        element("text", f"{found.low:.4g}", x="54", y="154", text_anchor="end"),
        element("text", f"{plot.first:,}", x="60", y="174"),
        element("text", f"{plot.last:,}", x="620", y="174", text_anchor="end"),
    ]
    steps = f"{len(plot.values):,} values from step {plot.first:,} to {plot.last:,}"
    said = f"{steps}, {found.low:.4g} to {found.high:.4g}"
    drawing = element(
        "svg", *circles, *labels, viewBox="0 0 640 180", class_="dots", role="img", aria_label=said
    )
    return element("figure", drawing)


def _places(shares: Sequence[float | None], step: float) -> list[tuple[float, float] | None]:
    """Where each share lies, so far from each other; None for what has no place."""
    return [None if share is None or share != share else (step * n, share) for n, share in enumerate(shares)]


def _link(shown: str, name: str) -> Markup:
    return element("a", shown, href=f"#{name}")


ON_PAGE = Drawings(_share_bar, _signed_bar, _sparkline, _dots, _link)

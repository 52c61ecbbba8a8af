"""Errors in order of computation beside what is allowed, the first beyond it marked. Knows no comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .panel import BLUE, DARK, GREY, ORANGE, PAGE, Panel, Picture

NAMED = 42  # events whose names all have room
COLOURS, SHAPES = (BLUE, ORANGE, GREY), "oXv^x"  # in the order of the legend


class Error(NamedTuple):
    """How far off an event is, and how far it may be."""

    name: str
    layer: int | None
    size: float
    allowed: float
    holds: bool


class CourseWords(NamedTuple):
    """What is said of the errors: of those that hold, of those that do not, on the axis, as the title, and of
    those that are not known."""

    within: str
    beyond: str
    axis: str
    title: str
    untold: str = ""


def course_picture(
    errors: Sequence[Error], words: CourseWords, first: str | None, left: tuple[float, str] | None = None
) -> Picture:
    """The errors by their order. At the `first` beyond its band a line, and what is `left` of it with words
    for what leaves that."""
    floor, ceiling = _bounds(errors, left)

    def height(size: float) -> float:
        return min(size, ceiling) if size > 0 else floor

    def draw(panel: Panel) -> None:
        ax = panel.ax
        ax.set(yscale="log", ylim=(floor / 2, ceiling * 2), xlim=(-1, len(errors)))
        bands = [max(error.allowed, floor) for error in errors]
        ax.step(range(len(errors)), bands, where="mid", color=GREY, linewidth=1, label="allowed")
        alike: dict[_Mark, list[tuple[float, float]]] = {}
        for at, error in enumerate(errors):
            alike.setdefault(_mark(error, words), []).append((at, height(error.size)))
        for mark in sorted(alike, key=lambda mark: (COLOURS.index(mark.colour), SHAPES.index(mark.shape))):
            x, y = zip(*alike[mark], strict=True)
            ax.plot(x, y, mark.shape, color=mark.colour, markersize=4, linestyle="none", label=mark.words)
        if first is not None:
            at = next(x for x, error in enumerate(errors) if error.name == first)
            ax.axvline(at, color=ORANGE, linewidth=0.8, linestyle=":", label=f"first: {first}")
            if left is not None:
                ax.plot(at, height(left[0]), "D", color=DARK, fillstyle="none", markersize=4, label=left[1])
        _name_events(panel, errors)
        panel.names(y=words.axis)
        panel.title(words.title, above=panel.legend(3))

    return Picture(PAGE, 3.6 if len(errors) <= NAMED else 3.0, draw)


def _bounds(errors: Sequence[Error], left: tuple[float, str] | None) -> tuple[float, float]:
    """Where zeros and where infinities are drawn: a tenth of the smallest, ten times the largest."""
    sizes = [size for error in errors for size in (error.size, error.allowed)]
    sizes += [left[0]] if left else []
    known = [size for size in sizes if 0 < size < math.inf]
    low, high = (min(known), max(known)) if known else (1e-8, 1.0)
    return low / 10, high * (10 if math.inf in sizes else 1)


class _Mark(NamedTuple):
    """How a point is drawn, and what the legend says of it."""

    shape: str
    colour: str
    words: str


def _mark(error: Error, words: CourseWords) -> _Mark:
    if math.isnan(error.size):
        return _Mark("x", GREY, words.untold)
    colour = BLUE if error.holds else ORANGE
    if error.size <= 0:
        return _Mark("v", colour, "0, no difference")
    if error.size == math.inf:
        return _Mark("^", colour, "NaN, infinite")
    return _Mark("o", colour, words.within) if error.holds else _Mark("X", colour, words.beyond)


def _name_events(panel: Panel, errors: Sequence[Error]) -> None:
    """Every event by its name, or where there are too many the layers where they begin."""
    if len(errors) <= NAMED:
        panel.ticks("x", [error.name for error in errors])
        return
    begin: dict[str, int] = {}
    for x, error in enumerate(errors):
        if error.layer is not None:
            begin.setdefault(f"layer {error.layer}", x)
    begin = begin or {errors[0].name: 0}
    panel.ticks("x", list(begin), list(begin.values()))

"""Errors in order of computation beside what is allowed, the first beyond it marked. Knows no comparison."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from .panel import BLUE, DARK, GREY, ORANGE, PAGE, Panel, Picture

NAMED = 42  # events whose names all have room


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
        return floor if size <= 0 else min(size, ceiling)

    def draw(panel: Panel) -> None:
        ax = panel.ax
        told = [(x, error) for x, error in enumerate(errors) if not math.isnan(error.size)]
        untold = [(x, floor) for x, error in enumerate(errors) if math.isnan(error.size)]
        ax.set(yscale="log", ylim=(floor / 2, ceiling * 2), xlim=(-1, len(errors)))
        bands = [max(error.allowed, floor) for error in errors]
        ax.step(range(len(errors)), bands, where="mid", color=GREY, linewidth=1, label="allowed")
        for holds, colour, marker, name in (
            (True, BLUE, "o", words.within),
            (False, ORANGE, "X", words.beyond),
        ):
            of = [(x, error) for x, error in told if error.holds is holds]
            finite = [(x, error.size) for x, error in of if 0 < error.size < math.inf]
            _points(panel, finite, marker, colour, name)
            _points(
                panel, [(x, floor) for x, error in of if error.size <= 0], "v", colour, "0, no difference"
            )
            _points(
                panel,
                [(x, ceiling) for x, error in of if error.size == math.inf],
                "^",
                colour,
                "NaN, infinite",
            )
        _points(panel, untold, "x", GREY, words.untold)
        if first is not None:
            at = next(x for x, error in enumerate(errors) if error.name == first)
            ax.axvline(at, color=ORANGE, linewidth=0.8, linestyle=":", label=f"first: {first}")
            if left is not None:
                _points(panel, [(at, height(left[0]))], "D", DARK, left[1], hollow=True)
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


def _points(
    panel: Panel, points: Sequence[tuple[float, float]], marker: str, colour: str, name: str,
    hollow: bool = False,
) -> None:  # fmt: skip
    if not points:
        return
    x, y = [x for x, _ in points], [y for _, y in points]
    face = "none" if hollow else colour
    panel.ax.plot(
        x, y, marker, color=colour, markerfacecolor=face, markersize=4, linestyle="none", label=name
    )


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

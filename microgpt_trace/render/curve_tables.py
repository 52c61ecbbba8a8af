"""Tables of curves: sparklines with figures beside them. Knows no timeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isfinite
from typing import Any, NamedTuple

from .numbers import ratio
from .sections import Column, DotPlot, Section, Sparkline, Table

Curve = Sequence[float | None]
LEAST_SPARK = 3  # characters from which on a sparkline says something


def spark(curve: Callable[[Any], Curve]) -> Column:
    """A column that shows curves."""
    return Column("", lambda row: Sparkline(curve(row)), elastic=LEAST_SPARK, whole=True, style=_cyan)


def _cyan(row: Any) -> str:
    return "cyan"


def ends(title: str, curve: Callable[[Any], Curve], number: Callable[[float | None], str]) -> list[Column]:
    """A curve between its first and its last value."""
    return [
        Column(title, lambda row: number(first_of(curve(row))), right=True),
        spark(curve),
        Column("last", lambda row: number(first_of(curve(row)[::-1])), right=True),
    ]


def first_of(curve: Curve) -> float | None:
    return next((value for value in curve if value is not None), None)


class CurveColumn(NamedTuple):
    """One curve of an event or a parameter, with the figures beside it as text."""

    what: str
    curve: Curve
    figures: dict[str, str]


def measure(what: str, curve: Curve, number: Callable[[float | None], str] = ratio) -> CurveColumn:
    """The ends of a curve and the extremes of its finite values."""
    finite = [value for value in curve if value is not None and isfinite(value)]
    found = {
        "first": first_of(curve), "last": first_of(curve[::-1]),
        "min": min(finite, default=None), "max": max(finite, default=None),
    }  # fmt: skip
    return CurveColumn(what, curve, {title: number(value) for title, value in found.items()})


def curve_sections(tables: Sequence[tuple[str, Sequence[CurveColumn]]]) -> Iterator[Section]:
    """A table for each name, all with columns of the same widths."""
    measures = [measure for _, rows in tables for measure in rows]
    longest = max(len(text) for name, rows in tables for text in (name, *(row.what for row in rows)))
    widths = {
        title: max(len(measure.figures[title]) for measure in measures) for title in measures[0].figures
    }

    def figure(title: str) -> Column:
        return Column(title, lambda m: m.figures[title].rjust(widths[title]), right=True)

    for name, rows in tables:
        first = Column(name.ljust(longest), lambda m: m.what, whole=True)
        figures = [figure(title) for title in ("last", "min", "max")]
        yield Section([Table([first, figure("first"), spark(lambda m: m.curve), *figures], rows)])


def loss_section(losses: Sequence[float], first: int, last: int) -> Section:
    """The curve of the loss from step `first` to `last`."""
    return Section([DotPlot(losses, first, last)], "Loss", "per step, averaged over each column")

"""Tables of curves: sparklines with figures beside them, laid out to the width of the screen. Knows no
timeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite
from typing import Any, NamedTuple

from .layout import GAP, natural_width, print_table
from .screen import Screen, ratio
from .sections import Column, Sparkline

NARROWEST_COURSE = 3  # characters: a shorter sparkline shows nothing
Curve = Sequence[float | None]


class Spark(NamedTuple):
    """A column that shows curves; it gets a width when all other columns have theirs."""

    curve: Callable[[Any], Curve]


def print_curves(columns: Sequence[Column | Spark], rows: Sequence[Any], screen: Screen) -> None:
    """A table whose sparklines share the room that the figures leave; without any they are left out."""
    figures = [column for column in columns if isinstance(column, Column)]
    taken = sum(natural_width(column, rows, screen) for column in figures)
    sparks = len(columns) - len(figures)
    room = (screen.width - taken - GAP * (len(columns) - 1)) // sparks
    if room < NARROWEST_COURSE:
        print_table(figures, rows, screen)
        return
    print_table([_as_column(column, room) for column in columns], rows, screen)


def _as_column(column: Column | Spark, width: int) -> Column:
    if isinstance(column, Column):
        return column
    curve = column.curve
    return Column("", lambda row: Sparkline(curve(row), width), whole=True, style=lambda row: "cyan")


def ends(
    title: str, curve: Callable[[Any], Curve], number: Callable[[float | None], str]
) -> list[Column | Spark]:
    """A curve between its first and its last value."""
    return [
        Column(title, lambda row: number(first_of(curve(row))), right=True),
        Spark(curve),
        Column("last", lambda row: number(first_of(curve(row)[::-1])), right=True),
    ]


def first_of(curve: Curve) -> float | None:
    return next((value for value in curve if value is not None), None)


def number_text(value: float | None) -> str:
    return ratio(value).replace("nan", "NaN")


def percent_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


class CurveColumn(NamedTuple):
    """One curve of an event or a parameter, with the figures beside it as text."""

    what: str
    curve: Curve
    figures: dict[str, str]


def measure(what: str, curve: Curve, number: Callable[[float | None], str] = number_text) -> CurveColumn:
    """The ends of a curve and the extremes of its finite values."""
    finite = [value for value in curve if value is not None and isfinite(value)]
    found = {
        "first": first_of(curve), "last": first_of(curve[::-1]),
        "min": min(finite, default=None), "max": max(finite, default=None),
    }  # fmt: skip
    return CurveColumn(what, curve, {title: number(value) for title, value in found.items()})


def print_measures(tables: Sequence[tuple[str, Sequence[CurveColumn]]], screen: Screen) -> None:
    """A table for each name, all with columns of the same widths."""
    measures = [measure for _, rows in tables for measure in rows]
    longest = max(len(text) for name, rows in tables for text in (name, *(row.what for row in rows)))
    widths = {
        title: max(len(measure.figures[title]) for measure in measures) for title in measures[0].figures
    }

    def figure(title: str) -> Column:
        return Column(title, lambda m: m.figures[title].rjust(widths[title]), right=True)

    for name, rows in tables:
        screen.say()
        name_column = Column(name.ljust(longest), lambda m: m.what, whole=True)
        curve = Spark(lambda m: m.curve)
        columns: list[Column | Spark] = [
            name_column,
            figure("first"),
            curve,
            figure("last"),
            figure("min"),
            figure("max"),
        ]
        print_curves(columns, rows, screen)

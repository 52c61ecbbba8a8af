"""Signed numbers as bars below each other, the number beside each. Knows no result."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .panel import BLUE, DARK, GREY, ORANGE, Panel

BAR = 0.19  # inches from one to the next


class SignedValue(NamedTuple):
    """A bar: what it is called and how long it is. A sum of others is none of them."""

    name: str
    value: float
    is_sum: bool = False


def draw_bars(panel: Panel, rows: Sequence[SignedValue], number: Callable[[float], str]) -> None:
    """To the right what is positive, to the left what is negative; what is not finite is a number alone."""
    values = [row.value if math.isfinite(row.value) else 0.0 for row in rows]
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

"""A series of numbers as dots on a terminal. Knows not what they are."""

from __future__ import annotations

from itertools import pairwise
from math import isfinite, nan

from ..sections import DotPlot
from .screen import Screen


def dot_plot(plot: DotPlot, screen: Screen, height: int = 8) -> list[str]:
    """The lines of a series as dots, one column for a run of steps, with the scale beside it; "?" where a
    value is not finite."""
    values = plot.values
    width = max(min(screen.width - 10, len(values), 100), 1)
    edges = [round(i * len(values) / width) for i in range(width + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges) if b > a]
    finite = [mean for mean in means if isfinite(mean)]
    low, high = min(finite, default=nan), max(finite, default=nan)
    span = high / 2 - low / 2 or 1  # halves, for the whole may be too large for a float
    levels = [round((m / 2 - low / 2) / span * (height - 1)) if isfinite(m) else -1 for m in means]
    dot, side = ("*", "|") if screen.ascii_only else ("•", "│")
    lines = []
    for level in reversed(range(height)):
        bound = {0: low, height - 1: high}.get(level, nan)
        scale = f"{bound:6.2f}" if abs(bound) < 1e5 else f"{bound:6.0e}" if isfinite(bound) else " " * 6
        marks = (dot if at == level else "?" if at < 0 and level == 0 else " " for at in levels)
        lines.append(f"{scale} {side}" + "".join(marks))
    first, last = f"{plot.first:,}", f"{plot.last:,}"
    lines.append(" " * 8 + first + last.rjust(max(len(means) - len(first), len(last) + 1)))
    return lines

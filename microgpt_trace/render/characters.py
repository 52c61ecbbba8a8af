"""Numbers drawn in characters, as bars, curves and shades; which ink stands out from a colour; and tokens as
far as there is room for them. Knows no screen and no page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size

from ..text.printable import shown_token
from .sections import DotPlot

TOKEN = 12  # characters of a terminal that a token has
FLAT = 1e-3  # of the largest magnitude: what varies by less is flat, for a norm would show its rounding


def token_label(text: str, width: int = TOKEN) -> str:
    """A token, its blanks to be seen, as far as a table has room for it."""
    label = shown_token(text)
    return label if cell_len(label) <= width else f"{set_cell_size(label, width - 1).rstrip()}…"


class Course(NamedTuple):
    """A series as means of so many runs of it: how far each lies from the lowest (0) to the highest (1), None
    where there is none and NaN where one is not finite."""

    shares: Sequence[float | None]
    low: float
    high: float


def course(values: Sequence[float | None], most: int) -> Course:
    """The course of a series, by `most` means or by all of its values."""
    count = max(min(len(values), most), 0)
    edges = [i * len(values) // count for i in range(count + 1)] if count else []
    means = [_mean([value for value in values[a:b] if value is not None]) for a, b in pairwise(edges)]
    known = [mean for mean in means if mean is not None and math.isfinite(mean)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    span = high / 2 - low / 2  # halves, for the whole may be too large for a float
    if 2 * span <= FLAT * max(abs(low), abs(high)):
        span = math.inf
    shares = [mean if mean is None or mean != mean else (mean / 2 - low / 2) / span for mean in means]
    return Course(shares, low, high)


def _mean(values: Sequence[float]) -> float | None:
    """The mean; NaN where a value is not finite."""
    if not values:
        return None
    return sum(value / len(values) for value in values) if all(map(math.isfinite, values)) else math.nan


def part_of(share: float) -> float:
    """As much of a bar as is filled."""
    return min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0


def bar(share: float, width: int, ascii_only: bool = False) -> str:
    """A bar of `share` of the width, in eighths of a character where these exist."""
    share = part_of(share)
    if ascii_only:
        return "#" * round(share * width)
    whole, part = divmod(round(share * width * 8), 8)
    return "█" * whole + (" ▏▎▍▌▋▊▉"[part] if part else "")


def signed_bar(value: float | None, scale: float, width: int, ascii_only: bool = False) -> str:
    """A bar from the middle to the right for what is positive, to the left for what is negative, half the
    width for `scale`; nothing where there is no value, ? for one that is not finite."""
    if value is None:
        return ""
    half, middle = (width - 1) // 2, "|" if ascii_only else "│"
    if not math.isfinite(value):
        return " " * half + "?"
    length = min(abs(value) / scale, 1.0) * half
    if ascii_only:
        drawn = "#" * round(length)
    else:
        whole, rest = divmod(round(length * 2), 2)
        drawn = "█" * whole + ("▐" if value < 0 else "▌") * rest
    return f"{drawn[::-1]:>{half}}{middle}" if value < 0 else f"{' ' * half}{middle}{drawn}"


def sparkline(values: Sequence[float | None], width: int, ascii_only: bool = False) -> str:
    """A character for each value, or for each mean of several; a blank where there is none, ? for what is
    not finite."""
    levels = "_.-=+*#@" if ascii_only else "▁▂▃▄▅▆▇█"
    return "".join(
        " " if share is None else "?" if share != share else levels[min(int(share * len(levels)), 7)]
        for share in course(values, width).shares
    )


def shade(share: float, ascii_only: bool = False) -> str:
    """One character, darker for a larger share of 1."""
    return (" .:+#" if ascii_only else " ░▒▓█")[min(int(part_of(share) * 5), 4)]


def is_dark(color: Sequence[float]) -> bool:
    """Whether white stands out more than black from a colour, red, green and blue from 0 to 1: by its
    luminance, as WCAG 2 defines that."""
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179


def dot_plot(plot: DotPlot, width: int, ascii_only: bool = False, height: int = 8) -> list[str]:
    """The lines of a series as dots, one column for a run of steps, with the scale beside it; "?" where a
    value is not finite."""
    shares, low, high = course(plot.values, max(width, 1))
    levels = [-1 if share is None or share != share else round(share * (height - 1)) for share in shares]
    dot, side = ("*", "|") if ascii_only else ("•", "│")
    bounds = {0: low, height - 1: high} if max(levels, default=-1) >= 0 else {}
    lines = []
    for level in reversed(range(height)):
        bound = bounds.get(level)
        scale = " " * 6 if bound is None else f"{bound:6.2f}" if abs(bound) < 1e5 else f"{bound:6.0e}"
        marks = (dot if at == level else "?" if at < 0 and level == 0 else " " for at in levels)
        lines.append(f"{scale} {side}" + "".join(marks))
    first, last = f"{plot.first:,}", f"{plot.last:,}"
    lines.append(" " * 8 + first + last.rjust(max(len(levels) - len(first), len(last) + 1)))
    return lines

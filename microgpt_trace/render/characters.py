"""Plot numbers as bars, curves and shades of characters, and shorten tokens. These functions do not depend on
a screen or a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from rich.cells import cell_len, set_cell_size

from ..text.printable import shown_token
from .sections import DotPlot

TOKEN = 12  # width of a token in cells of a terminal
FLAT = 1e-3  # a series that varies by less than this share of its magnitude counts as flat


def token_label(text: str, width: int = TOKEN) -> str:
    """Return a token with visible blanks, shortened to `width` cells."""
    label = shown_token(text)
    return label if cell_len(label) <= width else f"{set_cell_size(label, width - 1).rstrip()}…"


def course(values: Sequence[float | None], most: int) -> tuple[list[float | None], float, float]:
    """Scale the means of at most `most` successive chunks of a series, so that the lowest mean is 0 and the
    highest mean is 1. Return the scaled means, the lowest and the highest mean. A scaled mean is None for a
    chunk without values, and NaN for a chunk with NaN or infinity."""
    count = max(min(len(values), most), 0)
    edges = [i * len(values) // count for i in range(count + 1)] if count else []
    means = [_mean([value for value in values[a:b] if value is not None]) for a, b in pairwise(edges)]
    finite = [mean for mean in means if mean is not None and math.isfinite(mean)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    span = high / 2 - low / 2  # half of the range, because high - low may overflow
    if 2 * span <= FLAT * max(abs(low), abs(high)):
        span = math.inf
    shares = [mean if mean is None or mean != mean else (mean / 2 - low / 2) / span for mean in means]
    return shares, low, high


def _mean(values: Sequence[float]) -> float | None:
    """Return the mean of `values`, NaN if a value is not finite, or None if there are no values."""
    if not values:
        return None
    return sum(value / len(values) for value in values) if all(map(math.isfinite, values)) else math.nan


def clipped(share: float) -> float:
    """Limit a share to the range from 0 to 1. Return 0 if the share is not finite."""
    return min(1.0, max(0.0, share)) if math.isfinite(share) else 0.0


def bar(share: float, width: int, ascii_only: bool = False) -> str:
    """Return a bar that fills `share` of the width, in steps of 1/8 character (1 if `ascii_only`)."""
    share = clipped(share)
    if ascii_only:
        return "#" * round(share * width)
    whole, part = divmod(round(share * width * 8), 8)
    return "█" * whole + (" ▏▎▍▌▋▊▉"[part] if part else "")


def signed_bar(value: float | None, scale: float, width: int, ascii_only: bool = False) -> str:
    """Return a bar from the middle to the right for a positive value, or to the left for a negative value. A
    bar for the value `scale` fills half of the width. The result is "" for a missing value, and "?" for a
    value that is not finite."""
    if value is None:
        return ""
    half, middle = (width - 1) // 2, "|" if ascii_only else "│"
    if not math.isfinite(value):
        return " " * half + "?"
    length = min(abs(value) / scale, 1.0) * half
    if ascii_only:
        filled = "#" * round(length)
    else:
        whole, rest = divmod(round(length * 2), 2)
        filled = "█" * whole + ("▐" if value < 0 else "▌") * rest
    return f"{filled[::-1]:>{half}}{middle}" if value < 0 else f"{' ' * half}{middle}{filled}"


def sparkline(values: Sequence[float | None], width: int, ascii_only: bool = False) -> str:
    """Return a character for each value, or for the mean of several values. A missing value is " ", and a
    value that is not finite is "?"."""
    levels = "_.-=+*#@" if ascii_only else "▁▂▃▄▅▆▇█"
    shares, *_ = course(values, width)
    return "".join(
        " " if share is None else "?" if share != share else levels[min(int(share * len(levels)), 7)]
        for share in shares
    )


def shade(share: float, ascii_only: bool = False) -> str:
    """Return one character, darker for a larger share from 0 to 1."""
    return (" .:+#" if ascii_only else " ░▒▓█")[min(int(clipped(share) * 5), 4)]


def dot_plot(plot: DotPlot, width: int, ascii_only: bool = False, height: int = 8) -> list[str]:
    """Return the lines of a dot plot with a scale. Each column shows the mean of successive steps. A "?"
    marks a value that is not finite."""
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

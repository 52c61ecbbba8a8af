"""What of a series is not finite: a gap in its line, and how many there are in words. Knows no result."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ...text.wording import counted
from .panel import Panel

Series = Sequence[float | None]  # None where nothing is known


def gaps(values: Series) -> list[float]:
    """The values, with a gap where there is none or one that is not finite."""
    return [math.nan if value is None or not math.isfinite(value) else value for value in values]


def not_finite(values: Series, of: str) -> str:
    """ "not finite: 2 of 5 positions", or nothing where all are."""
    count = sum(map(math.isnan, gaps(values)))
    return f"not finite: {count:,} of {counted(len(values), of)}" if count else ""


def draw_line(panel: Panel, places: Sequence[float], values: Series, *style: str, **more: Any) -> None:
    """A line with its gaps, over all of the places even where nothing is left of it."""
    panel.ax.plot(places, gaps(values), *style, **more)
    panel.ax.dataLim.update_from_data_x(places, ignore=False)

"""Two runs side by side as a figure: how far apart each event is."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...comparison.differences import Comparison
from ...text.wording import counted
from .course import CourseWords, Error, course_picture
from .panel import Picture, on_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_diff(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """How far the worst row of every event lies apart, in order of computation, beside its band; where two
    runs part first is marked."""
    return on_axes(diff_picture(comparison), ax)


def diff_picture(comparison: Comparison) -> Picture:
    """The distance that the table calls worst, beside its band."""
    errors = [
        Error(event.name, event.layer, event.relative, event.tolerance, event.holds)
        for event in comparison.events
    ]
    beyond = sum(not error.holds for error in errors)
    agree = "all within their bands" if not beyond else f"{beyond:,} beyond their band"
    told = sum(not math.isnan(error.size) for error in errors)
    part = sum(event.alike > 0 and not math.isnan(event.relative) for event in comparison.events)
    events = counted(len(errors), "event") if told == len(errors) else f"{told:,} of {len(errors):,} events"
    in_part = f", {part:,} of them without elements that are not finite," if part else ""
    title = f"{events} compared{in_part or ','} {agree}"
    of = "the statistics" if comparison.of_statistics else "the worst row"
    untold = "not compared, NaN or infinite on both"
    words = CourseWords("within its band", "beyond its band", f"distance of {of}", title, untold)
    return course_picture(errors, words, comparison.first)

"""Small drawings of numbers as SVG, whose colours the page gives. Knows not what the numbers are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from ..sections import DotPlot
from .markup import Markup, element

MOST_DOTS = 400


def share_bar(share: float) -> Markup:
    """A bar of a share between 0 and 1."""
    part = share if math.isfinite(share) else 0.0
    return _bar(0, 100 * min(1.0, max(0.0, part)), "own")


def signed_bar(value: float, scale: float) -> Markup:
    """A bar from the middle, to the right where the value is positive."""
    if not (math.isfinite(value) and scale > 0):
        return Markup()
    part = 50 * min(1.0, abs(value) / scale)
    return _bar(50 - part if value < 0 else 50, part, "below" if value < 0 else "above")


def _bar(x: float, width: float, kind: str) -> Markup:
    rect = element("rect", x=f"{x:.1f}", y="0", width=f"{width:.1f}", height="10", class_=kind)
    return element(
        "svg", rect, class_="bar", viewBox="0 0 100 10", preserveAspectRatio="none", aria_hidden="true"
    )


def sparkline(values: Sequence[float | None]) -> Markup:
    """A line through a series, broken where there is no value."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return Markup()
    low, high = min(known), max(known)
    step, span = 100 / max(1, len(values) - 1), (high - low) or 1.0
    places = [
        (step * n, 18 - 16 * (value - low) / span) if value is not None and math.isfinite(value) else None
        for n, value in enumerate(values)
    ]
    lines = [
        element("line", x1=f"{a[0]:.1f}", y1=f"{a[1]:.1f}", x2=f"{b[0]:.1f}", y2=f"{b[1]:.1f}")
        for a, b in pairwise(places)
        if a is not None and b is not None
    ]
    return element(
        "svg", *lines, class_="spark", viewBox="0 0 100 20", preserveAspectRatio="none", aria_hidden="true"
    )


def dots(plot: DotPlot) -> Markup:
    """A series as dots over its steps, one for the mean of a run of them."""
    width = min(len(plot.values), MOST_DOTS)
    edges = [round(i * len(plot.values) / width) for i in range(width + 1)]
    means = [sum(plot.values[a:b]) / (b - a) for a, b in pairwise(edges) if b > a]
    known = [mean for mean in means if math.isfinite(mean)]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    span, step = (high - low) or 1.0, 560 / max(1, len(means) - 1)
    circles = [
        element("circle", cx=f"{60 + n * step:.1f}", cy=f"{150 - 140 * (mean - low) / span:.1f}", r="2")
        for n, mean in enumerate(means)
        if math.isfinite(mean)
    ]
    labels = [
        element("text", f"{high:.4g}", x="54", y="14", text_anchor="end"),
        element("text", f"{low:.4g}", x="54", y="154", text_anchor="end"),
        element("text", f"{plot.first:,}", x="60", y="174"),
        element("text", f"{plot.last:,}", x="620", y="174", text_anchor="end"),
    ]
    said = f"{len(plot.values):,} values from step {plot.first:,} to {plot.last:,}, {low:.4g} to {high:.4g}"
    drawing = element(
        "svg", *circles, *labels, viewBox="0 0 640 180", class_="dots", role="img", aria_label=said
    )
    return element("figure", drawing)

"""Plot the errors of a comparison or a diagnosis in order of computation, with the allowed errors.
Mark the first error above the allowed error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...comparison.differences import Comparison
from ...diagnosis.diagnose import Diagnosis, DumpDiagnosis
from ...errors import InputError
from ...grouping import grouped
from ...text.wording import counted
from .panel import BLUE, DARK, GREY, ORANGE, PAGE, Panel, Picture, minus, on_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = 42  # largest number of events whose names fit below the axis
COLOURS, SHAPES = (BLUE, ORANGE, GREY), "oXv^x"  # in the order of the legend


class Error(NamedTuple):
    """The error of an event, and the largest allowed error of the event."""

    name: str
    layer: int | None
    size: float
    allowed: float
    holds: bool


def plot_diff(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """Plot the distance of every event's worst row with its band, in order of computation. Mark the first
    distance beyond its band."""
    return on_axes(diff_picture(comparison), ax)


def plot_diagnosis(diagnosis: DumpDiagnosis, ax: Axes | None = None) -> Axes:
    """Plot the error of each operation on its recorded inputs, with the error that rounding explains. Mark
    the first wrong operation, and the error that its best explanation leaves."""
    return on_axes(diagnosis_picture(diagnosis), ax)


def diff_picture(comparison: Comparison) -> Picture:
    """Return the figure of the distances of the worst rows (or of statistics) with their bands."""
    events = comparison.events
    errors = [Error(e.name, e.layer, e.relative, e.tolerance, e.holds) for e in events]
    beyond = sum(not error.holds for error in errors)
    agree = "all within their bands" if not beyond else f"{beyond:,} beyond their band"
    count = sum(not math.isnan(error.size) for error in errors)
    partial = sum(event.alike > 0 and not math.isnan(event.relative) for event in events)
    compared = f"{count:,} of " * (count < len(errors)) + counted(len(errors), "event")
    in_part = f", {partial:,} only in finite elements" if partial else ""
    axis = f"distance of {'the statistics' if comparison.of_statistics else 'the worst row'}"
    labels = "within its band", "beyond its band", "not compared: both NaN or both infinite"
    return _picture(errors, labels, axis, f"{compared} compared{in_part}, {agree}", comparison.first)


def diagnosis_picture(dump: DumpDiagnosis) -> Picture:
    """Return the figure. Raises InputError if no operation could be judged."""
    diagnosis = dump.diagnosis
    errors = [
        Error(o.name, o.layer, math.inf if o.error is None else o.error, o.tolerance, o.holds)
        for o in diagnosis.operations
        if o.error is not None or not o.holds
    ]
    if not errors:
        raise InputError("diagnosis: no operation could be judged, so there is nothing to plot")
    labels, axis = ("follows from its inputs", "does not", ""), "error of the worst row"
    best = [f.residual for f in diagnosis.findings if f.explains and f.operation == diagnosis.first_wrong]
    return _picture(errors, labels, axis, _claim(diagnosis), diagnosis.first_wrong, best[:1])


def _claim(diagnosis: Diagnosis) -> str:
    """Return the title: the explanation of the first wrong operation, or the number of wrong operations."""
    claims = [finding.claim for finding in diagnosis.findings if finding.explains]
    if claims:
        return minus(claims[0]) + (f" (or {counted(len(claims) - 1, 'other')})" if len(claims) > 1 else "")
    judged = counted(diagnosis.judged, "operation")
    if diagnosis.first_wrong is not None:
        return f"{judged} judged; none of {len(diagnosis.tried):,} hypotheses explains the first error"
    return f"{judged} judged, {len(diagnosis.wrong):,} wrong"


def _picture(
    errors: Sequence[Error], labels: Sequence[str], axis: str, title: str, first: str | None,
    residual: Sequence[float] = (),
) -> Picture:  # fmt: skip
    """Plot the errors in order. `labels` are the legend entries of allowed errors, of errors that are too
    large, and of events that were not compared. Draw a line at the event `first`, the first event beyond its
    band. If the first error has an explanation, plot the `residual` error too."""
    floor, ceiling = _bounds(errors, residual)

    def height(size: float) -> float:
        return min(size, ceiling) if size > 0 else floor

    def draw(panel: Panel) -> None:
        ax = panel.ax
        ax.set(yscale="log", ylim=(floor / 2, ceiling * 2), xlim=(-1, len(errors)))
        bands = [max(error.allowed, floor) for error in errors]
        ax.step(range(len(errors)), bands, where="mid", color=GREY, linewidth=1, label="allowed")
        marks = grouped(range(len(errors)), lambda at: _mark(errors[at], labels))
        for (colour, shape, label), places in sorted(marks.items()):
            y, mark = [height(errors[at].size) for at in places], SHAPES[shape]
            ax.plot(places, y, mark, color=COLOURS[colour], markersize=4, linestyle="none", label=label)
        if first is not None:
            at = next(x for x, error in enumerate(errors) if error.name == first)
            ax.axvline(at, color=ORANGE, linewidth=0.8, linestyle=":", label=f"first: {first}")
            for size in residual:
                label = "left by the explanation"
                ax.plot(at, height(size), "D", color=DARK, fillstyle="none", markersize=4, label=label)
        _name_events(panel, errors)
        panel.label(title, y=axis)

    return Picture(PAGE, 3.6 if len(errors) <= NAMED else 3.0, draw)


def _bounds(errors: Sequence[Error], residual: Sequence[float]) -> tuple[float, float]:
    """Return the heights of zeros (a tenth of the smallest error) and infinities (10 times the largest)."""
    sizes = [*residual, *(size for error in errors for size in (error.size, error.allowed))]
    finite = [size for size in sizes if 0 < size < math.inf] or [1e-8, 1.0]
    return min(finite) / 10, max(finite) * (10 if math.inf in sizes else 1)


def _mark(error: Error, labels: Sequence[str]) -> tuple[int, int, str]:
    """Return the index of the point's colour, the index of its shape, and its legend entry."""
    if math.isnan(error.size):
        return 2, 4, labels[2]
    beyond = int(not error.holds)
    if error.size <= 0:
        return beyond, 2, "0, no difference"
    if error.size == math.inf:
        return beyond, 3, "NaN, infinite"
    return beyond, beyond, labels[beyond]


def _name_events(panel: Panel, errors: Sequence[Error]) -> None:
    """Name every event below the axis, or the first event of each layer if all names do not fit."""
    if len(errors) <= NAMED:
        panel.ticks("x", [error.name for error in errors])
        return
    layers = grouped(range(len(errors)), lambda x: errors[x].layer)
    begin = {f"layer {layer}": places[0] for layer, places in layers.items() if layer is not None}
    begin = begin or {errors[0].name: 0}
    panel.ticks("x", list(begin), list(begin.values()))

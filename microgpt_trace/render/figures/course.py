"""Errors in order of computation beside what is allowed, the first beyond it marked: how far apart two runs
are in each event, and which operations of a dump follow from their own inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...comparison.differences import Comparison
from ...diagnosis.diagnose import Diagnosis, DumpDiagnosis
from ...errors import InputError
from ...grouping import grouped
from ...text.wording import counted
from .panel import BLUE, DARK, GREY, ORANGE, PAGE, Panel, Picture, on_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAMED = 42  # events whose names all have room
COLOURS, SHAPES = (BLUE, ORANGE, GREY), "oXv^x"  # in the order of the legend


class Error(NamedTuple):
    """How far off an event is, and how far it may be."""

    name: str
    layer: int | None
    size: float
    allowed: float
    holds: bool


class CourseWords(NamedTuple):
    """What is said of the errors: of those that hold, of those that do not, on the axis, as the title, and of
    those that are not known."""

    within: str
    beyond: str
    axis: str
    title: str
    untold: str = ""


def plot_diff(comparison: Comparison, ax: Axes | None = None) -> Axes:
    """How far the worst row of every event lies apart, in order of computation, beside its band; where two
    runs part first is marked."""
    return on_axes(diff_picture(comparison), ax)


def plot_diagnosis(found: DumpDiagnosis, ax: Axes | None = None) -> Axes:
    """How far each operation is from what follows from its own inputs, beside what rounding explains; at the
    first wrong one what the best explanation leaves of that."""
    return on_axes(diagnosis_picture(found), ax)


def diff_picture(comparison: Comparison) -> Picture:
    """The distance that the table calls worst, beside its band."""
    events = comparison.events
    errors = [Error(e.name, e.layer, e.relative, e.tolerance, e.holds) for e in events]
    beyond = sum(not error.holds for error in errors)
    agree = "all within their bands" if not beyond else f"{beyond:,} beyond their band"
    told = sum(not math.isnan(error.size) for error in errors)
    part = sum(event.alike > 0 and not math.isnan(event.relative) for event in events)
    compared = counted(len(errors), "event") if told == len(errors) else f"{told:,} of {len(errors):,} events"
    in_part = f", {part:,} of them without elements that are not finite" if part else ""
    axis = f"distance of {'the statistics' if comparison.of_statistics else 'the worst row'}"
    title, untold = f"{compared} compared{in_part}, {agree}", "not compared, NaN or infinite on both"
    words = CourseWords("within its band", "beyond its band", axis, title, untold)
    return _picture(errors, words, comparison.first)


def diagnosis_picture(found: DumpDiagnosis) -> Picture:
    """Raises InputError where no operation could be judged."""
    diagnosis = found.diagnosis
    errors = [
        Error(o.name, o.layer, math.inf if o.error is None else o.error, o.tolerance, o.holds)
        for o in diagnosis.operations
        if o.error is not None or not o.holds
    ]
    if not errors:
        raise InputError("diagnosis: no operation could be judged, so there is nothing to draw")
    words = CourseWords("follows from its inputs", "does not", "error of the worst row", _claim(diagnosis))
    best = next((f for f in diagnosis.findings if f.explains and f.operation == diagnosis.first_wrong), None)
    return _picture(errors, words, diagnosis.first_wrong, [] if best is None else [best.residual])


def _claim(diagnosis: Diagnosis) -> str:
    """The explanations of the first wrong operation, or how many operations are right."""
    claims = [finding.claim for finding in diagnosis.findings if finding.explains]
    if claims:
        return claims[0] + (f" (or {counted(len(claims) - 1, 'other')})" if len(claims) > 1 else "")
    judged = counted(diagnosis.judged, "operation")
    if diagnosis.first_wrong is not None:
        return f"{judged} judged; none of {len(diagnosis.tried):,} hypotheses explains the first wrong one"
    return f"{judged} judged, {len(diagnosis.wrong):,} wrong"


def _picture(
    errors: Sequence[Error], words: CourseWords, first: str | None, left: Sequence[float] = ()
) -> Picture:
    """The errors by their order. At the `first` beyond its band a line, and what is `left` of it by the
    explanation, if there is one."""
    floor, ceiling = _bounds(errors, left)

    def height(size: float) -> float:
        return min(size, ceiling) if size > 0 else floor

    def draw(panel: Panel) -> None:
        ax = panel.ax
        ax.set(yscale="log", ylim=(floor / 2, ceiling * 2), xlim=(-1, len(errors)))
        bands = [max(error.allowed, floor) for error in errors]
        ax.step(range(len(errors)), bands, where="mid", color=GREY, linewidth=1, label="allowed")
        alike = grouped(range(len(errors)), lambda at: _mark(errors[at], words))
        for (colour, shape, said), places in sorted(alike.items()):
            y, mark = [height(errors[at].size) for at in places], SHAPES[shape]
            ax.plot(places, y, mark, color=COLOURS[colour], markersize=4, linestyle="none", label=said)
        if first is not None:
            at = next(x for x, error in enumerate(errors) if error.name == first)
            ax.axvline(at, color=ORANGE, linewidth=0.8, linestyle=":", label=f"first: {first}")
            for size in left:
                said = "left by the explanation"
                ax.plot(at, height(size), "D", color=DARK, fillstyle="none", markersize=4, label=said)
        _name_events(panel, errors)
        panel.label(words.title, y=words.axis, above=panel.legend(3))

    return Picture(PAGE, 3.6 if len(errors) <= NAMED else 3.0, draw)


def _bounds(errors: Sequence[Error], left: Sequence[float]) -> tuple[float, float]:
    """Where zeros and where infinities are drawn: a tenth of the smallest, ten times the largest."""
    sizes = [*left, *(size for error in errors for size in (error.size, error.allowed))]
    known = [size for size in sizes if 0 < size < math.inf]
    low, high = (min(known), max(known)) if known else (1e-8, 1.0)
    return low / 10, high * (10 if math.inf in sizes else 1)


def _mark(error: Error, words: CourseWords) -> tuple[int, int, str]:
    """Which of the colours and of the shapes a point has, and what the legend says of it."""
    if math.isnan(error.size):
        return 2, 4, words.untold
    beyond = int(not error.holds)
    if error.size <= 0:
        return beyond, 2, "0, no difference"
    if error.size == math.inf:
        return beyond, 3, "NaN, infinite"
    return beyond, beyond, words.beyond if beyond else words.within


def _name_events(panel: Panel, errors: Sequence[Error]) -> None:
    """Every event by its name, or where there are too many the layers where they begin."""
    if len(errors) <= NAMED:
        panel.ticks("x", [error.name for error in errors])
        return
    begin: dict[str, int] = {}
    for x, error in enumerate(errors):
        if error.layer is not None:
            begin.setdefault(f"layer {error.layer}", x)
    begin = begin or {errors[0].name: 0}
    panel.ticks("x", list(begin), list(begin.values()))

"""A training run as figures: its loss, what it predicted while it learned, how its events changed."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ...errors import InputError
from ...text.printable import shown_token
from ...text.wording import counted
from ...timeline.curves import Curve, EventCurve, ParameterCurve, Timeline
from ...tracing.result import Trace
from .panel import (
    BLUE,
    COLUMN,
    LINES,
    MARKERS,
    PAGE,
    Panel,
    Picture,
    draw_line,
    gaps,
    not_finite,
    on_axes,
    stacked,
)
from .predictions import loss_by_position

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = len(LINES)  # curves that can be told apart


def plot_loss(result: Trace | Timeline, ax: Axes | None = None) -> Axes:
    """Of a trace the loss at every position, of a training run that of every step."""
    return on_axes(loss_picture(result), ax)


def plot_timeline(timeline: Timeline, curves: bool = False, ax: Axes | None = None) -> Axes:
    """The loss of every step, and of the watched name P(target) by position over the traced steps. With
    `curves` the L2 norms of the timeline's events and parameters, and of their gradients. Each has Axes of
    its own within the one returned."""
    return on_axes(timeline_picture(timeline, curves), ax)


def loss_picture(result: Trace | Timeline) -> Picture:
    """Raises InputError where there is no loss."""
    if isinstance(result, Trace):
        return loss_by_position(result)
    _check_losses(result)
    return Picture(COLUMN, 2.4, lambda panel: _draw_loss(panel, result))


def timeline_picture(timeline: Timeline, curves: bool = False) -> Picture:
    """Raises InputError where the log tells nothing of what is drawn, or of too much."""
    return _of_events(timeline) if curves else _overview(timeline)


def _overview(timeline: Timeline) -> Picture:
    panels: list[Callable[[Panel], None]] = []
    if timeline.positions:
        panels.append(lambda panel: _draw_predictions(panel, timeline))
    if len(timeline.loss.steps) > 1:
        panels.append(lambda panel: _draw_loss(panel, timeline))
    if not panels:
        raise InputError(f"timeline: {timeline.log} has neither predictions nor losses to draw")
    return _stack(panels, PAGE * 0.75)


def _stack(panels: Sequence[Callable[[Panel], None]], width: float) -> Picture:
    def draw(panel: Panel) -> None:
        for place, draw_one in zip(stacked(panel, [(1, 0.3)] * len(panels)), panels, strict=True):
            draw_one(place)

    return Picture(width, 2.2 * len(panels) + 0.4, draw)


def _check_losses(timeline: Timeline) -> None:
    if len(timeline.loss.steps) < 2:
        raise InputError(f"loss: {timeline.log} has {counted(len(timeline.loss.steps), 'step')}, no curve")


def _draw_loss(panel: Panel, timeline: Timeline) -> None:
    """Every step as it is: the loss of a batch jumps."""
    loss = timeline.loss.loss
    draw_line(panel, timeline.loss.steps, loss, color=BLUE, linewidth=0.6)
    chance = math.log(timeline.config.vocab_size)
    panel.ax.axhline(chance, color="black", linestyle="--", linewidth=0.8, label=f"chance, {chance:.2f}")
    panel.names("training step", "loss of the batch")
    panel.title(not_finite(loss, "step"), above=panel.legend(1))
    _finish(panel)


def _draw_predictions(panel: Panel, timeline: Timeline) -> None:
    names = [f"{p.position} {shown_token(p.seen)} → {shown_token(p.target)}" for p in timeline.positions]
    title = f'what follows in "{shown_token(timeline.watched)}"'
    _draw_curves(panel, timeline.steps, names, "P(target)", [p.p for p in timeline.positions], title)


def _of_events(timeline: Timeline) -> Picture:
    rows: list[EventCurve | ParameterCurve] = [*timeline.events, *timeline.parameters]
    if len(rows) > MOST:
        raise InputError(
            f"timeline of {len(rows):,} events and parameters: {MOST} curves can be told apart; name fewer "
            "by --event"
        )
    measures = {
        "L2 norm": [row.l2 for row in rows],
        "L2 norm of the gradient": [row.gradient for row in rows],
    }
    names = [row.name for row in rows]
    panels = [
        lambda panel, what=what, curves=curves: _draw_curves(panel, timeline.steps, names, what, curves)
        for what, curves in measures.items()
        if any(value is not None for curve in curves for value in curve)
    ]
    if not panels:
        raise InputError(f"timeline: {timeline.log} tells no norm of {', '.join(names) or 'any event'}")
    return _stack(panels, PAGE * 0.75)


def _draw_curves(
    panel: Panel, steps: Sequence[int], names: Sequence[str], what: str, curves: Sequence[Curve],
    title: str = "",
) -> None:  # fmt: skip
    for i, (name, curve) in enumerate(zip(names, curves, strict=True)):
        colour, line = LINES[i % MOST]
        draw_line(
            panel, steps, curve, color=colour, linestyle=line, linewidth=1,
            marker=MARKERS[(i + i // MOST) % MOST], markersize=3, label=panel.said(name),
        )  # fmt: skip
    panel.ax.set_ylim(0, None)
    broken = any(math.isnan(value) for curve in curves for value in gaps(curve))
    panel.title(", ".join(filter(None, [title, "a gap: not finite, or not in the log" * broken])))
    panel.names("training step", what)
    panel.legend_beside()
    _finish(panel)


def _finish(panel: Panel) -> None:
    panel.ax.grid(alpha=0.3, linewidth=0.5)

"""Plot curves: the loss and the predictions of a training run, and the residual stream of a
production model after each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...errors import InputError
from ...text.printable import shown_token
from ...timeline.curves import Timeline
from ...tracing.result import Trace
from .panel import BLUE, COLUMN, DARK, GREY, ORANGE, PAGE, Panel, Picture, gaps, not_finite, on_axes
from .prediction_figures import loss_by_position

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = (
    (BLUE, "-"), (ORANGE, "--"), ("#009e73", "-."), ("#cc79a7", ":"), ("#e69f00", "-"), ("#56b4e9", "--"),
    (DARK, "-."), (GREY, ":"),
)  # fmt: skip
MARKERS = "os^Dv<>P"
MOST = len(LINES)  # largest number of curves that have different colours or line styles
FAR = 20  # an axis is logarithmic if the largest value exceeds 20 times the smallest


def plot_loss(result: Trace | Timeline, ax: Axes | None = None) -> Axes:
    """Plot the loss at every position of a trace, or of every step of a training run."""
    return on_axes(loss_picture(result), ax)


def plot_timeline(timeline: Timeline, ax: Axes | None = None) -> Axes:
    """Plot the loss of every step, and P(target) at each position of the watched name over the traced steps.
    The panels are `child_axes` of the returned Axes."""
    return on_axes(timeline_picture(timeline), ax)


def plot_stream(trace: Trace, ax: Axes | None = None) -> Axes:
    """Plot the L2 norm of the residual stream after each layer, and the outputs of attention and MLP relative
    to the residual stream. All values are medians over the positions. The two panels are `child_axes` of the
    returned Axes."""
    return on_axes(stream_picture(trace), ax)


def loss_picture(result: Trace | Timeline) -> Picture:
    """Return the figure. Raises InputError if the result has no loss or only one step."""
    if isinstance(result, Trace):
        return loss_by_position(result)
    steps = result.loss.steps
    if len(steps) < 2:
        raise InputError(f"loss: a curve needs at least 2 steps, {result.log} has {len(steps)}")
    return Picture(COLUMN, 2.4, lambda panel: _draw_loss(panel, result))


def timeline_picture(timeline: Timeline) -> Picture:
    """Return the figure. Raises InputError if the log has neither predictions nor a curve of the loss."""
    draws = [_draw_predictions] * bool(timeline.positions) + [_draw_loss] * (len(timeline.loss.steps) > 1)
    if not draws:
        raise InputError(f"timeline: {timeline.log} has neither predictions nor losses to plot")

    def draw(panel: Panel) -> None:
        for place, draw_one in zip(panel.stacked([(1, 0.45)] * len(draws)), draws, strict=True):
            draw_one(place, timeline)

    return Picture(PAGE * 0.75, 2.2 * len(draws) + 0.4, draw)


def _draw_loss(panel: Panel, timeline: Timeline) -> None:
    loss = timeline.loss.loss
    _draw_line(panel, timeline.loss.steps, loss, color=BLUE, linewidth=0.6)
    chance = math.log(timeline.config.vocab_size)
    panel.ax.axhline(chance, color="black", linestyle="--", linewidth=0.8, label=f"chance, {chance:.2f}")
    panel.label(not_finite(loss, "step"), x="training step", y="loss of the batch")
    _rule(panel)


def _draw_predictions(panel: Panel, timeline: Timeline) -> None:
    for i, position in enumerate(timeline.positions):
        colour, line = LINES[i % MOST]
        name = f"{position.position} {shown_token(position.seen)} → {shown_token(position.target)}"
        _draw_line(
            panel, timeline.steps, position.p, color=colour, linestyle=line, linewidth=1,
            marker=MARKERS[(i + i // MOST) % MOST], markersize=3, label=panel.escaped(name),
        )  # fmt: skip
    panel.ax.set_ylim(0, None)
    title = f'probability of each next letter in "{shown_token(timeline.watched)}"'
    if any(math.isnan(value) for position in timeline.positions for value in gaps(position.p)):
        title += ", a gap: a value that is not finite or not in the log"
    panel.label(title, x="training step", y="P(target)")
    _rule(panel)


def stream_picture(trace: Trace) -> Picture:
    """Return the figure. Raises InputError if `trace.layers` is empty, as for a microGPT."""
    rows = trace.layers
    if not rows:
        raise InputError("stream: only a trace of a production model contains the table of layers")
    numbers = [row.layer for row in rows]
    norms = [row.row_norm for row in rows]
    shares = (
        ("attention", [row.attention_share for row in rows], BLUE, "o-"),
        ("MLP", [row.mlp_share for row in rows], ORANGE, "s--"),
    )
    nonfinite = not_finite([row.row_norm + row.attention_share + row.mlp_share for row in rows], "layer")

    def draw(panel: Panel) -> None:
        above, below = panel.stacked([(1, 0.3)] * 2)
        _draw_line(above, numbers, norms, "o-", color=DARK, markersize=3, linewidth=1)
        title = "residual stream after each layer" + f", {nonfinite}" * bool(nonfinite)
        above.label(title, y="L2 norm of a row")
        above.ax.tick_params(labelbottom=False)
        for name, values, colour, line in shares:
            _draw_line(below, numbers, values, line, color=colour, label=name, markersize=3, linewidth=1)
        below.label(x="layer", y="|write| / |residual stream|")
        _scale(above, norms)
        _scale(below, [value for _, values, *_ in shares for value in values])

    return Picture(COLUMN, 3.6, draw)


def _draw_line(
    panel: Panel, places: Sequence[float], values: Sequence[float | None], *style: str, **more: Any
) -> None:
    """Draw a line with gaps at missing values. The x axis covers all `places`, even if no value is finite."""
    panel.ax.plot(places, gaps(values), *style, **more)
    panel.ax.dataLim.update_from_data_x(places, ignore=False)


def _scale(panel: Panel, values: Sequence[float | None]) -> None:
    """Scale the axis linearly from 0, or logarithmically if the values differ by a factor above FAR."""
    finite = [value for value in gaps(values) if not math.isnan(value)] or [0.0]
    if min(finite) > 0 and max(finite) > FAR * min(finite):
        panel.ax.set_yscale("log")
        panel.ax.tick_params(axis="y", which="minor", labelleft=False)
    else:
        panel.ax.set_ylim(0, None)
    panel.ax.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    _rule(panel)
    panel.ax.margins(x=0.03)


def _rule(panel: Panel) -> None:
    panel.ax.grid(alpha=0.3, linewidth=0.5)

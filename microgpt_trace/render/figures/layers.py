"""A production model's layers as a figure: how large the residual stream is, and what each layer wrote."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ...errors import InputError
from ...tracing.result import Trace
from .panel import (
    BLUE,
    COLUMN,
    DARK,
    ORANGE,
    Panel,
    Picture,
    Series,
    draw_line,
    gaps,
    not_finite,
    on_axes,
    stacked,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FAR = 20  # times the smallest: from there on an axis is logarithmic


def plot_stream(trace: Trace, ax: Axes | None = None) -> Axes:
    """The L2 norm of the residual stream after each layer, and beside it what attention and MLP wrote; of all
    the median over the positions. The two have Axes of their own within the one returned."""
    return on_axes(stream_picture(trace), ax)


def stream_picture(trace: Trace) -> Picture:
    """Raises InputError for a trace without rows of layers."""
    rows = trace.layers
    if not rows:
        raise InputError("stream: this trace measured no layers; that of a production model does")
    numbers = [row.layer for row in rows]
    norms = [row.row_norm for row in rows]

    shares = (
        ("attention", [row.attention_share for row in rows], BLUE, "o-"),
        ("MLP", [row.mlp_share for row in rows], ORANGE, "s--"),
    )
    lacking = not_finite([row.row_norm + row.attention_share + row.mlp_share for row in rows], "layer")

    def draw(panel: Panel) -> None:
        above, below = stacked(panel, [(1, 0.3)] * 2)
        draw_line(above, numbers, norms, "o-", color=DARK, markersize=3, linewidth=1)
        above.names(y="L2 norm of a row")
        above.title("residual stream after each layer" + f", {lacking}" * bool(lacking))
        above.ax.tick_params(labelbottom=False)
        for name, values, colour, line in shares:
            draw_line(below, numbers, values, line, color=colour, label=name, markersize=3, linewidth=1)
        below.names("layer", "|write| / |stream|")
        below.legend(2)
        _finish(above, norms)
        _finish(below, [value for _, values, *_ in shares for value in values])

    return Picture(COLUMN, 3.6, draw)


def _finish(panel: Panel, values: Series) -> None:
    """A scale from 0, or a logarithmic one where the values lie far apart."""
    finite = [value for value in gaps(values) if not math.isnan(value)] or [0.0]
    if min(finite) > 0 and max(finite) > FAR * min(finite):
        panel.ax.set_yscale("log")
        panel.ax.tick_params(axis="y", which="minor", labelleft=False)
    else:
        panel.ax.set_ylim(0, None)
    panel.ax.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]
    panel.ax.grid(alpha=0.3, linewidth=0.5)
    panel.ax.margins(x=0.03)

"""Plot predictions: candidates at each position, the top token after each layer, and the loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ...errors import InputError
from ...tracing.result import Candidate, Trace
from ..characters import token_label
from ..numbers import three_decimals
from .heat import ColorScale, add_bar, draw_heat, write_cells
from .panel import BLUE, COLUMN, DARK, LINE, PAGE, Panel, Picture, gaps, minus, not_finite, on_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PROBABILITY = ColorScale(0.0, 1.0, "probability")
MOST = 64  # largest number of positions in a figure
CELL, ROW = 0.62, 0.26  # width and height in inches of a cell with a token and its probability
LABEL = 8  # largest number of characters of a token in a cell
NOTHING, NOT_FINITE = "–", "not finite"  # texts of a cell without a candidate


def plot_probabilities(trace: Trace, ax: Axes | None = None) -> Axes:
    """Plot the target and the most probable tokens at every predicted position. The option `top_k` of the
    trace sets the number of tokens."""
    return on_axes(probabilities_picture(trace), ax)


def plot_lens(trace: Trace, ax: Axes | None = None) -> Axes:
    """Plot, for each layer, the most probable token of a model that ends after this layer. The trace
    needs `lens=True`."""
    return on_axes(lens_picture(trace), ax)


def probabilities_picture(trace: Trace) -> Picture:
    """Return the figure. Raises InputError if the trace has no prediction, or too many predictions."""
    rows = trace.predictions
    _check_room("probs", len(rows))
    depth = max(1, *(len(row.top) for row in rows))
    targets = any(row.target for row in rows)
    cells = [[*[row.target or NOTHING] * targets, *row.top, *[NOT_FINITE] * (depth - len(row.top))]
             for row in rows]  # fmt: skip
    columns = ["target"] * targets + [f"{n + 1}" for n in range(depth)]

    def draw(panel: Panel) -> None:
        _draw_cells(panel, cells, two_lines=True)
        positions = [_position(trace, row.position) for row in rows]
        panel.label(x="most probable next tokens", y="after position", columns=columns, rows=positions)
        panel.ax.tick_params(axis="x", rotation=0)
        if targets:
            panel.ax.axvline(0.5, color="white", linewidth=3)

    return Picture(max(COLUMN, len(columns) * CELL + 1.7), len(rows) * ROW + 0.8, draw)


def lens_picture(trace: Trace) -> Picture:
    """Return the figure. Raises InputError for a trace without a logit lens, or with too many positions."""
    rows = trace.lens
    if not rows:
        cause = "this trace has no logit lens"
        raise InputError(f"lens: {cause}; use --lens, or lens=True, with a production model")
    positions = rows[0].positions
    _check_room("lens", len(positions))
    cells = [[candidate or NOT_FINITE for candidate in row.predicted] for row in rows]

    def draw(panel: Panel) -> None:
        _draw_cells(panel, cells, two_lines=False)
        panel.label(
            "top token if the model ended after the layer", x="position and token read", y="after layer",
            columns=[_position(trace, at) for at in positions], rows=[str(row.layer) for row in rows],
        )  # fmt: skip

    return Picture(max(COLUMN, len(positions) * CELL + 1.5), len(rows) * LINE * 1.4 + 1.2, draw)


def loss_by_position(trace: Trace) -> Picture:
    """Return the figure of -log P(target) by position. Raises InputError if no position has a target."""
    rows = [row for row in trace.predictions if row.loss is not None]
    if not rows:
        raise InputError("loss: no predicted position has a target")
    _check_room("loss", len(rows))
    losses = [row.loss for row in rows]
    heights, chance = [0.0 if math.isnan(loss) else loss for loss in gaps(losses)], trace.chance_loss

    def draw(panel: Panel) -> None:
        places = range(len(rows))
        panel.ax.bar(places, heights, color=BLUE, width=0.75)
        panel.ax.set(xlim=(-0.6, len(rows) - 0.4), ylim=(0, 1.05 * max(chance, *heights)))
        panel.ax.axhline(chance, color=DARK, linestyle="--", linewidth=1, label=f"chance, {chance:.2f}")
        panel.label(
            not_finite(losses, "position"), x="position, token and target", y="loss, −log P(target)",
            columns=[f"{_position(trace, row.position)} → {_label(row.target)}" for row in rows],
        )  # fmt: skip
        for place, value in zip(places, gaps(losses), strict=True):
            if math.isnan(value):
                panel.write(place, chance / 50, "not finite", rotation=90, ha="center", va="bottom")

    return Picture(min(max(COLUMN, len(rows) * LINE * 1.2 + 0.9), 1.6 * PAGE), 2.8, draw)


def _draw_cells(panel: Panel, cells: Sequence[Sequence[Candidate | str]], two_lines: bool) -> None:
    """Draw the cells. The colour of a candidate shows its probability. Other cells contain only a text."""
    values = np.array([[math.nan if isinstance(c, str) else c.p for c in row] for row in cells])
    image = draw_heat(panel, values, PROBABILITY, crossed=False)
    write_cells(panel, values, [[_cell(c, two_lines) for c in row] for row in cells], PROBABILITY)
    add_bar(panel, [image], PROBABILITY, values[np.isfinite(values)])


def _cell(candidate: Candidate | str, two_lines: bool) -> str:
    if isinstance(candidate, str):
        return candidate
    return _label(candidate) + (f"\n{minus(three_decimals(candidate.p))}" if two_lines else "")


def _label(candidate: Candidate | None) -> str:
    return "" if candidate is None else token_label(candidate.label, LABEL)


def _position(trace: Trace, position: int) -> str:
    return f"{position} {token_label(trace.input.labels[position], LABEL)}"


def _check_room(name: str, count: int) -> None:
    if not count:
        raise InputError(f"{name}: this trace has no predictions")
    if count > MOST:
        limit = f"a figure shows at most {MOST} positions; select some with --positions or positions="
        raise InputError(f"{name} of {count:,} positions: {limit}")

"""Draw a matrix as colours with a colour bar. Masked cells are blank, and cells that are not finite have a
cross."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..characters import is_dark
from .panel import SMALL, TEXT, Panel

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap

    from ...arrays.stats import Array

DOTS = 200  # pixels per inch in a file
HATCHED = "0.85"  # the grey of the hatching
# Colours from -1 to 1, with grey at 0. From -1 to 1 the colours get lighter, as in cividis.
# Therefore negative and positive values look different in print and to colour-blind readers.
SIGNED = (
    "#08184f", "#1d4495", "#4a77bd", "#7f9fc0", "#a3a6a8", "#c9a97c", "#e3b65c", "#f5d472", "#fff3b8",
)  # fmt: skip
_ARROWS = "neither", "min", "max", "both"  # which ends of the colour bar have an arrow


class Scale(NamedTuple):
    """The lowest and the highest value of a colour scale, and its label. If `rooted` is set, the colour
    depends on the square root of a value, so that small values can be distinguished."""

    low: float
    high: float
    words: str
    rooted: bool = False

    @property
    def signed(self) -> bool:
        return self.low < 0

    @property
    def colours(self) -> Colormap:
        from matplotlib import colormaps
        from matplotlib.colors import LinearSegmentedColormap

        return LinearSegmentedColormap.from_list("signed", SIGNED) if self.signed else colormaps["cividis"]


def symmetric(values: Array, words: str) -> Scale:
    """Return a symmetric scale for signed values, with grey for 0 in its middle."""
    finite = np.abs(values[np.isfinite(values)])
    most = float(finite.max(initial=0.0)) or 1.0
    return Scale(-most, most, words)


def draw_heat(
    panel: Panel, values: Array, scale: Scale, *, hidden: Array | None = None, hatched: bool = True,
    square: bool = False, crossed: bool = True,
) -> ScalarMappable:  # fmt: skip
    """Draw a matrix [R, C] with row 0 at the top. `hidden` cells are blank, or hatched if `hatched` is set.
    Cells that are not finite are blank, or have a cross if `crossed` is set.
    """
    from matplotlib.colors import Normalize, PowerNorm

    ax = panel.ax
    norm = PowerNorm(0.5, scale.low, scale.high) if scale.rooted else Normalize(scale.low, scale.high)
    odd = ~np.isfinite(values)
    hidden = np.zeros(values.shape, bool) if hidden is None else hidden
    image = ax.imshow(
        np.ma.masked_array(values, odd | hidden), cmap=scale.colours, norm=norm,
        aspect="equal" if square else "auto", interpolation="auto" if is_dense(panel, values) else "nearest",
        interpolation_stage="data",
    )  # fmt: skip
    if hatched and hidden.any():
        ax.patch.set(hatch="/////", edgecolor=HATCHED, linewidth=0)
    rows, columns = np.nonzero(odd & ~hidden)
    if crossed and len(rows):
        ax.plot(columns, rows, "x", color="black", markersize=4, markeredgewidth=1)
    ax.set(xlim=(-0.5, values.shape[1] - 0.5), ylim=(values.shape[0] - 0.5, -0.5))
    ax.tick_params(length=2, labelsize=SMALL)
    return image


def is_dense(panel: Panel, values: Array) -> bool:
    """Return True if cells are smaller than the pixels of a file. Each pixel then shows a mean of cells."""
    width, height = panel.inches
    return values.shape[1] > width * DOTS or values.shape[0] > height * DOTS


def room_for_crosses(values: Array) -> float:
    """Return the width in inches that the explanation of crosses needs beside a colour bar."""
    return 0.0 if np.isfinite(values).all() else 0.16


def add_bar(panel: Panel, image: ScalarMappable, scale: Scale, values: Array, remark: str = "") -> None:
    """Draw the colour bar beside the Axes. An end of the scale has an arrow if a value lies beyond this end.
    If a value is not finite, the label explains the crosses."""
    extend = _ARROWS[(values < scale.low).any() + 2 * (values > scale.high).any()]
    bar = panel.ax.figure.colorbar(image, ax=panel.ax, fraction=0.05, pad=0.02, aspect=25, extend=extend)
    root = ", square-root scale" * scale.rooted
    crosses = "" if np.isfinite(values).all() else "\n× not finite"
    bar.set_label(panel.escaped(f"{scale.words}{root}{remark}{crosses}"), fontsize=TEXT)
    bar.ax.yaxis.get_offset_text().set_fontsize(SMALL)
    bar.ax.tick_params(labelsize=SMALL, length=2)
    if scale.rooted:
        bar.set_ticks([0, 0.02, 0.1, 0.3, 0.6, 1])


def write_cells(panel: Panel, values: Array, texts: Sequence[Sequence[str]], scale: Scale) -> None:
    """Write a text in every cell, in black or white to have more contrast with the colour of the cell."""
    colours = scale.colours
    for (row, column), value in np.ndenumerate(values):
        share = (value - scale.low) / (scale.high - scale.low) if np.isfinite(value) else 0.5
        colour = colours(float(np.sqrt(share) if scale.rooted else share))
        ink = "white" if np.isfinite(value) and is_dark(colour[:3]) else "black"
        if text := texts[row][column]:
            panel.write(column, row, text, ha="center", va="center", color=ink)

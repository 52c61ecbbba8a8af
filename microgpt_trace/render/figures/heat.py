"""A matrix as colours: the scale said on a bar beside it, what is masked left out, what is no number crossed
out. Knows no result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from ..characters import is_dark
from .panel import SMALL, TEXT, Panel

if TYPE_CHECKING:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Colormap

    from ...arrays.stats import Array

DOTS = 200  # an inch of a file
HATCHED = "0.85"  # a grey
# From -1 by grey at 0 to 1. It grows lighter all the way, as cividis does, so that no eye and no printer
# mixes up what is negative and what is positive.
SIGNED = (
    "#08184f", "#1d4495", "#4a77bd", "#7f9fc0", "#a3a6a8", "#c9a97c", "#e3b65c", "#f5d472", "#fff3b8",
)  # fmt: skip
_ARROWS: dict[tuple[bool, bool], Literal["neither", "min", "max", "both"]] = {
    (False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both",
}  # fmt: skip


class Scale(NamedTuple):
    """From which value to which, in which colours, and what they are of. `rooted`: by their square root,
    which tells small ones apart."""

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
    """A scale of signed values, grey at 0."""
    finite = np.abs(values[np.isfinite(values)])
    most = float(finite.max(initial=0.0)) or 1.0
    return Scale(-most, most, words)


def draw_heat(
    panel: Panel, values: Array, scale: Scale, *, hidden: Array | None = None, hatched: bool = True,
    square: bool = False, crossed: bool = True,
) -> ScalarMappable:  # fmt: skip
    """The matrix [R, C], row 0 at the top; cells that are `hidden` show what lies behind. Others that are not
    finite do so too, beneath a cross if they are to be `crossed`."""
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
    """Whether several cells share a dot, of which it then shows the mean."""
    width, height = panel.inches
    return values.shape[1] > width * DOTS or values.shape[0] > height * DOTS


def room_for_crosses(values: Array) -> float:
    """Inches that the words for them take beside a scale."""
    return 0.0 if np.isfinite(values).all() else 0.16


def add_bar(panel: Panel, image: ScalarMappable, scale: Scale, values: Array, remark: str = "") -> None:
    """The scale beside the Axes, with an arrow where some of the values shown lie beyond its end, and words
    for the crosses of those that are not finite."""
    extend = _ARROWS[bool((values < scale.low).any()), bool((values > scale.high).any())]
    bar = panel.ax.figure.colorbar(image, ax=panel.ax, fraction=0.05, pad=0.02, aspect=25, extend=extend)
    root = ", square-root scale" * scale.rooted
    crosses = "" if np.isfinite(values).all() else "\n× not finite"
    bar.set_label(panel.said(f"{scale.words}{root}{remark}{crosses}"), fontsize=TEXT)
    bar.ax.yaxis.get_offset_text().set_fontsize(SMALL)
    bar.ax.tick_params(labelsize=SMALL, length=2)
    if scale.rooted:
        bar.set_ticks([0, 0.02, 0.1, 0.3, 0.6, 1])


def write_cells(panel: Panel, values: Array, texts: Sequence[Sequence[str]], scale: Scale) -> None:
    """A text in every cell, black or white, whichever stands out from its colour."""
    colours = scale.colours
    for row, own in enumerate(texts):
        for column, text in enumerate(own):
            value = values[row, column]
            share = (value - scale.low) / (scale.high - scale.low) if np.isfinite(value) else 0.5
            if text:
                colour = colours(float(np.sqrt(share) if scale.rooted else share))
                ink = "white" if np.isfinite(value) and is_dark(colour[:3]) else "black"
                panel.write(column, row, text, ha="center", va="center", color=ink)

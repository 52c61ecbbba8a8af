"""Draw a matrix as colours with a colour bar. Masked cells are blank, and cells that are not finite have a
cross."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..colors import SCALES, Kind, is_dark
from .panel import SMALL, TEXT, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap, Normalize
    from matplotlib.image import AxesImage
    from matplotlib.transforms import Bbox

    from ...arrays.stats import Array

DOTS = 200  # pixels per inch in a file
HATCHED = "0.85"  # the grey of the hatching
_ARROWS = "neither", "min", "max", "both"  # the ends of the scale with an arrow
_ARROW = 0.05  # length of an arrow, as a part of the colour bar without arrows
_BAR, _GAP = 0.14, 0.08  # width of a colour bar in inches, and distance from its map
_SIGNED = SCALES["signed"].light
_STOPS = {"share": SCALES["share"].light, "signed": (*_SIGNED[:4], "#ffffff", *_SIGNED[5:])}


class ColorScale(NamedTuple):
    """The lowest and the highest value of a colour bar, its label, and its colours. In a signed scale, 0 is
    white like the paper, and values of the same magnitude are equally far from white."""

    low: float
    high: float
    words: str
    kind: Kind = "share"

    @property
    def colours(self) -> Colormap:
        from matplotlib.colors import LinearSegmentedColormap

        return LinearSegmentedColormap.from_list(self.kind, _STOPS[self.kind], N=257)  # odd: 0 is a colour

    @property
    def norm(self) -> Normalize:
        from matplotlib.colors import Normalize

        end = max(-self.low, self.high)
        return Normalize(-end if self.kind == "signed" else self.low, end)


def signed_scale(values: Array, words: str, least: float = 0.0) -> ColorScale:
    """Return a scale of signed values. Its bar runs from the lowest to the highest value and contains 0, so
    that no part of the bar is unused. The larger magnitude of its two ends is at least `least`."""
    finite = values[np.isfinite(values)]
    low, high = float(finite.min(initial=0.0)), float(finite.max(initial=0.0))
    end = max(-low, high, least) or 1.0
    return ColorScale(-end, high, words, "signed") if -low > high else ColorScale(low, end, words, "signed")


def draw_heat(
    panel: Panel, values: Array, scale: ColorScale, *, hidden: Array | None = None, hatched: bool = True,
    square: bool = False, crossed: bool = True,
) -> AxesImage:  # fmt: skip
    """Draw a matrix [R, C] with row 0 at the top. `hidden` cells are blank, or hatched if `hatched` is set.
    Cells that are not finite are blank, or have a cross if `crossed` is set.
    """
    ax = panel.ax
    odd = ~np.isfinite(values)
    hidden = np.zeros(values.shape, bool) if hidden is None else hidden
    image = ax.imshow(
        np.ma.masked_array(values, odd | hidden), cmap=scale.colours, norm=scale.norm,
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


def add_bar(
    panel: Panel, images: Sequence[AxesImage], scale: ColorScale, values: Array, remark: str = ""
) -> None:
    """Draw one colour bar beside the Axes, as high as all maps together. An end of the scale has an arrow if
    a value lies beyond this end. If a value is not finite, the label explains the crosses."""
    below, above = bool((values < scale.low).any()), bool((values > scale.high).any())
    width, _ = panel.inches
    bar = panel.ax.figure.colorbar(
        images[0], ax=panel.ax, fraction=_BAR / width, pad=_GAP / width, extend=_ARROWS[below + 2 * above],
        extendfrac=_ARROW,
    )  # fmt: skip
    bar.ax.set_ylim(scale.low, scale.high)
    bar.ax.set_axes_locator(_beside([image.axes for image in images], below, above))
    crosses = "" if np.isfinite(values).all() else "\n× not finite"
    bar.set_label(panel.escaped(f"{scale.words}{remark}{crosses}"), fontsize=TEXT)
    bar.ax.yaxis.get_offset_text().set_fontsize(SMALL)
    bar.ax.tick_params(labelsize=SMALL, length=2)


def _beside(maps: Sequence[Axes], below: bool, above: bool) -> Callable[[Any, Any], Bbox]:
    """Return the function with which matplotlib places a colour bar. The bar and its arrows together are as
    high as the maps, whose places are known only when the figure is drawn."""
    from matplotlib.transforms import Bbox

    def place(bar: Any, _renderer: Any) -> Bbox:
        bar.set_box_aspect(None)
        places = [each.get_position() for each in maps]
        bottom, top = min(each.y0 for each in places), max(each.y1 for each in places)
        height = (top - bottom) / (1 + _ARROW * (below + above))
        own = bar.get_position(original=True)
        return Bbox.from_bounds(own.x0, bottom + _ARROW * below * height, own.width, height)

    return place


def write_cells(panel: Panel, values: Array, texts: Sequence[Sequence[str]], scale: ColorScale) -> None:
    """Write a text in every cell, in black or white, whichever contrasts more with the colour of the cell."""
    colours, norm = scale.colours, scale.norm
    for (row, column), value in np.ndenumerate(values):
        colour = colours(float(norm(value)), bytes=True)
        ink = "white" if np.isfinite(value) and is_dark(colour[:3]) else "black"
        if text := texts[row][column]:
            panel.write(column, row, text, ha="center", va="center", color=ink)

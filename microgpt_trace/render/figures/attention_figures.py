"""Plot attention weights: one head, the heads of a layer side by side, or all heads as small tiles."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from typing import TYPE_CHECKING

import numpy as np

from ...arrays.stats import Array
from ...errors import InputError
from ...hooks.event import EventSpec
from ...operations.softmax import visible
from ...plans.kinds import Scores, Softmax
from ...text.wording import counted
from ...tracing.result import Trace
from ..characters import token_label
from ..trace.events import kind_in
from .heat import ColorScale, add_bar, draw_heat, is_dense, room_for_crosses
from .panel import LINE, PAGE, Panel, Picture, on_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WEIGHTS = ColorScale(0.0, 1.0, "attention weight")
SMALLEST, LARGEST = 1.1, 2.6  # size of a head in inches, in a figure of one layer
SMALLEST_TILE, LARGEST_TILE = 0.25, 0.75  # size of a head in inches, in a figure of all layers
SHEET, TALLEST = 9.7, 40.0  # height in inches of A4 without its margins, and of the tallest figure
PLACE = re.compile(r"layer([0-9]{1,6})(?:\.head([0-9]{1,6}))?")
LABEL = 8  # largest number of characters of a token


def plot_attention(
    trace: Trace, layer: int | None = None, head: int | None = None, ax: Axes | None = None
) -> Axes:
    """Plot the attention weights of one head, of all heads of a layer, or of all heads. The colour scale
    always runs from 0 to 1. Masked cells are hatched. In a figure of one layer, the heads are the
    `child_axes` of the returned Axes. The trace must contain the attention weights: trace a production model
    with `values=True`, or with the names of the weights."""
    return on_axes(attention_picture(trace, layer, head), ax)


def attention_picture(
    trace: Trace, layer: int | None = None, head: int | None = None, layers: Sequence[int] = ()
) -> Picture:
    """Return the figure of one head, of a layer, or of all heads of `layers` (default: every layer). Raises
    InputError if the trace lacks a head, or if there are too many heads for a figure."""
    names = weights_of(trace.specs, layer, head, layers)
    arrays = [trace[name] for name in names]
    hidden = [_hidden(trace, name, len(array[0])) for name, array in zip(names, arrays, strict=True)]
    labels = [f"{i} {token_label(text, LABEL)}" for i, text in enumerate(trace.input.labels)]
    if len(names) > 1:
        rows = [f"layer {trace.specs[name].layer}" for name in names]
        return _tiles(rows, np.stack(arrays), np.stack(hidden))
    title = f"layer {trace.specs[names[0]].layer}"
    heads = range(len(arrays[0])) if head is None else [head]
    return _heads(title, heads, arrays[0][heads], hidden[0], labels)


def place_of(text: str) -> tuple[int | None, int | None]:
    """Parse "layer23.head4", "layer23", "all" or "" into layer and head, which may be None."""
    if text in ("", "all"):
        return None, None
    match = PLACE.fullmatch(text)
    if match is None:
        raise InputError(f"attention:{text}: expected layer3.head0, layer3 or all after the colon")
    return int(match[1]), None if match[2] is None else int(match[2])


def weights_of(
    specs: Mapping[str, EventSpec], layer: int | None, head: int | None, layers: Sequence[int] = ()
) -> list[str]:
    """Return the names of the events that the figure needs, without running the model. Raises InputError if
    a layer or head does not exist, or if a figure cannot show all heads."""
    kinds = {name: kind_in(specs, name) for name in specs}
    names = {specs[name].layer: name for name, kind in kinds.items() if isinstance(kind, Softmax)}
    heads = {specs[name].layer: len(kind.group) for name, kind in kinds.items() if isinstance(kind, Scores)}
    if layer is None:
        names = {layer: name for layer, name in names.items() if not layers or layer in layers}
    if layer is None and len(names) == 1:
        layer = next(iter(names))
    if layer is None:
        if head is not None:
            raise InputError(f"attention of head {head}: expected a layer too, as in layer0.head{head}")
        most = max(heads.values())
        tile = _tile(len(names), most)
        if tile < SMALLEST_TILE or len(names) * tile > TALLEST:
            cause = f"{len(names) * most:,} heads do not fit in a figure"
            raise InputError(f"attention: {cause}; name a layer, such as layer0")
        return list(names.values())
    if layer not in names:
        raise InputError(f"attention of layer {layer}: expected a layer from 0 to {len(names) - 1}")
    if head is not None and not 0 <= head < heads[layer]:
        raise InputError(f"attention of head {head}: layer {layer} has heads 0 to {heads[layer] - 1}")
    return [names[layer]]


def _tile(layers: int, heads: int) -> float:
    """Return the size of a head in inches, in a figure of all layers. The layers share a page if the heads
    can then be recognised."""
    return min(LARGEST_TILE, (PAGE - 1.4) / heads, max(SMALLEST_TILE, (SHEET - 0.8) / layers))


def _hidden(trace: Trace, name: str, length: int) -> Array:
    """Return a mask [T, T] that is True where a query does not see a key."""
    kind = kind_in(trace.specs, name)
    assert isinstance(kind, Softmax)
    return ~visible(kind, length)


def _heads(title: str, heads: Sequence[int], weights: Array, hidden: Array, labels: list[str]) -> Picture:
    """Plot the heads of a layer in a grid with about as many rows as columns."""
    count = len(heads)
    columns = ceil(sqrt(count))
    rows = ceil(count / columns)
    least, most = (SMALLEST, LARGEST) if count > 1 else (LARGEST - 0.6, PAGE)
    side = min(max(len(labels) * LINE, least), most, (PAGE - 1.6) / columns)
    across, down = side + 0.12, side + 0.25  # distance from one head to the next, in inches

    def draw(panel: Panel) -> None:
        images = []
        for i in range(count):
            row, column = divmod(i, columns)
            left, top = column * across / (columns * across), 1 - row * down / (rows * down)
            size = side / (columns * across), side / (rows * down)
            inset = panel if count == 1 else panel.inset(left, top - size[1], *size)
            images.append(draw_heat(inset, weights[i], WEIGHTS, hidden=hidden, square=True))
            is_first, is_last = column == 0, i + columns >= count  # of its row, of its column
            inset.label(
                f"{title}, head {heads[0]}" if i == 0 else f"head {heads[i]}",
                x="key" * is_last, y="query" * is_first,
                columns=labels if is_last else [], rows=labels if is_first else [],
            )  # fmt: skip
        add_bar(panel, images, WEIGHTS, weights, _mean(inset, weights[0]))

    return Picture(columns * across + 1.5 + room_for_crosses(weights), rows * down + 0.7, draw)


def _tiles(names: list[str], weights: Array, hidden: Array) -> Picture:
    """Plot weights [L, H, T, T] as small tiles: a row for each layer, a column for each head."""
    layers, heads, length, _ = weights.shape
    gap = max(1, length // 12)
    pitch = length + gap
    tiles = np.zeros((layers * pitch - gap, heads * pitch - gap))
    blank = np.ones(tiles.shape, bool)
    for layer, head in np.ndindex(layers, heads):
        place = slice(layer * pitch, layer * pitch + length), slice(head * pitch, head * pitch + length)
        tiles[place], blank[place] = weights[layer, head], hidden[layer]
    middle = (length - 1) / 2

    def draw(panel: Panel) -> None:
        image = draw_heat(panel, tiles, WEIGHTS, hidden=blank, hatched=False, square=True)
        title = f"{counted(heads, 'head')} of {counted(layers, 'layer')}, {length} x {length} positions"
        panel.label(title, x="head (in each tile: key)", y="(in each tile: query)")
        panel.ticks("x", list(map(str, range(heads))), [middle + pitch * i for i in range(heads)])
        panel.ticks("y", names, [middle + pitch * i for i in range(layers)])
        add_bar(panel, [image], WEIGHTS, weights, _mean(panel, tiles))

    tile = _tile(layers, heads)
    return Picture(heads * tile + 1.6 + room_for_crosses(weights), layers * tile + 0.8, draw)


def _mean(panel: Panel, values: Array) -> str:
    return ", each pixel is a mean of cells" if is_dense(panel, values) else ""

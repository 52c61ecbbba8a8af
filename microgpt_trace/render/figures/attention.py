"""Attention weights as figures: of one head, of a layer's heads side by side, of all heads as small tiles."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import ceil, sqrt
from typing import TYPE_CHECKING

import numpy as np

from ...architecture.operations.softmax import visible
from ...architecture.plans.kinds import Scores, Softmax
from ...errors import InputError
from ...hooks.event import EventSpec
from ...text.wording import counted
from ...tracing.result import Trace
from ..characters import token_label
from ..trace.attention import kind_in
from .heat import Scale, add_bar, draw_heat, is_dense, room_for_crosses
from .panel import LINE, PAGE, Panel, Picture, on_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ...arrays.stats import Array

WEIGHTS = Scale(0.0, 1.0, "attention weight", rooted=True)
SMALLEST, LARGEST = 1.1, 2.6  # inches of a head beside others
SMALLEST_TILE, LARGEST_TILE = 0.25, 0.75  # inches of a head among those of all layers
TALLEST = 40.0  # inches of a figure
PLACE = re.compile(r"layer([0-9]{1,6})(?:\.head([0-9]{1,6}))?")
LABEL = 8  # characters of a token


def plot_attention(
    trace: Trace, layer: int | None = None, head: int | None = None, ax: Axes | None = None
) -> Axes:
    """What each query attends to: of one head, of all heads of a layer, or of every layer.

    The scale is the same in every figure, from 0 to 1; what the mask hides is hatched. Of several heads of a
    layer each has Axes of its own, in order `ax.child_axes` of the Axes returned. The trace has to have kept
    the weights: `values=True` of a decoder's, or their names.
    """
    return on_axes(attention_picture(trace, layer, head), ax)


def attention_picture(
    trace: Trace, layer: int | None = None, head: int | None = None, layers: Sequence[int] = ()
) -> Picture:
    """The figure of these heads; `layers` are those that all are of, where not of every layer. Raises
    InputError where they are not in the trace, or too many."""
    names = weights_of(trace.specs, layer, head, layers)
    arrays = [trace[name] for name in names]
    hidden = [_hidden(trace, name, len(array[0])) for name, array in zip(names, arrays, strict=True)]
    labels = [f"{i} {token_label(text, LABEL)}" for i, text in enumerate(trace.input.labels)]
    if len(names) > 1:
        shown = [trace.specs[name].layer for name in names]
        return _tiles([f"layer {i}" for i in shown], np.stack(arrays), np.stack(hidden))
    where = f"layer {trace.specs[names[0]].layer}"
    heads = range(len(arrays[0])) if head is None else [head]
    return _heads(where, heads, arrays[0][heads], hidden[0], labels)


def place_of(text: str) -> tuple[int | None, int | None]:
    """The layer and the head that "layer23.head4" names, or "layer23"; neither where it is "all" or empty."""
    if text in ("", "all"):
        return None, None
    found = PLACE.fullmatch(text)
    if found is None:
        raise InputError(f"attention:{text}: expected layer3.head0, layer3 or all after the colon")
    return int(found[1]), None if found[2] is None else int(found[2])


def weights_of(
    specs: Mapping[str, EventSpec], layer: int | None, head: int | None, layers: Sequence[int] = ()
) -> list[str]:
    """The events whose arrays the figure needs, without any run. Raises InputError for a layer or a head that
    there is not, and where a figure has no room for all."""
    kinds = {name: kind_in(specs, name) for name in specs}
    known = {specs[name].layer: name for name, kind in kinds.items() if isinstance(kind, Softmax)}
    heads = {specs[name].layer: len(kind.group) for name, kind in kinds.items() if isinstance(kind, Scores)}
    if layer is None:
        known = {layer: name for layer, name in known.items() if not layers or layer in layers}
    if layer is None and len(known) == 1:
        layer = next(iter(known))
    if layer is None:
        if head is not None:
            raise InputError(f"attention of head {head}: say of which layer, as in layer0.head{head}")
        most = max(heads.values())
        if _tile(most) < SMALLEST_TILE or len(known) * _tile(most) > TALLEST:
            raise InputError(
                f"attention of {len(known) * most:,} heads has no room in one figure: name a layer, as layer0"
            )
        return list(known.values())
    if layer not in known:
        raise InputError(f"attention of layer {layer}: the layers are 0 to {len(known) - 1}")
    if head is not None and not 0 <= head < heads[layer]:
        raise InputError(f"attention of head {head}: layer {layer} has heads 0 to {heads[layer] - 1}")
    return [known[layer]]


def _tile(heads: int) -> float:
    """Inches of a head among those of all layers."""
    return min(LARGEST_TILE, (PAGE - 1.4) / heads)


def _hidden(trace: Trace, name: str, length: int) -> Array:
    """What the mask hides from each query: [T, T]"""
    kind = kind_in(trace.specs, name)
    assert isinstance(kind, Softmax)
    return ~visible(kind, length)


def _heads(where: str, heads: Sequence[int], weights: Array, hidden: Array, labels: list[str]) -> Picture:
    """Side by side, in about as many rows as columns."""
    count = len(heads)
    columns = ceil(sqrt(count))
    rows = ceil(count / columns)
    least, most = (SMALLEST, LARGEST) if count > 1 else (LARGEST - 0.6, PAGE)
    side = min(max(len(labels) * LINE, least), most, (PAGE - 1.6) / columns)
    across, down = side + 0.12, side + 0.25  # inches from one to the next

    def draw(panel: Panel) -> None:
        for i in range(count):
            row, column = divmod(i, columns)
            left, top = column * across / (columns * across), 1 - row * down / (rows * down)
            size = side / (columns * across), side / (rows * down)
            own = panel if count == 1 else panel.inset(left, top - size[1], *size)
            image = draw_heat(own, weights[i], WEIGHTS, hidden=hidden, square=True)
            is_first, is_last = column == 0, i + columns >= count  # of its row, of its column
            own.label(
                f"{where}, head {heads[0]}" if i == 0 else f"head {heads[i]}",
                x="key" * is_last, y="query" * is_first,
                columns=labels if is_last else [], rows=labels if is_first else [],
            )  # fmt: skip
        add_bar(panel, image, WEIGHTS, weights, _mean(own, weights[0]))

    return Picture(columns * across + 1.5 + room_for_crosses(weights), rows * down + 0.7, draw)


def _tiles(names: list[str], weights: Array, hidden: Array) -> Picture:
    """A row of small tiles for each layer, a column for each head: [L, H, T, T]"""
    layers, heads, length, _ = weights.shape
    gap = max(1, length // 12)
    pitch = length + gap
    whole = np.zeros((layers * pitch - gap, heads * pitch - gap))
    between = np.ones(whole.shape, bool)
    for (layer, head), own in zip(
        np.ndindex(layers, heads), weights.reshape(-1, length, length), strict=True
    ):
        place = slice(layer * pitch, layer * pitch + length), slice(head * pitch, head * pitch + length)
        whole[place], between[place] = own, hidden[layer]
    middle = (length - 1) / 2

    def draw(panel: Panel) -> None:
        image = draw_heat(panel, whole, WEIGHTS, hidden=between, hatched=False, square=True)
        title = f"{counted(heads, 'head')} of {counted(layers, 'layer')}, {length} x {length} positions"
        panel.label(title, x="head (in each tile: key)", y="(in each tile: query)")
        panel.ticks("x", list(map(str, range(heads))), [middle + pitch * i for i in range(heads)])
        panel.ticks("y", names, [middle + pitch * i for i in range(layers)])
        add_bar(panel, image, WEIGHTS, weights, _mean(panel, whole))

    width = heads * _tile(heads) + 1.6 + room_for_crosses(weights)
    return Picture(width, layers * _tile(heads) + 0.8, draw)


def _mean(panel: Panel, values: Array) -> str:
    return ", mean of cells in a dot" if is_dense(panel, values) else ""

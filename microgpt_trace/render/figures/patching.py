"""Patching as a figure: how much of the clean run each site brings back, layer by position or head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ...patching.results import (
    PairsResult,
    Patched,
    PatchedPair,
    PatchResult,
    PatchTable,
    parts_of,
    tables_of,
)
from ...text.wording import counted
from ..characters import token_label
from ..numbers import figure, two_decimals
from ..results.patching import map_end, title_of
from .heat import Scale, add_bar, draw_heat, room_for_crosses, write_cells
from .panel import (
    BAR,
    CHARACTER,
    COLUMN,
    PAGE,
    Panel,
    Picture,
    SignedValue,
    draw_bars,
    on_axes,
    stacked,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

    from ...arrays.stats import Array

LABEL = 8  # characters of a token
ROOM = 0.36, 0.16  # inches of a cell that has a number in it
BESIDE, AROUND = 2.0, 0.65  # inches for what is said beside the cells, and above and below them


def plot_patch(result: PatchResult | PairsResult, ax: Axes | None = None) -> Axes:
    """How much of the way from the corrupted run to the clean one each site brings back: 0 is grey, more is
    lighter and less darker, from -1 to 1 or as far as it goes. Of several pairs the mean."""
    return on_axes(patch_picture(result), ax)


def patch_picture(result: PatchResult | PairsResult) -> Picture:
    """A map for every kind of site, bars for the parts that a site names."""
    tables, parts = tables_of(result.cells), parts_of(result.cells)
    pairs = result.pairs if isinstance(result, PairsResult) else (result,)
    words = "restored" if len(pairs) == 1 else f"restored, mean of {counted(len(pairs), 'pair')}"
    maps = [np.array([[_value(cell) for cell in row] for _, row in table.rows]) for table in tables]
    values = np.array([_value(cell) for cell in result.cells if not cell.is_part])
    end = map_end(result.cells, _value)
    scale = Scale(-end, end, words)
    names = [max(map(len, _columns(table, pairs))) for table in tables]
    rooms = [
        (len(each) * ROOM[1], AROUND + CHARACTER * longest) for each, longest in zip(maps, names, strict=True)
    ]
    rooms += [(len(parts) * BAR + 0.1, AROUND + CHARACTER)] if parts else []

    def draw(panel: Panel) -> None:
        places = stacked(panel, rooms)
        drawn = zip(places, tables, maps, strict=False)
        images = [_draw_map(place, table, own, scale, pairs) for place, table, own in drawn]
        if parts:
            draw_bars(places[-1], [SignedValue(cell.site, _value(cell)) for cell in parts], figure)
            places[-1].label(x=words)
        if images:
            add_bar(panel, images[-1], scale, values)

    inches = [each.shape[1] * ROOM[0] for each in maps]
    inches += [len(title_of(table)) * CHARACTER for table in tables]  # beside which the scale may stand
    width = min(max(COLUMN, max(inches, default=0.0) + BESIDE), PAGE) + room_for_crosses(values)
    return Picture(width, sum(map(sum, rooms)), draw)


def _value(cell: Any) -> float:
    """What a cell restores, of several pairs the mean; NaN where there is none."""
    if cell is None:
        return math.nan
    found = cell.restored if isinstance(cell, Patched) else cell.mean
    return math.nan if found is None else float(found)


def _draw_map(
    panel: Panel, table: PatchTable[Any], values: Array, scale: Scale, pairs: Sequence[PatchedPair]
) -> ScalarMappable:
    missing = np.array([[cell is None for cell in row] for _, row in table.rows])
    image = draw_heat(panel, values, scale, hidden=missing)
    width, height = panel.inches
    if width / values.shape[1] >= ROOM[0] * 0.75 and height / values.shape[0] >= ROOM[1] * 0.75:
        texts = [[two_decimals(v) if math.isfinite(v) else "" for v in row] for row in values]
        write_cells(panel, values, texts, scale)
    by_position = table.across == "position"
    panel.label(
        title_of(table), x="position: clean / corrupted token" if by_position else "head",
        columns=_columns(table, pairs), rows=[label for label, _ in table.rows],
    )  # fmt: skip
    return image


def _columns(table: PatchTable[Any], pairs: Sequence[PatchedPair]) -> list[str]:
    """What the columns are called."""
    if table.across == "head":
        return list(map(str, table.columns))
    return [_column(position, pairs) for position in table.columns]


def _column(position: int, pairs: Sequence[PatchedPair]) -> str:
    """A position with its tokens, which are left out where not all pairs have the same."""
    both = {tuple(_token(run.labels, position) for run in (p.clean, p.corrupt)) for p in pairs}
    if len(both) > 1:
        return str(position)
    clean, corrupt = both.pop()
    return f"{position}: {clean}" + (f" / {corrupt}" if corrupt != clean else "")


def _token(labels: Sequence[str], position: int) -> str:
    return token_label(labels[position], LABEL) if position < len(labels) else ""

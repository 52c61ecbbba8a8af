"""Plot how far each patched site restores the clean run, by layer and by position or head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from ...arrays.stats import Array
from ...attribution.results import PromptsAttribution
from ...patching.patch_results import PairsResult, PatchResult, PatchTable, listed_parts, parts_of, tables_of
from ...text.wording import counted
from ..characters import token_label
from ..numbers import figure, two_decimals
from ..results.patching_sections import title_of
from .heat import ColorScale, add_bar, draw_heat, room_for_crosses, signed_scale, write_cells
from .panel import BAR, CHARACTER, COLUMN, LINE, PAGE, Panel, Picture, SignedValue, draw_bars, minus, on_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

Runs = Sequence[tuple[Sequence[str], ...]]
TOP = 20  # number of parts of an attribution to plot
LABEL = 8  # largest number of characters of a token
ROOM = 0.36, 0.16  # width and height in inches of a cell with a number
BESIDE, AROUND = 2.0, 0.65  # inches for text beside the cells, and for text above and below the cells


def plot_patch(result: PatchResult | PairsResult, ax: Axes | None = None) -> Axes:
    """Plot how far each site moves the corrupted run (0) to the clean run (1), or the mean over several
    pairs. White stands for 0. The colours of the values from -1 to 1 are the same in all maps, unless a value
    lies outside this range."""
    return on_axes(patch_picture(result), ax)


def patch_picture(result: PatchResult | PairsResult | PromptsAttribution, top: int = TOP) -> Picture:
    """Return the figure, with a map for every kind of site, and bars for sites that are parts of events, or
    for the `top` largest parts of an attribution."""
    restored = attrgetter("restored" if isinstance(result, PatchResult) else "mean")

    def share(cell: Any) -> float:
        """Return the restored share or the attribution, or NaN if it is unknown."""
        known = None if cell is None else restored(cell)
        return math.nan if known is None else float(known)

    tables, parts = tables_of(result.cells), listed_parts(result.cells, restored)
    attributed, runs = isinstance(result, PromptsAttribution), _runs(result)
    if attributed:
        whole = (part for part in parts_of(result.cells) if part.position is None)
        parts = sorted(whole, key=lambda part: -abs(share(part)))[:top]
    mean = f", mean of {counted(len(runs), 'prompt' if attributed else 'pair')}" * (len(runs) > 1)
    titles = [*map(title_of, tables), *[""] * bool(parts)]
    missing = any(cell is None for table in tables for _, row in table.rows for cell in row)
    estimated = "estimated " * (result.method == "attribution")
    what = "attribution" if attributed else f"{estimated}share of the logit difference restored"
    measure = f"{what}{mean}" + ", hatched: not patched" * missing
    titles[0] = f"{measure}\n{titles[0]}".strip()
    maps = [np.array([[share(cell) for cell in row] for _, row in table.rows]) for table in tables]
    values = np.array([share(cell) for table in tables for _, row in table.rows for cell in row if cell])
    scale = signed_scale(values, "attribution" if attributed else "restored", least=1.0)
    longest = [max(map(len, _columns(table, runs))) for table in tables]
    rooms = [(len(m) * ROOM[1], AROUND + CHARACTER * n) for m, n in zip(maps, longest, strict=True)]
    rooms += [(len(parts) * BAR + 0.1, AROUND + CHARACTER)] if parts else []

    def draw(panel: Panel) -> None:
        panels = panel.stacked(rooms)
        quadruples = zip(panels, titles, tables, maps, strict=False)
        images = [_draw_map(*one, scale, runs) for one in quadruples]
        if parts:
            draw_bars(panels[-1], [SignedValue(cell.site, share(cell)) for cell in parts], figure)
            panels[-1].label(titles[-1], x=scale.words)
        if images:
            add_bar(panel, images, scale, values)

    inches = [each.shape[1] * ROOM[0] for each in maps]
    inches += [len(line) * CHARACTER for line in "\n".join(titles).split("\n")]  # may be wider than cells
    width = min(max(COLUMN, max(inches, default=0.0) + BESIDE), PAGE) + room_for_crosses(values)
    return Picture(width, sum(map(sum, rooms)) + LINE * 1.3, draw)


def _draw_map(
    panel: Panel, title: str, table: PatchTable[Any], values: Array, scale: ColorScale,
    runs: Runs,
) -> AxesImage:  # fmt: skip
    missing = np.array([[cell is None for cell in row] for _, row in table.rows])
    image = draw_heat(panel, values, scale, hidden=missing)
    width, height = panel.inches
    if width / values.shape[1] >= ROOM[0] * 0.75 and height / values.shape[0] >= ROOM[1] * 0.75:
        texts = [[minus(two_decimals(v)) if math.isfinite(v) else "" for v in row] for row in values]
        write_cells(panel, values, texts, scale)
    by_position = table.across == "position"
    tokens = f"position: {'clean / corrupted ' * (len(runs[0]) > 1)}token"
    panel.label(
        title, x=tokens if by_position else table.across,
        columns=_columns(table, runs), rows=[label for label, _ in table.rows],
    )  # fmt: skip
    return image


def _columns(table: PatchTable[Any], runs: Runs) -> list[str]:
    """Return the labels of the columns: heads, receivers, or positions with their tokens."""
    if table.across == "receiver":
        return list(table.receivers)
    is_head = table.across == "head"
    return [str(column) if is_head else _column(column, runs) for column in table.columns]


def _column(position: int, runs: Runs) -> str:
    """Return the label of a position. The label contains tokens only if all pairs have the same tokens."""
    tokens = {tuple(_token(labels, position) for labels in run) for run in runs}
    return f"{position}: {' / '.join(dict.fromkeys(tokens.pop()))}" if len(tokens) == 1 else str(position)


def _runs(result: PatchResult | PairsResult | PromptsAttribution) -> Runs:
    """Return the labels of the tokens of each prompt, or of both texts of each pair."""
    if isinstance(result, PromptsAttribution):
        return [(prompt.labels,) for prompt in result.prompts]
    pairs = result.pairs if isinstance(result, PairsResult) else (result,)
    return [(pair.clean.labels, pair.corrupt.labels) for pair in pairs]


def _token(labels: Sequence[str], position: int) -> str:
    return token_label(labels[position], LABEL) if position < len(labels) else ""

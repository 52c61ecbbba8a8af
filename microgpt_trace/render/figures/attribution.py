"""An attribution as a figure: bars of what the parts write at one position, or colours at several."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ...arrays.logits import LogitDifference
from ...attribution.results import AttributionResult, PositionAttribution, size
from ...errors import InputError
from ...text.printable import shown_token
from ...text.wording import counted
from ..characters import token_label
from ..numbers import signed
from .heat import add_bar, draw_heat, room_for_crosses, symmetric
from .panel import BAR, CHARACTER, COLUMN, LINE, PAGE, Panel, Picture, SignedValue, draw_bars, on_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOP = 20  # parts
LABEL = 8  # characters of a token
LEAST = 2.2  # inches of the colours, beside which stands what they tell


def plot_attribution(
    result: AttributionResult, position: int | None = None, top: int = TOP, ax: Axes | None = None
) -> Axes:
    """What the `top` parts write to logit(target) - logit(against): at one position as bars, the largest
    first, the others together; at several in colours, parts in order of computation."""
    return on_axes(attribution_picture(result, position, top), ax)


def attribution_picture(result: AttributionResult, position: int | None = None, top: int = TOP) -> Picture:
    """Raises InputError for a position that was not asked for."""
    known = {found.contrast.position: found for found in result.positions}
    if position is None and len(known) == 1:
        position = next(iter(known))
    if position is None:
        return _over_positions(result, top)
    if position not in known:
        raise InputError(f"attribution of position {position}: known are {', '.join(map(str, known))}")
    return _at_position(known[position], result, top)


def _at_position(found: PositionAttribution, result: AttributionResult, top: int) -> Picture:
    ranked = found.by_difference()
    rows = [SignedValue(part.name, part.difference) for part in ranked[:top]]
    if more := ranked[top:]:
        name = counted(len(more), "more part")
        rows.append(SignedValue(name, sum(part.difference for part in more), is_sum=True))
    rows.append(SignedValue("sum of all", found.target.total - found.against.total, is_sum=True))
    contrast, digits = found.contrast, 3 if result.family == "microgpt" else 2

    def draw(panel: Panel) -> None:
        draw_bars(panel, rows, partial(signed, digits=digits))
        title = f"position {contrast.position}, after {shown_token(contrast.seen)}"
        to = " - ".join(f"logit({token})" for token in _tokens(contrast, 12))
        panel.label(title, x=f"written to {to}", at_right=True)

    return Picture(COLUMN + 0.6, len(rows) * BAR + 0.8, draw)


def _tokens(contrast: LogitDifference, width: int) -> list[str]:
    """The target and what it is held against."""
    return [token_label(text, width) for text in (contrast.target_label, contrast.against_label)]


def _over_positions(result: AttributionResult, top: int) -> Picture:
    whole = np.array([[part.difference for part in found.parts] for found in result.positions]).T
    order = sorted(range(len(whole)), key=lambda i: size(float(np.abs(whole[i]).mean())), reverse=True)
    chosen = sorted(order[:top])
    values = whole[chosen]
    scale = symmetric(values, "logit(target) - logit(against)")
    names = [result.positions[0].parts[i].name for i in chosen]
    contrasts = [found.contrast for found in result.positions]
    columns = [f"{own.position}: {' / '.join(_tokens(own, LABEL))}" for own in contrasts]
    left = len(whole) - len(chosen)

    def draw(panel: Panel) -> None:
        image = draw_heat(panel, values, scale)
        title = f"the {len(chosen):,} parts of largest mean; {left:,} more are left out" if left else ""
        panel.label(title, x="position: target / against", columns=columns, rows=names)
        add_bar(panel, image, scale, values)

    width = min(max(COLUMN, len(values[0]) * 0.3 + 2.4), PAGE) + room_for_crosses(values)
    height = max(LEAST, len(values) * LINE * 1.4) + CHARACTER * max(map(len, columns)) + 0.8
    return Picture(width, height, draw)

"""Plot contributions: the terms of a sum in an explanation, and the logits that a model's parts write."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING

import numpy as np

from ...arrays.logits import LogitDifference
from ...attribution.results import AttributionResult, PositionAttribution, size
from ...errors import InputError
from ...explaining.explanation import Explanation
from ...formulas.steps import Step, Term
from ...text.printable import shown_token
from ...text.wording import counted
from ..characters import token_label
from ..numbers import finite_or_named, signed
from ..results.explanation_sections import factor_name, in_one_line, substituted
from .heat import add_bar, draw_heat, room_for_crosses, signed_scale
from .panel import BAR, CHARACTER, COLUMN, LINE, PAGE, Panel, Picture, SignedValue, draw_bars, minus, on_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TOP = 20  # number of parts to plot
LABEL = 8  # largest number of characters of a token
LEAST = 2.2  # smallest height of the plot in inches, so that the label of the colour bar fits


def plot_explanation(explanation: Explanation, ax: Axes | None = None) -> Axes:
    """Plot the longest sum in the formula of an element: its largest terms, the sum of the other terms, and
    the total. The title has the steps that lead from the total to the element."""
    return on_axes(explanation_picture(explanation), ax)


def plot_attribution(
    result: AttributionResult, position: int | None = None, top: int = TOP, ax: Axes | None = None
) -> Axes:
    """Plot the contributions of the `top` parts to logit(target) - logit(against). One position is plotted as
    bars: the largest parts first, then the sum of the other parts. Several positions are plotted as colours,
    with the parts in order of computation."""
    return on_axes(attribution_picture(result, position, top), ax)


def explanation_picture(explanation: Explanation) -> Picture:
    """Return the figure. Raises InputError if no sum of the element's formula has two terms."""
    step = max(explanation.steps, key=lambda step: step.count, default=None)
    if step is None or step.count < 2:
        raise InputError(f"explanation of {explanation.element}: its formula has no sum, so there is no plot")
    prefix = _prefix(step)
    rows = [SignedValue(_term_name(term, prefix), term.value) for term in step.terms]
    if step.count > len(step.terms):
        rows.append(SignedValue(f"{step.count - len(step.terms):,} more", step.rest, is_sum=True))
    rows.append(SignedValue(f"sum of {step.count:,}", step.value, is_sum=True))
    title = f"{explanation.prefix}{explanation.element} = {minus(finite_or_named(explanation.traced))}"
    later = explanation.steps[explanation.steps.index(step) + 1 :]  # they lead from the sum to the element
    then = [minus(sentence) for sentence in map(in_one_line, later)]

    def draw(panel: Panel) -> None:
        draw_bars(panel, rows, finite_or_named)
        x = f"terms of {step.label}" + f" (names begin with {prefix})" * bool(prefix)
        panel.label("\n".join([title, *then]), x=x, at_right=True)

    return Picture(PAGE * 0.75, len(rows) * BAR + 0.8 + LINE * len(then), draw)


def _prefix(step: Step) -> str:
    """Return the common prefix of the names of all factors. The prefix ends with a dot."""
    names = [f.name for term in step.terms for f in term.factors if f.kind != "constant"]
    parts = [name.partition("[")[0].split(".")[:-1] for name in names]
    common = takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return "".join(f"{level[0]}." for level in common)


def _term_name(term: Term, prefix: str) -> str:
    """Return the names of the factors without the prefix, and the token that the term stands for."""
    short = (replace(factor, name=factor.name.removeprefix(prefix)) for factor in term.factors)
    name = " × ".join(map(factor_name, short))
    name = minus(substituted(term.function, name) if term.function else name)
    return f"{name} {shown_token(term.label)}" if term.label else name


def attribution_picture(result: AttributionResult, position: int | None = None, top: int = TOP) -> Picture:
    """Return the figure. Raises InputError if the attribution lacks the position."""
    positions = {each.contrast.position: each for each in result.positions}
    if position is None and len(positions) == 1:
        position = next(iter(positions))
    if position is None:
        return _over_positions(result, top)
    if position not in positions:
        expected = ", ".join(map(str, positions))
        raise InputError(f"attribution of position {position}: expected one of the positions {expected}")
    return _at_position(positions[position], result, top)


def _at_position(position: PositionAttribution, result: AttributionResult, top: int) -> Picture:
    ranked = position.by_difference()
    rows = [SignedValue(part.name, part.difference) for part in ranked[:top]]
    if more := ranked[top:]:
        name = counted(len(more), "more part")
        rows.append(SignedValue(name, sum(part.difference for part in more), is_sum=True))
    rows.append(SignedValue("sum of all", position.target.total - position.against.total, is_sum=True))
    contrast, digits = position.contrast, 3 if result.family == "microgpt" else 2

    def draw(panel: Panel) -> None:
        draw_bars(panel, rows, partial(signed, digits=digits))
        title = f"position {contrast.position}, after {shown_token(contrast.seen)}"
        to = " − ".join(f"logit({token})" for token in _tokens(contrast, 12))
        panel.label(title, x=f"written to {to}", at_right=True)

    return Picture(COLUMN + 0.6, len(rows) * BAR + 0.8, draw)


def _tokens(contrast: LogitDifference, width: int) -> list[str]:
    """Return the labels of the two tokens whose logits are compared."""
    return [token_label(text, width) for text in (contrast.target_label, contrast.against_label)]


def _over_positions(result: AttributionResult, top: int) -> Picture:
    differences = np.array([[part.difference for part in each.parts] for each in result.positions]).T
    sizes = [size(float(np.abs(row).mean())) for row in differences]
    largest = sorted(sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True)[:top])
    values = differences[largest]
    scale = signed_scale(values, "logit(target) − logit(against)")
    names = [result.positions[0].parts[i].name for i in largest]
    contrasts = [each.contrast for each in result.positions]
    columns = [f"{each.position}: {' / '.join(_tokens(each, LABEL))}" for each in contrasts]
    left = len(differences) - len(largest)

    def draw(panel: Panel) -> None:
        image = draw_heat(panel, values, scale)
        shown = f": the {len(largest):,} parts with the largest mean; {left:,} more are not shown"
        title = f"what each part adds to {scale.words}" + shown * bool(left)
        panel.label(title, x="position: target / against", columns=columns, rows=names)
        add_bar(panel, [image], scale, values)

    width = min(max(COLUMN, len(values[0]) * 0.3 + 2.4), PAGE) + room_for_crosses(values)
    height = max(LEAST, len(values) * LINE * 1.4) + CHARACTER * max(map(len, columns)) + 0.8
    return Picture(width, height, draw)

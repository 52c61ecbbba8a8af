"""An explanation as a figure: the terms of its sum as bars."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING

from ...architecture.formulas.steps import Step, Term
from ...errors import InputError
from ...explaining.explanation import Explanation
from ...text.printable import shown_token
from ..numbers import finite_or_named
from ..results.explanation import applied, called
from .panel import BAR, PAGE, Panel, Picture, SignedValue, draw_bars, on_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUMMED = 2  # terms at least


def plot_explanation(found: Explanation, ax: Axes | None = None) -> Axes:
    """The terms of the longest sum that an element is worked out by, what the others add up to, the sum."""
    return on_axes(explanation_picture(found), ax)


def explanation_picture(found: Explanation) -> Picture:
    """Raises InputError for an element that no sum gives."""
    step = max(found.steps, key=lambda step: step.count, default=None)
    if step is None or step.count < SUMMED:
        raise InputError(f"explanation of {found.element}: nothing is summed, so there are no terms to draw")
    prefix = _prefix(step)
    rows = [SignedValue(_called(term, prefix), term.value) for term in step.terms]
    if step.count > len(step.terms):
        rows.append(SignedValue(f"{step.count - len(step.terms):,} more", step.rest, is_sum=True))
    rows.append(SignedValue(f"sum of {step.count:,}", step.value, is_sum=True))
    gradient = "d loss / d " if found.phase == "backward" else ""

    def draw(panel: Panel) -> None:
        draw_bars(panel, rows, finite_or_named)
        x = f"terms of {step.label}" + f" (names begin with {prefix})" * bool(prefix)
        panel.label(f"{gradient}{found.element} = {finite_or_named(found.traced)}", x=x, at_right=True)

    return Picture(PAGE * 0.75, len(rows) * BAR + 0.8, draw)


def _prefix(step: Step) -> str:
    """What the names of all factors begin with, up to a dot."""
    names = [f.name for term in step.terms for f in term.factors if f.kind != "constant"]
    parts = [name.partition("[")[0].split(".")[:-1] for name in names]
    alike = takewhile(lambda level: len(set(level)) == 1, zip(*parts, strict=False))
    return "".join(f"{level[0]}." for level in alike)


def _called(term: Term, prefix: str) -> str:
    """The names of the factors, and the token that the term is for."""
    short = (replace(factor, name=factor.name.removeprefix(prefix)) for factor in term.factors)
    said = " × ".join(map(called, short))
    said = applied(term.function, said) if term.function else said
    return f"{said} {shown_token(term.label)}" if term.label else said

"""Plot an explanation: the terms of its longest sum as bars."""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile
from typing import TYPE_CHECKING

from ...architecture.formulas.steps import Step, Term
from ...errors import InputError
from ...explaining.explanation import Explanation
from ...text.printable import shown_token
from ..numbers import finite_or_named
from ..results.explanation import factor_name, substituted
from .panel import BAR, PAGE, Panel, Picture, SignedValue, draw_bars, minus, on_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_explanation(explanation: Explanation, ax: Axes | None = None) -> Axes:
    """Plot the longest sum in the formula of an element: its largest terms, the sum of the other terms, and
    the total."""
    return on_axes(explanation_picture(explanation), ax)


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
    gradient = "d loss / d " if explanation.phase == "backward" else ""
    title = f"{gradient}{explanation.element} = {minus(finite_or_named(explanation.traced))}"

    def draw(panel: Panel) -> None:
        draw_bars(panel, rows, finite_or_named)
        x = f"terms of {step.label}" + f" (names begin with {prefix})" * bool(prefix)
        panel.label(title, x=x, at_right=True)

    return Picture(PAGE * 0.75, len(rows) * BAR + 0.8, draw)


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

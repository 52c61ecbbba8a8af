"""Zero ablation: the loss of a target when one component writes nothing, at any position.

An MLP that is removed leaves its bias, which is a component of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..architecture.edits import Edit, Report, unreported
from ..arrays.logits import losses_of
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from .components import Component

if TYPE_CHECKING:
    from ..architecture.model import LanguageModel, TraceInput


def removal(model: LanguageModel, component: Component) -> Edit:
    """The edit that takes a component's write away."""
    name = component.row.bias
    bias = None if name is None else model.parameter(name)
    if component.kind == "bias":
        return Edit(component.row.name, lambda value: value - bias)
    left = 0 if bias is None or component.kind == "head" else bias
    return Edit(component.name, lambda value: np.zeros_like(value) + left)


def losses_without(
    model: LanguageModel, inputs: TraceInput, components: Sequence[Component], rows: Sequence[int],
    targets: Sequence[int], hooked: bool, report: Report = unreported,
) -> dict[str, Array]:  # fmt: skip
    """-log P(target) at the asked positions without each component: by name [n].

    The runs share the work before their edits, unless the model is `hooked`: then each is a run under
    its hooks.
    """
    edits = [removal(model, component) for component in components]
    logits: Iterable[tuple[int, Array]] = model.edited_logits(inputs, edits, rows, report)
    if hooked:
        logits = ((i, _under_hooks(model, inputs, edit, rows)) for i, edit in enumerate(edits))
    with np.errstate(all="ignore"):
        return {components[number].name: losses_by_row(edited, targets) for number, edited in logits}


def _under_hooks(model: LanguageModel, inputs: TraceInput, edit: Edit, rows: Sequence[int]) -> Array:
    """The logits [n, V] of a run under the model's hooks, with the edit after them."""
    last = model.hooks.subscription(lambda event, value: edit.change(value), edit.name)
    with one_blas_thread(), np.errstate(all="ignore"):
        return model.logits(inputs, rows, model.hooks.begin(after=[last]).tap("forward"))


def losses_by_row(logits: Array, targets: Sequence[int]) -> Array:
    """-log P(target): [n, V], [n] -> [n], a row at a time, for float64 takes twice the room"""
    return np.array([losses_of(logits[i : i + 1], targets[i : i + 1])[0] for i in range(len(targets))])

"""Describe whole arrays as sections, with labels for rows and columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..models.language_model import LanguageModel
from ..plans.plan import over_tokens
from .characters import token_label
from .numbers import four_decimals
from .sections import Figures, Section, words

MAX_ROWS = 128  # largest number of matrix rows to show


class Selection(NamedTuple):
    """Selected elements of an array. `shape` is the shape of the whole array, `indices` are the selected
    indices on each axis, and `place` is a suffix for the name, such as "[0:3]"."""

    values: Array
    shape: Sequence[int]
    indices: Sequence[Sequence[int]]
    place: str = ""


def array_section(
    name: str, selection: Selection, model: LanguageModel, labels: Sequence[str], title: str = ""
) -> Section:
    """Show an array in a section with at most MAX_ROWS rows. `labels` are the tokens of the rows."""
    array, heading = selection.values, f"{title or name}{selection.place}"
    aside = f"{'×'.join(map(str, selection.shape)) or 'scalar'} {array.dtype}"
    if selection.place:
        aside = f"{'×'.join(str(len(axis)) for axis in selection.indices)} of {aside}"
    if array.ndim == 0:
        return Section([words(four_decimals(float(array)))], heading, aside)
    rows, columns = _axis_labels(name, selection, model, labels)
    is_parameter = name in model.config.shapes() and not title
    more = "" if is_parameter else f"; --layer {name} --save FILE saves the whole array"
    values = np.atleast_2d(array)[..., :MAX_ROWS, :]
    what = "expert" if is_parameter else "head"
    captions = [f"{what} {number}" for number in selection.indices[0]] if array.ndim == 3 else []
    return Section([Figures(values, rows[:MAX_ROWS], columns, len(rows), more, captions)], heading, aside)


def _axis_labels(
    name: str, selection: Selection, model: LanguageModel, labels: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Return labels of the rows and of the columns: tokens, channels, or head.channel."""
    row, tokens = model.plan.get(name), list(map(token_label, labels))
    is_matrix = len(selection.shape) > 1
    height, down = (selection.shape[-2], selection.indices[-2]) if is_matrix else (1, range(1))
    across = selection.indices[-1]
    rows, columns = list(map(str, down)), list(map(str, across))
    if name in ("wte", "lm_head"):
        return [token_label(model.label(i)) for i in down], columns
    if name in model.config.shapes():
        return rows, columns
    if over_tokens(name):
        columns = [token_label(model.label(i, target=True)) for i in across]
    elif row is not None and row.causal:
        columns = [tokens[i] for i in across]
    elif name in model.plan.heads:
        size = model.plan.heads[name].dim
        columns = [f"{i // size}.{i % size}" for i in across]
    return ([tokens[i] for i in down] if height == len(tokens) else rows), columns

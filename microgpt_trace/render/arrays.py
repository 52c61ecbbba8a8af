"""Arrays in full as sections, under what their rows and columns stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..architecture.model import LanguageModel
from ..architecture.plans.plan import HEAD_EVENTS
from ..arrays.stats import Array
from .characters import token_label
from .numbers import four_decimals
from .sections import Figures, Section, words

MAX_ROWS = 128  # of a matrix that are shown


class Taken(NamedTuple):
    """What `values` has of an array of that shape: which indices of each axis, and how one names these."""

    values: Array
    shape: Sequence[int]
    indices: Sequence[Sequence[int]]
    place: str = ""


def array_section(
    name: str, taken: Taken, model: LanguageModel, labels: Sequence[str], title: str = ""
) -> Section:
    """An event or parameter in full, or the first rows of one; `labels` are the tokens of its rows."""
    array, heading = taken.values, f"{title or name}{taken.place}"
    aside = f"{'×'.join(map(str, taken.shape)) or 'scalar'} {array.dtype}"
    if taken.place:
        aside = f"{'×'.join(str(len(axis)) for axis in taken.indices)} of {aside}"
    if array.ndim == 0:
        return Section([words(four_decimals(float(array)))], heading, aside)
    rows, columns = _axis_labels(name, taken, model, labels)
    whole = name in model.config.shapes() and not title
    more = "" if whole else f"; --layer {name} --save FILE keeps all of it"
    values = np.atleast_2d(array)[..., :MAX_ROWS, :]
    heads = taken.indices[0] if array.ndim == 3 else ()
    return Section([Figures(values, rows[:MAX_ROWS], columns, len(rows), more, heads)], heading, aside)


def _axis_labels(
    name: str, taken: Taken, model: LanguageModel, labels: Sequence[str]
) -> tuple[list[str], list[str]]:
    """What the rows and the columns of an event or parameter stand for: tokens, channels, or head.channel."""
    row, tokens = model.plan.get(name), list(map(token_label, labels))
    height = taken.shape[-2] if len(taken.shape) > 1 else 1
    down, across = taken.indices[-2] if len(taken.shape) > 1 else range(1), taken.indices[-1]
    rows, columns = list(map(str, down)), list(map(str, across))
    if name in ("wte", "lm_head"):
        return [token_label(model.label(i)) for i in down], columns
    if name in model.config.shapes():
        return rows, columns
    if name in HEAD_EVENTS:
        columns = [token_label(model.label(i, target=True)) for i in across]
    elif row is not None and row.causal:
        columns = [tokens[i] for i in across]
    elif name in model.plan.heads:
        size = model.config.head_dim
        columns = [f"{i // size}.{i % size}" for i in across]
    return ([tokens[i] for i in down] if height == len(tokens) else rows), columns

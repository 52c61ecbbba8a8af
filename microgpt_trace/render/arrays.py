"""Arrays in full as sections, under what their rows and columns stand for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..architecture.model import LanguageModel
from ..arrays.stats import Array
from .numbers import figure
from .sections import Block, Figures, Section, words
from .token_labels import token_label

MAX_ROWS = 128  # of a matrix that are shown


def array_section(
    name: str, array: Array, model: LanguageModel, labels: Sequence[str], title: str = "",
    shape: Sequence[int] | None = None,
) -> Section:  # fmt: skip
    """An event or parameter in full, or the first rows of one of that shape; `labels` are the tokens read."""
    shape = tuple(shape or array.shape)
    aside = f"{'×'.join(map(str, shape)) or 'scalar'} {array.dtype}"
    return Section([_block(name, array, model, labels, title, shape)], title or name, aside)


def _block(
    name: str, array: Array, model: LanguageModel, labels: Sequence[str], title: str, shape: tuple[int, ...]
) -> Block:
    if array.ndim == 0:
        return words(figure(float(array), 4))
    rows, columns = axis_labels(name, array.shape, model, labels)
    whole = name in model.config.shapes() and not title
    more = "" if whole else f"; --layer {name} --save FILE keeps all of it"
    values = array if array.ndim == 3 else np.atleast_2d(array)
    count = shape[-2] if len(shape) > 1 else 1
    return Figures(values[..., :MAX_ROWS, :], rows, columns, count, more)


def axis_labels(
    name: str, shape: Sequence[int], model: LanguageModel, labels: Sequence[str]
) -> tuple[list[str], list[str]]:
    """What the rows and the columns of an event or parameter stand for: tokens, channels, or head.channel."""
    row, tokens = model.plan.get(name), list(map(token_label, labels))
    height, width = shape[-2:] if len(shape) > 1 else (1, *shape)
    rows, columns = ([str(i) for i in range(size)] for size in (height, width))
    if name in ("wte", "lm_head"):
        return [token_label(model.label(i)) for i in range(height)], columns
    if name in model.config.shapes():
        return rows, columns
    if name in ("logits", "probs"):
        columns = [token_label(model.label(i, target=True)) for i in range(width)]
    elif row is not None and row.causal:
        columns = tokens
    elif name in model.plan.heads:
        size = model.config.head_dim
        columns = [f"{i // size}.{i % size}" for i in range(width)]
    return (tokens if height == len(tokens) else rows), columns

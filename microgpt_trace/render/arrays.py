"""Arrays in full as sections, under what their rows and columns stand for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..architecture.model import LanguageModel
from ..arrays.stats import Array
from ..decoder.model import Decoder, is_decoder
from ..text.printable import shown_token
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
    if is_decoder(model):
        rows, columns = decoder_axis_labels(name, array.shape, model, labels)
    else:
        rows, columns = axis_labels(name, array.shape, model, labels)
    whole = name in model.config.shapes() and not title
    more = "" if whole else f"; --layer {name} --save FILE keeps all of it"
    values = array if array.ndim == 3 else np.atleast_2d(array)
    count = shape[-2] if len(shape) > 1 else 1
    return Figures(values[..., :MAX_ROWS, :], rows, columns, count, more)


def axis_labels(
    name: str, shape: Sequence[int], model: LanguageModel, labels: Sequence[str]
) -> tuple[list[str], list[str]]:
    """What the rows and the columns of an event or parameter stand for: tokens, characters,
    channels, or head.channel."""
    config, row = model.config, model.plan.get(name)
    characters, followers = (
        [shown_token(model.label(i, target)) for i in range(config.vocab_size)] for target in (False, True)
    )
    shown = list(map(shown_token, labels))
    numbered = [[str(i) for i in range(size)] for size in shape[-2:]]
    if name in config.shapes():
        rows = characters if name in ("wte", "lm_head") else numbered[0]
        return rows, numbered[1]
    if name in ("logits", "probs"):
        columns = followers
    elif row is not None and row.causal:
        columns = shown
    elif name in model.plan.heads:
        columns = [f"{h}.{d}" for h in range(config.n_head) for d in range(config.head_dim)]
    else:
        columns = numbered[1]
    return shown, columns


def decoder_axis_labels(
    name: str, shape: Sequence[int], model: Decoder, labels: Sequence[str]
) -> tuple[list[str], list[str]]:
    """As `axis_labels`, for a production model."""
    config, row = model.config, model.plan.get(name)
    rows, columns = (
        [str(i) for i in range(size)] for size in ((1, *shape) if len(shape) == 1 else shape)[-2:]
    )
    shown = list(map(token_label, labels))
    if row is not None and row.causal:
        return shown, shown
    if name in model.plan.heads:
        columns = [f"{i // config.head_dim}.{i % config.head_dim}" for i in range(shape[-1])]
    elif name in ("logits", "probs") and model.vocabulary is not None:
        columns = [token_label(model.vocabulary.label(i)) for i in range(shape[-1])]
    if name in ("wte", "lm_head") and model.vocabulary is not None:
        rows = [token_label(model.vocabulary.label(i)) for i in range(MAX_ROWS)]
    return (rows if name in config.shapes() or len(rows) != len(shown) else shown), columns

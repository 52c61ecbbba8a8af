"""Arrays as numbers with labelled rows and columns, and attention as shaded matrices."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite

import numpy as np
from rich.cells import cell_len, set_cell_size
from rich.columns import Columns
from rich.text import Text

from ..architecture.model import LanguageModel
from ..arrays.stats import Array
from ..decoder.model import Decoder, is_decoder
from ..text.printable import shown_token
from .heat import heat_cell
from .screen import Screen, at_right, figure, shorten

MAX_BLOCKS = 8  # of columns, one below the other
MAX_ROWS = 128


def attention_matrices(weights: Array, labels: Sequence[str], screen: Screen) -> None:
    """Every head of [H, T, T], rows = queries and columns = keys, side by side where they fit."""
    shown = [screen.words(shown_token(label)) for label in labels]
    heads = [_attention_matrix(h, head, shown, screen) for h, head in enumerate(weights)]
    screen.print(Columns(heads, padding=(0, 3)))


def _attention_matrix(head: int, weights: Array, labels: Sequence[str], screen: Screen) -> Text:
    """In percent where there is room for figures, else in shades alone."""
    margin = max(map(cell_len, labels)) + 1
    cell = max(4, margin)
    if margin + cell * len(labels) > screen.width:
        cell = 2
    fitting = min(len(labels), (screen.width - margin) // cell)
    text = Text(f"head {head}\n", no_wrap=True)
    heads = labels if cell > 2 else [label[0] if cell_len(label[0]) == 1 else "" for label in labels]
    text.append(" " * margin + "".join(at_right(label, cell) for label in heads[:fitting]) + "\n", "dim")
    for query, row in enumerate(weights.tolist()):
        text.append(set_cell_size(labels[query], margin), "dim")
        for key, weight in enumerate(row[:fitting]):
            if key > query:
                text.append(" " * cell)
                continue
            share = weight if isfinite(weight) else None
            number = "NaN" if share is None else f"{share * 100:.0f}"
            text.append_tokens(heat_cell(number if cell > 2 else "", share, cell, screen))
        text.append("\n")
    if fitting < len(labels):
        text.append(screen.words(f"… {len(labels) - fitting} more columns\n"), "dim")
    return text


def print_array(
    name: str, array: Array, model: LanguageModel, labels: Sequence[str], screen: Screen, title: str = "",
    shape: Sequence[int] | None = None,
) -> None:  # fmt: skip
    """An array in full, in as many blocks of columns as the width asks for, or the first rows of one
    of that shape."""
    shape = tuple(shape or array.shape)
    said = screen.words("×".join(map(str, shape)) or "scalar")
    screen.print(Text.assemble(("\n" + (title or name), "bold cyan"), (f"  {said} {array.dtype}", "dim")))
    if array.ndim == 0:
        screen.print(Text(figure(float(array), 4)))
        return
    if is_decoder(model):
        rows, columns = decoder_axis_labels(name, array.shape, model, labels)
    else:
        rows, columns = axis_labels(name, array.shape, model, labels)
    whole = name in model.config.shapes() and not title
    hint = "" if whole else f"; --layer {name} --save FILE keeps all of it"
    matrices = list(array) if array.ndim == 3 else [np.atleast_2d(array)]
    for head, matrix in enumerate(matrices):
        if array.ndim == 3:
            screen.print(Text(f"head {head}", "dim"))
        columns_left = _print_matrix(matrix, rows, columns, screen)
    rows_left = (shape[-2] if len(shape) > 1 else 1) - min(len(matrices[0]), MAX_ROWS)
    left = {"rows": rows_left, "columns": columns_left}
    said = " and ".join(f"{count:,} more {what}" for what, count in left.items() if count)
    if said:
        screen.print(Text(screen.words(f"… {said}{hint}"), "dim"))


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
    shown = list(map(_cut, labels))
    if row is not None and row.causal:
        return shown, shown
    if name in model.plan.heads:
        columns = [f"{i // config.head_dim}.{i % config.head_dim}" for i in range(shape[-1])]
    elif name in ("logits", "probs") and model.vocabulary is not None:
        columns = [_cut(model.vocabulary.label(i)) for i in range(shape[-1])]
    if name in ("wte", "lm_head") and model.vocabulary is not None:
        rows = [_cut(model.vocabulary.label(i)) for i in range(MAX_ROWS)]
    return (rows if name in config.shapes() or len(rows) != len(shown) else shown), columns


def _cut(label: str) -> str:
    return shorten(shown_token(label))


def _print_matrix(matrix: Array, rows: Sequence[str], columns: Sequence[str], screen: Screen) -> int:
    """Print the first rows in blocks of columns; how many columns are left out."""
    cells = [[_cell(value) for value in row] for row in matrix[:MAX_ROWS].tolist()]
    rows, columns = (list(map(screen.words, labels)) for labels in (rows, columns))
    margin = max(map(cell_len, rows)) + 1
    width = 2 + max(cell_len(text) for text in (*columns, *(cell for row in cells for cell in row)))
    fitting = max((screen.width - margin) // width, 1)
    edges = [*range(0, len(columns), fitting), len(columns)]
    for start, stop in list(pairwise(edges))[:MAX_BLOCKS]:
        head = " " * margin + "".join(at_right(label, width) for label in columns[start:stop])
        screen.print(Text(head, "dim", no_wrap=True))
        for label, row in zip(rows, cells, strict=False):
            text = Text(set_cell_size(label, margin), "dim", no_wrap=True)
            screen.print(text.append("".join(f"{cell:>{width}}" for cell in row[start:stop]), "not dim"))
    return len(columns) - min(len(columns), MAX_BLOCKS * fitting)


def _cell(value: float) -> str:
    if value != value or value in (float("inf"), float("-inf")):
        return str(value)
    return f"{value:.0e}" if value and (abs(value) < 5e-4 or abs(value) >= 1e4) else f"{value:.3f}"

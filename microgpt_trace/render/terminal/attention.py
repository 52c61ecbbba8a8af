"""Attention on a terminal: heads side by side, in percent where these have room, else in shades."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, isfinite, sqrt
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size

from ...text.printable import shown_token
from ..characters import shade, token_label
from ..sections import AttentionMatrices
from .matrices import has_room, heat, heat_cell
from .screen import Lines, Piece, Screen, at_right

LINES = 24  # that such blocks take together
SAID = 4  # of them around the heads, at most: what they are, and what is left out
HEADS = 2  # above a matrix: which head it is, and its columns
FIGURES = 4  # characters of a weight in percent, its shade included
CELLS = (FIGURES, 2, 1)  # of a weight: the others are shades alone
GAP = 2  # blanks between two heads
FEW = 3  # heads that are shown at least, where some are left out and they have room


class _Layout(NamedTuple):
    """Weights of so many characters, in so many heads beside and below each other."""

    cell: int
    beside: int
    below: int

    @property
    def heads(self) -> int:
        return self.beside * self.below


def print_attention(block: AttentionMatrices, screen: Screen) -> None:
    """Heads of [H, T, T], rows = queries and columns = keys: all of them where there is room."""
    length = len(block.labels)
    rows = [screen.words(token_label(label, max(4, screen.width // 4))) for label in block.labels]
    margin = max(map(cell_len, rows)) + 1
    layout = _layout(block, screen.width - margin)
    shown = sorted(block.order[: layout.heads])
    most = length if block.sharing is None else LINES - SAID - HEADS
    queries = range(max(0, length - most), length)
    keys = range(min(length, max(1, (screen.width - margin) // layout.cell)))
    screen.tell(f"Attention weights{_unit(layout.cell, screen)}, row = query, column = key", "dim", indent=0)
    beside = ceil(len(shown) / ceil(len(shown) / layout.beside))  # in every line as many
    for start in range(0, len(shown), beside):
        if start:
            screen.print()
        heads = shown[start : start + beside]
        above = _above(heads, [block.labels[key] for key in keys], layout.cell, screen)
        lines: list[list[Piece]] = [[(" " * margin + line, "dim")] for line in above]
        for query in queries:
            line = [(set_cell_size(rows[query], margin), "dim")]
            for at, head in enumerate(heads):
                line.append((" " * GAP * bool(at), ""))
                line += _row(block.weights[head, query, : len(keys)].tolist(), query, layout.cell, screen)
            lines.append(line)
        screen.print(Lines(lines))
    for left_out in _left_out(block, shown, queries, keys, screen):
        screen.tell(left_out, "dim", indent=0)


def _unit(cell: int, screen: Screen) -> str:
    """How a weight is written. A shade is that of its root: the small weights of a long text differ too."""
    if cell == FIGURES:
        return " in percent"
    if screen.many_colors:
        return ", the lighter the larger"
    steps = (f"{root * root:.0%} {shade(root, screen.ascii_only)}" for root in (0.2, 0.4, 0.6, 0.8))
    return f" (from {', '.join(steps)})"


def _layout(block: AttentionMatrices, room: int) -> _Layout:
    """The largest weights of which all heads have room, else those of which a few have."""
    count, length = len(block.order), len(block.labels)
    lines = LINES // (block.sharing or 1)

    for enough, free in ((count, lines - 1), (min(FEW, count), lines - SAID)):
        below = count if block.sharing is None else max(1, (free + 1) // (length + HEADS + 1))
        found = [_Layout(cell, (room + GAP) // (_width(cell, length, count) + GAP), below) for cell in CELLS]
        layouts = [layout for layout in found if layout.beside > 0] or [_Layout(CELLS[-1], 1, below)]
        for layout in layouts:
            if layout.heads >= enough:
                return layout
    return max(layouts, key=lambda layout: layout.heads)


def _width(cell: int, length: int, count: int) -> int:
    """How wide a head is, at least as its name."""
    return max(cell * length, len(f" head {count - 1}"))


def _above(heads: Sequence[int], labels: Sequence[str], cell: int, screen: Screen) -> tuple[str, str]:
    """The names of the heads, and below them those of the columns."""
    width = _width(cell, len(labels), max(heads) + 1)
    gap, blank = " " * GAP, " " * (cell > 1)
    columns = "".join(at_right(_short(label, max(1, cell - 1), screen), cell) for label in labels)
    names = gap.join(f"{blank}head {head}".ljust(width) for head in heads)
    return names, gap.join(columns.ljust(width) for _ in heads)


def _short(label: str, width: int, screen: Screen) -> str:
    """What of a token has room above a column; the blank that it begins with least of all."""
    shown = screen.words(shown_token(label.strip(" ") or label))
    return set_cell_size(shown, width).strip() if cell_len(shown) > width else shown


def _row(weights: list[float], query: int, cell: int, screen: Screen) -> Iterator[Piece]:
    """A query's weights, and blanks for what it does not see."""
    for weight in weights[: query + 1]:
        share = weight if isfinite(weight) else None
        if cell == FIGURES:
            number = "NaN" if share is None else f"{share * 100:.0f}"
            yield from heat_cell(number, share, cell, screen)
        elif share is None or not screen.many_colors:
            yield ("?" if share is None else shade(sqrt(max(share, 0)), screen.ascii_only)).rjust(cell), ""
        else:
            yield " " * (cell - 1), ""
            yield " ", heat(sqrt(max(share, 0)))
    yield " " * cell * (len(weights) - query - 1), ""


def _left_out(
    block: AttentionMatrices, shown: Sequence[int], queries: range, keys: range, screen: Screen
) -> list[str]:
    """What has no room, in words, and how to see it."""
    said, length, cut = list[str](), len(block.labels), list[str]()
    if len(shown) < len(block.order):
        said.append(f"{len(shown)} of {len(block.order)} heads, {block.more}")
    if len(queries) < length:
        cut.append(f"the last {len(queries)} of {length} queries")
    if len(keys) < length:
        cut.append(f"the first {len(keys)} of {length} keys")
    if cut:
        labels = list(map(token_label, block.labels))
        whole = has_room(block.weights[block.order[0]], labels, screen)
        said.append(" and ".join(cut) + (block.in_figures if whole else block.in_file))
    return said

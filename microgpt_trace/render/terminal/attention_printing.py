"""Print the attention weights of heads side by side, as percentages or (in little space) as shades."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import ceil, isfinite, sqrt
from operator import itemgetter

from rich.cells import cell_len, set_cell_size

from ...text.printable import shown_token
from ..characters import shade, token_label
from ..sections import AttentionMatrices
from .matrices import has_room, heat, heat_cell
from .screen import Lines, Piece, Screen, at_right

LINES = 24  # lines on a screen for all blocks of attention weights
CAPTION = 4  # largest number of text lines above and below the heads
HEADS = 2  # lines above a matrix: the name of the head, and the column labels
FIGURES = 4  # width of a printed percentage with its shade, in characters
CELLS = (FIGURES, 2, 1)  # possible widths of a weight: a percentage, a wide shade, a narrow shade
GAP = 2  # blanks between two heads
FEW = 3  # if not all heads fit, the layout should have room for this many heads


def print_attention(block: AttentionMatrices, screen: Screen) -> None:
    """Print the weights [H, T, T] of the heads that fit, with queries as rows and keys as columns."""
    length = len(block.labels)
    rows = [screen.words(token_label(label, max(4, screen.width // 4))) for label in block.labels]
    margin = max(map(cell_len, rows)) + 1
    cell, in_row, in_all = _layout(block, screen.width - margin)
    shown = sorted(block.order[:in_all])
    most = length if block.sharing is None else LINES - CAPTION - HEADS
    queries = range(max(0, length - most), length)
    keys = range(min(length, max(1, (screen.width - margin) // cell)))
    screen.tell(f"Attention weights{_unit(cell, screen)}, row = query, column = key", "dim", indent=0)
    beside = ceil(len(shown) / ceil(len(shown) / in_row))  # about the same number of heads in each row
    for start in range(0, len(shown), beside):
        if start:
            screen.print()
        heads = shown[start : start + beside]
        above = _above(heads, [block.labels[key] for key in keys], cell, screen)
        lines: list[list[Piece]] = [[(" " * margin + line, "dim")] for line in above]
        for query in queries:
            line = [(set_cell_size(rows[query], margin), "dim")]
            for at, head in enumerate(heads):
                line.append((" " * GAP * bool(at), ""))
                line += _row(block.weights[head, query, : len(keys)].tolist(), query, cell, screen)
            lines.append(line)
        screen.print(Lines(lines))
    for note in _omissions(block, shown, queries, keys, screen):
        screen.tell(note, "dim", indent=0)


def _unit(cell: int, screen: Screen) -> str:
    """Describe how weights are shown. A shade shows the root of a weight, so that small weights differ."""
    if cell == FIGURES:
        return " in percent"
    if screen.many_colors:
        return ", lighter for a larger weight"
    steps = (f"{root * root:.0%} {shade(root, screen.ascii_only)}" for root in (0.2, 0.4, 0.6, 0.8))
    return f" (from {', '.join(steps)})"


def _layout(block: AttentionMatrices, room: int) -> tuple[int, int, int]:
    """Return the width of a weight, the number of heads in a row and of all heads, for the layout with the
    widest weights that has room for all heads, or else for FEW heads."""
    count, length = len(block.order), len(block.labels)
    lines = LINES // (block.sharing or 1)

    for enough, free in ((count, lines - 1), (min(FEW, count), lines - CAPTION)):
        below = count if block.sharing is None else max(1, (free + 1) // (length + HEADS + 1))
        beside = {cell: (room + GAP) // (_width(cell, length, count) + GAP) for cell in CELLS}
        layouts = [(cell, in_row, in_row * below) for cell, in_row in beside.items() if in_row > 0]
        layouts = layouts or [(CELLS[-1], 1, below)]
        for layout in layouts:
            if layout[-1] >= enough:
                return layout
    return max(layouts, key=itemgetter(-1))


def _width(cell: int, length: int, count: int) -> int:
    """Return the width of a head's matrix, which is at least the width of the head's name."""
    return max(cell * length, len(f" head {count - 1}"))


def _above(heads: Sequence[int], labels: Sequence[str], cell: int, screen: Screen) -> tuple[str, str]:
    """Return a line with the names of the heads, and a line with the column labels of the heads."""
    width = _width(cell, len(labels), max(heads) + 1)
    gap, blank = " " * GAP, " " * (cell > 1)
    columns = "".join(at_right(_short(label, max(1, cell - 1), screen), cell) for label in labels)
    names = gap.join(f"{blank}head {head}".ljust(width) for head in heads)
    return names, gap.join(columns.ljust(width) for _ in heads)


def _short(label: str, width: int, screen: Screen) -> str:
    """Return a token without its leading space, cut to the width of a column."""
    text = screen.words(shown_token(label.strip(" ") or label))
    return set_cell_size(text, width).strip() if cell_len(text) > width else text


def _row(weights: list[float], query: int, cell: int, screen: Screen) -> Iterator[Piece]:
    """Return the weights of a query, and spaces for the keys that the mask hides."""
    for weight in weights[: query + 1]:
        share = weight if isfinite(weight) else None
        if cell == FIGURES:
            number = "NaN" if share is None else f"{share * 100:.0f}"
            yield from heat_cell(number, share, cell, screen, "share")
        elif share is None or not screen.many_colors:
            yield ("?" if share is None else shade(sqrt(max(share, 0)), screen.ascii_only)).rjust(cell), ""
        else:
            yield " " * (cell - 1), ""
            yield " ", heat(share, "share")
    yield " " * cell * (len(weights) - query - 1), ""


def _omissions(
    block: AttentionMatrices, shown: Sequence[int], queries: range, keys: range, screen: Screen
) -> list[str]:
    """Describe the parts that are not shown, and how to see these parts."""
    notes, length, cut = list[str](), len(block.labels), list[str]()
    if len(shown) < len(block.order):
        notes.append(f"{len(shown)} of {len(block.order)} heads are shown, {block.more}")
    if len(queries) < length:
        cut.append(f"the last {len(queries)} of {length} queries")
    if len(keys) < length:
        cut.append(f"the first {len(keys)} of {length} keys")
    if cut:
        labels = list(map(token_label, block.labels))
        fits = has_room(block.weights[block.order[0]], labels, screen)
        notes.append(" and ".join(cut) + (block.in_figures if fits else block.in_file))
    return notes

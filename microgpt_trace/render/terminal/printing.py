"""Print sections, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rich.cells import cell_len
from rich.table import Table as RichTable
from rich.text import Text

from ...text.printable import on_one_line
from ..characters import dot_plot
from ..sections import AttentionMatrices, Copyable, DotPlot, Figures, Grid, Labelled, Section, Table, Words
from .attention_printing import print_attention
from .matrices import print_figures, print_grid
from .screen import Screen
from .tables import print_table

Prints = dict[type, Callable[[Any, Screen], None]]
WIDEST_PLOT = 100  # largest number of characters of a plot's width
NARROWEST = 4  # smallest number of characters for the text beside a label


def print_sections(sections: Sequence[Section], screen: Screen) -> None:
    """Print the sections, separated by blank lines."""
    for number, section in enumerate(sections):
        if number:
            screen.print()
        if section.title:
            aside = [(f"  {section.aside}", "dim")] * bool(section.aside)
            screen.print(_text([(section.title, section.style), *aside], screen))
        for block in section.blocks:
            _PRINT[type(block)](block, screen)


def _print_copyable(block: Copyable, screen: Screen) -> None:
    label = (screen.words(block.label), "dim")
    screen.print(Text.assemble(label, screen.words(block.line)), soft_wrap=True)


def _print_plot(block: DotPlot, screen: Screen) -> None:
    for line in dot_plot(block, min(screen.width - 10, WIDEST_PLOT), screen.ascii_only):
        screen.print(Text(line, no_wrap=True))


def _print_labelled(block: Labelled, screen: Screen) -> None:
    """Print labels in one column and wrapped texts in another, or label by label on a narrow screen."""
    margin = max((cell_len(label) for label, _ in block.pairs), default=0) + 2
    if screen.width < margin + NARROWEST:
        for label, text in block.pairs:
            screen.tell(f"{label} {text}".strip(), indent=0)
        return
    table = RichTable.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in block.pairs:
        table.add_row(*(screen.words(on_one_line(cell)) for cell in (label, text)))
    screen.print(table)


def _print_words(words: Words, screen: Screen) -> None:
    if len(words.spans) == 1:
        ((text, style),) = words.spans
        screen.tell(text, style, words.indent)
    else:
        screen.print(_text(words.spans, screen))


def _text(spans: Sequence[tuple[str, str]], screen: Screen) -> Text:
    return Text.assemble(*((screen.words(on_one_line(text)), style) for text, style in spans))


_PRINT: Prints = {
    Table: print_table, Words: _print_words, Labelled: _print_labelled, Copyable: _print_copyable,
    DotPlot: _print_plot, AttentionMatrices: print_attention, Grid: print_grid, Figures: print_figures,
}  # fmt: skip

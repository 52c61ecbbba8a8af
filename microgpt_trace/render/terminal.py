"""Sections on a terminal. Knows not what they mean."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from ..text.printable import on_one_line
from .dot_plot import dot_plot
from .layout import fits, print_table
from .screen import Screen, labelled
from .sections import (
    AttentionMatrices,
    Block,
    Copyable,
    DotPlot,
    Labelled,
    Listing,
    Section,
    Table,
    Words,
)


def print_sections(sections: Sequence[Section], screen: Screen) -> None:
    """Sections one below the other, a blank line between two."""
    for number, section in enumerate(sections):
        if number:
            screen.print()
        if section.title:
            aside = [(f" {section.aside}", "dim")] * bool(section.aside)
            screen.print(_text([(section.title, section.style), *aside], screen))
        _print_blocks(section.blocks, screen)


def _print_blocks(blocks: Sequence[Block], screen: Screen) -> None:
    for block in blocks:
        if isinstance(block, Table):
            if block.instead and not fits(block.columns, block.rows, screen):
                _print_blocks(block.instead, screen)
            else:
                print_table(block.columns, block.rows, screen)
        elif isinstance(block, Labelled):
            labelled(block.pairs, screen)
        elif isinstance(block, AttentionMatrices):
            from .arrays import attention_matrices  # what only this needs costs 6 ms

            attention_matrices(block.weights, block.labels, screen)
        elif isinstance(block, DotPlot):
            for line in dot_plot(block, screen):
                screen.print(Text(line, no_wrap=True))
        elif isinstance(block, Listing):
            from rich.columns import Columns  # what only this needs

            texts = [Text(screen.words(on_one_line(text)), style) for text, style in block.texts]
            screen.print(Columns(texts, equal=True, column_first=False, padding=(0, 2)))
        elif isinstance(block, Copyable):
            label = (f"{block.label}    ", "dim")
            screen.print(Text.assemble(label, screen.words(block.line)), soft_wrap=True)
        elif block.from_width <= screen.width:
            _print_words(block, screen)


def _print_words(words: Words, screen: Screen) -> None:
    if len(words.spans) == 1:
        ((text, style),) = words.spans
        screen.tell(text, style, words.indent)
    else:
        screen.print(_text(words.spans, screen))


def _text(spans: Sequence[tuple[str, str]], screen: Screen) -> Text:
    return Text.assemble(*((screen.words(on_one_line(text)), style) for text, style in spans))

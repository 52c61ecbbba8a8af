"""Sections on a terminal. Knows not what they mean."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from ..text.printable import on_one_line
from .layout import print_table
from .screen import Screen, labelled
from .sections import Block, Labelled, Section, Table


def print_sections(sections: Sequence[Section], screen: Screen) -> None:
    """Sections one below the other, a blank line between two."""
    for number, section in enumerate(sections):
        if number:
            screen.print()
        if section.title:
            aside = [(f" {section.aside}", "dim")] * bool(section.aside)
            screen.print(_text([(section.title, section.style), *aside], screen))
        for block in section.blocks:
            _print_block(block, screen)


def _print_block(block: Block, screen: Screen) -> None:
    if isinstance(block, Table):
        print_table(block.columns, block.rows, screen)
    elif isinstance(block, Labelled):
        labelled(block.pairs, screen)
    elif len(block.spans) == 1:
        ((text, style),) = block.spans
        screen.tell(text, style, block.indent)
    else:
        screen.print(_text(block.spans, screen))


def _text(spans: Sequence[tuple[str, str]], screen: Screen) -> Text:
    return Text.assemble(*((screen.words(on_one_line(text)), style) for text, style in spans))

"""The terminal with its width, colours and characters.

Printed text may come from a file, so a Screen escapes all control characters in printed text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from io import StringIO
from itertools import groupby
from typing import Any

from rich.cells import cell_len, chop_cells
from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from ...text.printable import in_lines, on_one_line

Piece = tuple[str, str]  # a text and its style
LEAST = 16  # smallest number of characters of a line after its indent
_ASCII = str.maketrans(
    {
        "→": "->", "←": "<-", "•": "*",
        "√": "sqrt", "·": "*", "×": "x", "≤": "<=", "≥": ">=", "≈": "~", "…": "...", "±": "+-",
        "–": "-", "−": "-",
        "█": "#", "▓": "+", "▒": ":", "░": ".", "▏": "|", "✓": "ok", "✗": "NO", "│": "|", "─": "-",
        "µ": "u", "␣": "_",
    }
)  # fmt: skip


class Screen(Console):
    """A Screen is a Rich console that does not interpret markup in text."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape control characters in text, which may come from a file, but not control codes of Rich."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            safe = control is not None or text.isprintable() or text == "\n"
            yield segment if safe else Segment(in_lines(text), style)

    @cached_property  # without this cache, Rich asks the terminal for its size 7,000 times
    def size(self) -> ConsoleDimensions:
        return super().size

    @cached_property
    def ascii_only(self) -> bool:
        return self.options.ascii_only

    @property
    def many_colors(self) -> bool:
        """Return True if the screen has more than the 16 colours that a terminal can redefine."""
        return self.color_system in ("256", "truecolor") and not self.no_color

    def words(self, text: str) -> str:
        """Return the text without control characters, and in ASCII if the terminal has only ASCII."""
        text = in_lines(text)
        return text.translate(_ASCII) if self.ascii_only else text

    def tell(self, text: str, style: str = "", indent: int = 2) -> None:
        """Print a text as wrapped and indented lines."""
        for line in wrapped(self.words(on_one_line(text)), max(self.width - indent, LEAST)):
            self.print(Text(" " * indent + line, style))


class Lines:
    """Lines that Rich prints unchanged, without wrapping."""

    def __init__(self, lines: Sequence[Sequence[Piece]]) -> None:
        self.lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        styles = {"": Style.null()}
        for line in self.lines:
            for style, pieces in groupby(line, key=lambda piece: piece[1]):
                if style not in styles:
                    styles[style] = console.get_style(style)
                yield Segment("".join(text for text, _ in pieces), styles[style])
            yield Segment.line()


def text_screen(width: int = 100) -> Screen:
    """Return a screen of `width` characters that writes to a string, in UTF-8 and without colour. In a
    notebook Rich would otherwise display the text in colour."""
    return Screen(file=StringIO(), width=width, force_terminal=False, force_jupyter=False, color_system=None)


_WORD = re.compile(r" +|(?:\[[^\[\]]{0,30}\]|[^ \[]|\[)+")


def wrapped(text: str, width: int) -> list[str]:
    """Wrap the text to lines of at most `width` characters. Break a word (or a short text in brackets) only
    if it is longer than a line."""
    lines, line, free = list[str](), "", width
    for word in _WORD.findall(text):
        size = cell_len(word)
        if size > free and word.strip():
            *chunks, word = chop_cells(word, width) or [word]  # none of a word without width
            lines += filter(None, (chunk.strip() for chunk in (line.rstrip(), *chunks)))
            line, size, free = "", cell_len(word), width
        line, free = line + word, free - size
    return [*lines, *filter(None, [line.rstrip()])]


def at_right(text: str, width: int) -> str:
    """Return the text right-aligned in `width` characters."""
    return " " * (width - cell_len(text)) + text

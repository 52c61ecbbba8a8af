"""The terminal as a file of lines: what it can show, and words for what it cannot.

Whatever is printed here may come from a file: a Screen spells out what a terminal would obey.
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
LEAST = 16  # cells that text has beside its indent, however narrow the screen is
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
    """A rich console that says what it can show. It takes text as it is and reads no markup."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The last place that all text passes: what styles it is rich's own, what is in it may be foreign."""
        for segment in super().render(renderable, options):
            text, style, control = segment
            safe = control is not None or text.isprintable() or text == "\n"
            yield segment if safe else Segment(in_lines(text), style)

    @cached_property  # rich would ask the terminal anew, for each of 7,000 cells
    def size(self) -> ConsoleDimensions:
        return super().size

    @cached_property
    def ascii_only(self) -> bool:
        return self.options.ascii_only

    @property
    def many_colors(self) -> bool:
        """Whether it has colours of our choice: of sixteen the terminal has its own idea."""
        return self.color_system in ("256", "truecolor") and not self.no_color

    def words(self, text: str) -> str:
        """The text in characters that this terminal has, and none that it would obey."""
        text = in_lines(text)
        return text.translate(_ASCII) if self.ascii_only else text

    def tell(self, text: str, style: str = "", indent: int = 2) -> None:
        """Print plain text, its further lines indented like the first one."""
        for line in wrapped(self.words(on_one_line(text)), max(self.width - indent, LEAST)):
            self.print(Text(" " * indent + line, style))


class Lines:
    """Prints lines without rich's search for places to break them."""

    def __init__(self, lines: Sequence[Sequence[Piece]]) -> None:
        self.lines = lines

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        known = {"": Style.null()}
        for line in self.lines:
            for style, pieces in groupby(line, key=lambda piece: piece[1]):
                if style not in known:
                    known[style] = console.get_style(style)
                yield Segment("".join(text for text, _ in pieces), known[style])
            yield Segment.line()


def text_screen(width: int = 100) -> Screen:
    """A screen without a terminal, whose text one captures: as wide as said, UTF-8, no colour, wherever
    the program runs (a notebook counts as a terminal in colour, and displays what rich prints)."""
    return Screen(file=StringIO(), width=width, force_terminal=False, force_jupyter=False, color_system=None)


_WORD = re.compile(r" +|(?:\[[^\[\]]{0,30}\]|[^ \[]|\[)+")


def wrapped(text: str, width: int) -> list[str]:
    """The text in lines of so many cells at most. What stands in brackets stays together, and so does a word,
    if it has room on a line."""
    lines, line, free = list[str](), "", width
    for word in _WORD.findall(text):
        size = cell_len(word)
        if size > free and word.strip():
            *whole, word = chop_cells(word, width)
            lines += filter(None, (done.strip() for done in (line.rstrip(), *whole)))
            line, size, free = "", cell_len(word), width
        line, free = line + word, free - size
    return [*lines, *filter(None, [line.rstrip()])]


def at_right(text: str, width: int) -> str:
    """The text at the right of so many cells of the screen."""
    return " " * (width - cell_len(text)) + text

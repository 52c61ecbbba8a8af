"""Lines of styled text that fit the screen as they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from rich.console import Console, ConsoleOptions
from rich.segment import Segment
from rich.style import Style

Piece = tuple[str, str]  # a text and its style


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

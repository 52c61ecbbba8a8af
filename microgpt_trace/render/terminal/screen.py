"""The terminal as a file of lines: what it can show, and words for what it cannot.

Whatever is printed here may come from a file: a Screen spells out what a terminal would obey.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from io import StringIO
from itertools import groupby, pairwise
from math import inf, isfinite
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

    def bar(self, share: float, width: int) -> str:
        """A bar of `share` of the width, in eighths of a character where these exist."""
        share = min(max(share, 0.0), 1.0) if share == share else 0.0
        if self.ascii_only:
            return "#" * round(share * width)
        whole, part = divmod(round(share * width * 8), 8)
        return "█" * whole + (" ▏▎▍▌▋▊▉"[part] if part else "")

    def sparkline(self, values: Sequence[float | None], width: int) -> str:
        """The course of a series from its least to its largest value, a character for each value, or for
        the mean of several where there are more than the width.

        A blank stands for no value, "?" for one that is not finite. What varies by less than a thousandth
        is flat: a norm that stays the same would show its rounding.
        """
        levels = "_.-=+*#@" if self.ascii_only else "▁▂▃▄▅▆▇█"
        finite = [value for value in values if value is not None and isfinite(value)]
        low, high = min(finite, default=0.0), max(finite, default=0.0)
        span = high / 2 - low / 2  # halves, for the whole may be too large for a float
        if span * 2 <= 1e-3 * max(abs(low), abs(high)):
            span = inf
        columns = max(min(width, len(values)), 0)
        edges = [i * len(values) // columns for i in range(columns + 1)] if columns else []
        return "".join(_mark(values[a:b], low, span, levels) for a, b in pairwise(edges))

    def signed_bar(self, value: float | None, scale: float, width: int) -> str:
        """A bar from the middle to the right for what is positive, to the left for what is negative, half the
        width for `scale`; nothing where there is no value, ? for one that is not finite."""
        if value is None:
            return ""
        half, middle = (width - 1) // 2, "|" if self.ascii_only else "│"
        if not isfinite(value):
            return " " * half + "?"
        length = min(abs(value) / scale, 1.0) * half
        if self.ascii_only:
            bar = "#" * round(length)
        else:
            whole, rest = divmod(round(length * 2), 2)
            bar = "█" * whole + ("▐" if value < 0 else "▌") * rest
        return f"{bar[::-1]:>{half}}{middle}" if value < 0 else f"{' ' * half}{middle}{bar}"

    def shade(self, share: float) -> str:
        """One character, darker for a larger share of 1."""
        shades = " .:+#" if self.ascii_only else " ░▒▓█"
        return shades[min(int(share * 5), 4)] if share > 0 else " "


def _mark(values: Sequence[float | None], low: float, span: float, levels: str) -> str:
    """The character of a sparkline for the mean of these values."""
    known = [value for value in values if value is not None]
    if not known:
        return " "
    if not all(map(isfinite, known)):
        return "?"
    half = sum(value / 2 / len(known) for value in known)
    return levels[min(max(int((half - low / 2) / span * len(levels)), 0), len(levels) - 1)]


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

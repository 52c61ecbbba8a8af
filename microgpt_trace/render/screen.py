"""The terminal as a file of lines: what it can show, and words for what it cannot.

Whatever is printed here may come from a file: a Screen spells out what a terminal would obey.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from io import StringIO
from itertools import pairwise
from math import inf, isfinite
from typing import Any

from rich.cells import cell_len, chop_cells, set_cell_size
from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderableType
from rich.markup import escape as escape_markup
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ..text.printable import in_lines, on_one_line

LABEL = 12  # cells of a token in a table
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
    """A rich console that says what it can show. It takes text as it is; only `say` reads markup."""

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

    def say(self, text: str = "", **options: Any) -> None:
        """Print rich markup; user text in it must be escaped."""
        self.print(self.words(text), markup=True, **options)

    def tell(self, text: str, style: str = "", indent: int = 2) -> None:
        """Print plain text, its further lines indented like the first one."""
        for line in wrapped(self.words(on_one_line(text)), max(self.width, 20) - indent):
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


def to_text(width: int = 100) -> Screen:
    """A screen without a terminal, whose text one captures: as wide as said, UTF-8, no colour, wherever
    the program runs (a notebook counts as a terminal in colour, and displays what rich prints)."""
    return Screen(file=StringIO(), width=width, force_terminal=False, force_jupyter=False, color_system=None)


def figure(value: float | None, digits: int = 2) -> str:
    """A number for a table: two decimals where they say something, else an exponent."""
    if value is None:
        return "–"
    if value == 0 or 0.5 * 10**-digits <= abs(value) < 1e5:
        text = f"{value:.{digits}f}"
        return text.lstrip("-") if float(text) == 0 else text
    return f"{value:.1e}"


def significant(value: float | None) -> str:
    """A number with four significant digits, written out from 0.0001 to a million."""
    if value is None:
        return "–"
    text = f"{value:.0f}" if 1e4 <= abs(value) < 1e6 else f"{value:.4g}"
    return text.replace("nan", "NaN")


def probability(p: float, digits: int = 4) -> str:
    """A probability; a small one with an exponent, for it is not zero."""
    return f"{p:.{digits}f}" if p == 0 or p >= 0.5 * 10**-digits or p != p else f"{p:.1e}"


def escape(text: str) -> str:
    """Foreign text within markup, on one line."""
    return escape_markup(on_one_line(text))


def shorten(label: str) -> str:
    """A token's text as far as a table has room for it."""
    return label if cell_len(label) <= LABEL else f"{set_cell_size(label, LABEL - 1).rstrip()}…"


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


def ratio(value: float | None) -> str:
    """A ratio with three significant digits."""
    return f"{value:.3g}" if value is not None and math.isfinite(value) else "–"


def labelled(pairs: Sequence[tuple[str, str]], screen: Screen) -> None:
    """Lines "label  text", the labels in one column and the text wrapped beside it."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for label, text in pairs:
        table.add_row(*(screen.words(on_one_line(cell)) for cell in (label, text)))
    screen.print(table)

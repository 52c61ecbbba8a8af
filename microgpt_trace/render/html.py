"""A Trace as HTML, for a notebook: what the terminal shows, in colours for light and dark pages alike."""

from __future__ import annotations

from io import StringIO

from rich.terminal_theme import TerminalTheme

from ..tracing.result import Trace
from .terminal.printing import print_sections
from .terminal.screen import Screen
from .trace import trace_sections

WIDTH = 110  # characters
# Every one stands out from white and from #111 by a contrast of 4 at least; what is dim is halfway between
# the first two. The page gives background and text.
_COLORS = TerminalTheme(
    (255, 255, 255),
    (0, 0, 0),
    [
        (127, 127, 127),
        (215, 60, 60),
        (30, 138, 60),
        (150, 115, 0),
        (70, 110, 230),
        (185, 75, 200),
        (0, 130, 150),
        (127, 127, 127),
    ],
)
_FONT = "Menlo, Consolas, 'DejaVu Sans Mono', monospace"  # some pages set all text, tables too, in another
_STYLE = f"font-family: {_FONT}; line-height: 1.2; white-space: pre; overflow-x: auto"
_PRE = f'<pre style="{_STYLE}">{{code}}</pre>'


def to_html(trace: Trace) -> str:
    """The trace as HTML. In a notebook rich would display what it prints as well, and write escape codes;
    a height keeps it from asking the terminal for the width."""
    screen = Screen(
        file=StringIO(), width=WIDTH, height=25, record=True, force_jupyter=False, force_terminal=True,
        color_system="truecolor", no_color=False, legacy_windows=False,
    )  # fmt: skip
    print_sections(trace_sections(trace), screen)
    return screen.export_html(theme=_COLORS, code_format=_PRE, inline_styles=True)

"""Sections as a terminal shows them, control characters in a text, and the contrast of two colours."""

import re

from microgpt_trace.render.terminal.printing import print_sections
from microgpt_trace.render.terminal.screen import text_screen

# Writes to the clipboard, hides text, reverses the reading direction, moves up a line, and is wrong markup.
EVIL = "\x1b]52;c;ZXZpbA==\x07\x1b[8m\x9b2K\x90q\u202eevil\u2066\u200f[/][bold red]\\[/a]\x7f\x85\u2028"
EVIL += "\r\n\x1b[1A"
STYLE = re.compile(r"\x1b\[[0-9;]*m")  # the styles that rich writes to a terminal
BAR = re.compile(r"\x1b\[\?25[lh]|\r\x1b\[2K(\x1b\[1A\x1b\[2K)*")  # rich moves a bar
HIDDEN = "\x1b[8m"  # a style that the program never uses


def rendered(sections, width=100):
    """Return sections as a screen of this width without colours shows them."""
    screen = text_screen(width)
    with screen.capture() as captured:
        print_sections(sections, screen)
    return captured.get()


def controls(text: str, terminal: bool) -> set[str]:
    """Return the control characters of an output. The styles of rich are allowed on a terminal."""
    plain = STYLE.sub("", text) if terminal else text
    hidden = {"\x1b"} if HIDDEN in text else set()
    return hidden | {c for c in plain if not (c.isprintable() or c == "\n")}


def luminance(color):
    """Return the relative luminance of a colour [red, green, blue] up to 255, as WCAG 2 defines it."""

    def linear(x):
        return x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(channel) / 255) for channel in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a, b):
    """Return the contrast ratio of two colours, as WCAG 2 defines it."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)

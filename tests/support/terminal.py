"""Sections as a terminal has them, what it would obey in a text, and how far two colours are apart."""

import re

from microgpt_trace.render.terminal.printing import print_sections
from microgpt_trace.render.terminal.screen import text_screen

# It writes to the clipboard, hides text, turns the reading direction, goes up a line, and is wrong markup.
EVIL = "\x1b]52;c;ZXZpbA==\x07\x1b[8m\x9b2K\x90q\u202eevil\u2066\u200f[/][bold red]\\[/a]\x7f\x85\u2028"
EVIL += "\r\n\x1b[1A"
STYLE = re.compile(r"\x1b\[[0-9;]*m")  # what rich itself writes where there is a terminal
BAR = re.compile(r"\x1b\[\?25[lh]|\r\x1b\[2K(\x1b\[1A\x1b\[2K)*")  # and where it moves a progress bar
HIDDEN = "\x1b[8m"  # no style of ours


def printed(sections, width=100):
    """What a screen so wide without colours has of them."""
    screen = text_screen(width)
    with screen.capture() as captured:
        print_sections(sections, screen)
    return captured.get()


def obeyed(text: str, terminal: bool) -> set[str]:
    """The characters that an output should have spelled out; a terminal gets styles from rich as well."""
    own = STYLE.sub("", text) if terminal else text
    hidden = {"\x1b"} if HIDDEN in text else set()
    return hidden | {c for c in own if not (c.isprintable() or c == "\n")}


def luminance(color):
    """As WCAG 2 defines it, of red, green and blue up to 255."""

    def linear(part):
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    red, green, blue = (linear(int(part) / 255) for part in color)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(a, b):
    """As WCAG 2 defines it."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)

"""A cell of a heat map: a number on a colour, or behind a shade where there are no colours."""

from __future__ import annotations

from ..characters import shade
from .screen import Screen

Color = tuple[int, int, int]
# The lighter, the farther from 0, whatever the terminal's own colours: blue above, red below.
_NOTHING: Color = (38, 38, 40)
_ABOVE: tuple[Color, Color] = ((25, 85, 190), (165, 220, 255))
_BELOW: tuple[Color, Color] = ((185, 55, 35), (255, 195, 150))


def heat(share: float) -> str:
    """The style for a share between -1 and 1: its colour, with black or white on it, whichever is easier to
    read (by a contrast of 4.5 at least)."""
    middle, end = _ABOVE if share >= 0 else _BELOW
    twice = min(abs(share), 1.0) * 2
    color = _mixed(_NOTHING, middle, twice) if twice <= 1 else _mixed(middle, end, twice - 1)
    text = "255,255,255" if _luminance(color) < 0.179 else "0,0,0"
    return f"rgb({text}) on rgb({','.join(map(str, color))})"


def heat_cell(text: str, share: float | None, width: int, screen: Screen) -> list[tuple[str, str]]:
    """The text at the right of a cell of that width, and the style of each piece; what the cell before has
    does not touch it. A `share` of None has neither colour nor shade."""
    if share is None:
        return [(f"{text:>{width}}", "not dim")]
    if screen.many_colors:
        return [(" ", ""), (f"{text:>{width - 1}}", f"not dim {heat(share)}")]
    return [(f"{shade(share, screen.ascii_only)}{text}".rjust(width), "not dim")]


def _mixed(a: Color, b: Color, share: float) -> Color:
    red, green, blue = (round(x + (y - x) * share) for x, y in zip(a, b, strict=True))
    return red, green, blue


def _luminance(color: Color) -> float:
    """As WCAG 2 defines it; at 0.179 black and white stand out equally."""
    red, green, blue = (
        part / 255 / 12.92 if part <= 10 else ((part / 255 + 0.055) / 1.055) ** 2.4 for part in color
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue

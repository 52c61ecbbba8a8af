"""The colours of numbers, the same in the terminal, in pages and in figures.

Each scale has nine stops for a light and for a dark background. The steps between stops are equal in
CIEDE2000, also for readers who do not see red, green or blue (Machado et al. 2009). Colours depend on a
number linearly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple


class Stops(NamedTuple):
    """The stops of a scale on a light and on a dark background, such as "#e7daf2"."""

    light: Sequence[str]
    dark: Sequence[str]


Kind = Literal["share", "signed"]

SCALES: dict[Kind, Stops] = {
    # From 0 up, for numbers that cannot be negative: shares, probabilities, outputs of ReLU.
    "share": Stops(
        ("#e7daf2", "#dac2f0", "#c8a4ec", "#b285e3", "#9c69d5", "#8551c4", "#6a37ab", "#4a2087", "#29135b"),
        ("#403652", "#533d73", "#70499b", "#8e5abc", "#aa70d5", "#c68be9", "#dfacf6", "#f2ccfc", "#fde6fe"),
    ),
    # From the largest negative to the largest positive magnitude, with 0 in the middle.
    "signed": Stops(
        ("#0a3f86", "#236cb6", "#5798d4", "#a5c5df", "#dad9d6", "#debd9e", "#d48b53", "#b3591a", "#803009"),
        ("#80d8fe", "#4aa6df", "#3c7dae", "#3d5975", "#404144", "#684e3e", "#9e6535", "#d68934", "#fcc364"),
    ),
}

Rgb = tuple[int, int, int]


def color_at(stops: Sequence[str], place: float) -> Rgb:
    """Return the red, green and blue of a place from 0 (the first stop) to 1 (the last stop)."""
    at = min(max(place, 0.0), 1.0) * (len(stops) - 1)
    left = min(int(at), len(stops) - 2)
    (r0, g0, b0), (r1, g1, b1) = (bytes.fromhex(stop[1:]) for stop in stops[left : left + 2])
    part = at - left
    return round(r0 + (r1 - r0) * part), round(g0 + (g1 - g0) * part), round(b0 + (b1 - b0) * part)


def is_dark(color: Sequence[float]) -> bool:
    """Return True if white contrasts more than black with a colour (red, green, blue from 0 to 255), by the
    luminance of WCAG 2."""
    shares = (part / 255 for part in color)
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179

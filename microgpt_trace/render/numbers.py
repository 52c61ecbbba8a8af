"""Numbers as a table or a sentence writes them. Knows no table."""

from __future__ import annotations

import math


def figure(value: float | None, digits: int = 2) -> str:
    """A number for a table: two decimals where they say something, else an exponent."""
    if value is None:
        return "–"
    if value == 0 or 0.5 * 10**-digits <= abs(value) < 1e5:
        text = f"{value:.{digits}f}"
        return text.lstrip("-") if float(text) == 0 else text
    return _named(f"{value:.1e}")


def significant(value: float | None) -> str:
    """A number with four significant digits, written out from 0.0001 to a million."""
    if value is None:
        return "–"
    text = f"{value:.0f}" if 1e4 <= abs(value) < 1e6 else f"{value:.4g}"
    return _named(text)


def signed(value: float, digits: int) -> str:
    """A number with its sign, + included."""
    text = figure(value, digits)
    return f"+{text}" if value > 0 and text.strip("0.") else text


def probability(p: float, digits: int = 4) -> str:
    """A probability; a small one with an exponent, for it is not zero."""
    return f"{p:.{digits}f}" if p == 0 or p >= 0.5 * 10**-digits else _named(f"{p:.1e}")


def _named(text: str) -> str:
    return text.replace("nan", "NaN")


def ratio(value: float | None) -> str:
    """A ratio with three significant digits."""
    return f"{value:.3g}" if value is not None and math.isfinite(value) else "–"

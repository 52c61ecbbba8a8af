"""Format numbers for tables and sentences."""

from __future__ import annotations

import math
from functools import partial


def figure(value: float | None, digits: int = 2) -> str:
    """Format a number with `digits` decimals. Very small and very large numbers have an exponent instead."""
    if value is None:
        return "–"
    if value == 0 or 0.5 * 10**-digits <= abs(value) < 1e5:
        text = f"{value:.{digits}f}"
        return text.lstrip("-") if float(text) == 0 else text
    return exponent(value)


def significant(value: float | None) -> str:
    """Format a number with four significant digits. Numbers from 0.0001 to a million have no exponent."""
    if value is None:
        return "–"
    text = f"{value:.0f}" if 1e4 <= abs(value) < 1e6 else f"{value:.4g}"
    return _with_nan(text)


def signed(value: float, digits: int) -> str:
    """Format a number with its sign, such as "+0.50" or "-0.50"."""
    text = figure(value, digits)
    return f"+{text}" if value > 0 and text.strip("0.") else text


# Formats of probabilities, losses and gradients. A small value has an exponent: 0.000 would look like zero.
three_decimals, four_decimals = partial(figure, digits=3), partial(figure, digits=4)


def exponent(value: float) -> str:
    """Format a number with an exponent."""
    return _with_nan(f"{value:.1e}")


def _with_nan(text: str) -> str:
    return text.replace("nan", "NaN")


def ratio(value: float | None) -> str:
    """Format a ratio with three significant digits."""
    return f"{value:.3g}" if value is not None and math.isfinite(value) else "–"


def percent(value: float | None) -> str:
    """Format a share in percent, with one decimal."""
    return "–" if value is None else f"{value:.1%}"


def distance(value: float | None) -> str:
    """Format a relative error, such as 2.1e-07, 0.013 or 1.2. "0" means that the bits are equal, "NaN/Inf"
    means that only one side is finite, and "–" means that nothing was compared."""
    if value is None or math.isnan(value):
        return "–"
    if not math.isfinite(value):
        return "NaN/Inf"
    return "0" if value == 0 else f"{value:.1e}" if value < 1e-3 else f"{value:.2g}"


def two_decimals(value: float | None) -> str:
    """Format a share with two decimals, or with an exponent from 10,000 on. Write 0.00 instead of -0.00."""
    if value is None:
        return "–"
    text = f"{value:.2f}" if not abs(value) >= 1e4 else f"{value:.0e}"
    return "0.00" if text == "-0.00" else _with_nan(text)


def finite_or_named(value: float) -> str:
    """Format a number with four significant digits, or as NaN or Infinity."""
    return significant(value).replace("inf", "Infinity")


def two_apart(a: float, b: float) -> tuple[str, str]:
    """Format two numbers with enough digits to show their difference, such as 2.7186 and 2.7190."""
    texts, digits = (finite_or_named(a), finite_or_named(b)), 4
    while texts[0] == texts[1] and abs(a - b) > 0 and digits < 17:
        digits += 1
        texts = f"{a:#.{digits}g}", f"{b:#.{digits}g}"
    return texts

"""Turn numbers and lists into text for sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby

Form = Callable[[float, int], str]  # arguments: a number, and the number of digits to write


def number(value: float) -> str:
    """Write a number with four significant digits, or from 10,000 on as an integer, such as 22,552."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def nonfinite_name(value: float) -> str:
    """Return the name that JSON documents use for a value that is not finite."""
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def decimals(value: float, digits: int = 2) -> str:
    """Round a number to `digits` decimals, a tiny number to 3 digits, and a large number to an integer."""
    if 1e4 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    readable = value == 0 or 0.5 * 10**-digits <= abs(value) < 1e4
    return f"{value:.{digits}f}" if readable else f"{value:.3g}"


def span(values: Iterable[float]) -> str:
    """Write the range of numbers, such as "8.91 to 8.94", or only "8.94" if both bounds print as 8.94."""
    ordered = sorted(values)
    low, high = decimals(ordered[0]), decimals(ordered[-1])
    return low if low == high else f"{low} to {high}"


def percent(value: float, digits: int = 0) -> str:
    return f"{value:.{digits}%}"


def at_most(share: float) -> str:
    """Write a share with two significant digits, rounded up: 0.00344 is "0.35%"."""
    if not 0 < share < 1:
        return f"{max(share, 0.0):.0%}" if share < 1e4 else f"{100 * share:.2g}%"
    digits = max(0, 1 - math.floor(math.log10(100 * share)))
    return f"{math.ceil(100 * share * 10**digits) / 10**digits:.{digits}f}%"


def fixed(value: float, digits: int) -> str:
    return f"{value:,.{digits}f}"


def value_and_limit(value: float, limit: float, form: Form, digits: int = 0) -> tuple[str, str]:
    """Write a value and a limit with enough digits to see on which side of the limit the value is: 0.9796 and
    0.9800, not 0.98 and 0.98."""
    while digits < 16 and (_parse(form(value, digits)) >= _parse(form(limit, digits))) != (value >= limit):
        digits += 1
    return form(value, digits), form(limit, digits)


def _parse(text: str) -> float:
    return float(text.replace(",", "").rstrip("%"))


def counted(count: int, what: str) -> str:
    """Write a count with its noun: "1 step", "5,000 steps"."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def are(count: int) -> str:
    """Return the verb for a count: "is" for 1, else "are"."""
    return "is" if count == 1 else "are"


def listed(items: Sequence[str]) -> str:
    """Join items as in a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def abridged(names: Sequence[str], most: int = 3) -> str:
    """Write the first names and the number of other names: "a, b, c and 1,204 more"."""
    return ", ".join(names[:most]) + f" and {len(names) - most:,} more" * (len(names) > most)


def ranges(numbers: Sequence[int], most: int = 4) -> str:
    """Write ascending numbers as ranges. Ranges after the first `most` are left out.

    >>> ranges([0, 1, 2, 4])
    '0-2, 4'
    """
    runs = [[i for _, i in run] for _, run in groupby(enumerate(numbers), lambda pair: pair[1] - pair[0])]
    words = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return ", ".join([*words[:most], *["..."] * (len(words) > most)])

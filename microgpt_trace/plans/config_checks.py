"""Checks for the numbers in a config. This module depends on no config."""

import math

from ..errors import InputError
from ..text.brief import brief


def check_whole_number(name: str, value: object, least: int = 1, below: int = 1 << 31) -> None:
    """Raise InputError if the value is not an int with least <= value < below. A bool is not accepted."""
    if type(value) is not int or value < least:
        raise InputError(f"{name}: expected a whole number of at least {least}, found {brief(value)}", name)
    if value >= below:
        raise InputError(f"{name}: expected a whole number below {below:,}, found {brief(value)}", name)


def check_positive(name: str, value: object) -> None:
    """Raise InputError if the value is not a positive, finite number."""
    if not isinstance(value, int | float) or not (math.isfinite(value) and value > 0):
        raise InputError(f"{name}: expected a positive number, found {value!r}", name)

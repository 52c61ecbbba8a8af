"""How rounding spreads through an operation, in the terms that its kind gives."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...arrays.stats import Array

# Times a unit of the size of what is added up. The roundings of a sum of unlike terms cancel, those of K
# equal ones need not.
ROUNDINGS = 16

VANISHING = 128.0  # times the least normal number: of SiLU e^-x is infinite before x*e^x is nothing


def bound(size: Array, dtype: np.dtype[np.floating]) -> Array:
    """How far roundings of a computation in that type may move elements whose roundings are relative to
    `size`."""
    known = np.finfo(dtype)
    return size * (ROUNDINGS * float(known.eps) / 2) + VANISHING * float(known.tiny)


class Sizes(NamedTuple):
    """What the count of roundings goes by: how many positions, the width of the stream and of the input."""

    length: int
    width: int
    input: int


class Spread(NamedTuple):
    """What an output's rows err by where nothing cancels: `terms` products in each of its sums (1: none),
    `angles` that grow with the position. `peaked`: a row may be two numbers that stray alike. `halves`:
    engines for quantised weights keep what it reads as float16."""

    terms: int = 1
    angles: bool = False
    peaked: bool = False
    halves: bool = False


def terms(count: int) -> float:
    """How many roundings more a sum of so many numbers has, in units of those of one operation."""
    return 1 + count / 256

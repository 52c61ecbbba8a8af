"""The error function of arrays. Knows no model.

Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969): erf near 0, erfc
elsewhere by two ratios of polynomials, each to the last bits of float64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from .stats import Array

NEAR, FAR = 0.46875, 4.0  # where one ratio ends and another begins
_ERF = (
    (1.85777706184603153e-1, 3.16112374387056560e0, 1.13864154151050156e2, 3.77485237685302021e2,
     3.20937758913846947e3),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)  # fmt: skip
_ERFC = (
    (2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1,
     2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3,
     1.23033935479799725e3),
    (1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3,
     3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3),
)  # fmt: skip
_TAIL = (
    (1.63153871373020978e-2, 3.05326634961232344e-1, 3.60344899949804439e-1, 1.25781726111229246e-1,
     1.60837851487422766e-2, 6.58749161529837803e-4),
    (1.0, 2.56852019228982242e0, 1.87295284992346725e0, 5.27905102951428412e-1, 6.05183413124413191e-2,
     2.33520497626869185e-3),
)  # fmt: skip


def erfc(x: Array) -> Array:
    """1 - erf(x), to the last digits however small it is: [...] -> [...] float64"""
    x = np.asarray(x, np.float64)
    size, found = np.abs(x), np.full(x.shape, np.nan)
    near, far = size <= NEAR, size > FAR
    between = ~(near | far | np.isnan(size))
    found[near] = 1 - x[near] * _ratio(np.square(x[near]), _ERF)
    found[between] = _exp_of_square(size[between]) * _ratio(size[between], _ERFC)
    z = np.minimum(size[far], 30.0)  # beyond 27 it is 0
    inverse = 1 / np.square(z)
    tail = 1 / math.sqrt(math.pi) - inverse * _ratio(inverse, _TAIL)
    found[far] = _exp_of_square(z) * tail / z
    return np.where((x < 0) & ~near, 2 - found, found)


def _exp_of_square(x: Array) -> Array:
    """exp(-x^2), of which x^2 is split: the part that is rounded off would cost digits"""
    short = np.trunc(x * 16) / 16
    return np.exp(-short * short) * np.exp(-(x - short) * (x + short))


def _ratio(x: Array, of: tuple[Sequence[float], Sequence[float]]) -> Array:
    """A ratio of two polynomials, the highest power first."""
    above, below = np.full_like(x, of[0][0]), np.full_like(x, of[1][0])
    for a, b in zip(of[0][1:], of[1][1:], strict=True):
        above, below = above * x + a, below * x + b
    return above / below

"""The error function of arrays. Knows no model."""

from __future__ import annotations

import math
from itertools import chain

import numpy as np

from .stats import Array


def erfc(x: Array) -> Array:
    """Return 1 - erf(x) by math.erfc: [...] -> [...] float64

    A row at a time becomes Python's numbers, of which each takes 24 bytes.
    """
    rows = np.asarray(x, np.float64).reshape(-1, x.shape[-1])
    numbers = chain.from_iterable(map(np.ndarray.tolist, rows))
    return np.fromiter(map(math.erfc, numbers), np.float64, x.size).reshape(x.shape)

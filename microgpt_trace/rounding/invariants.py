"""The tolerances of the checks of a trace: the largest difference between two ways to compute a number.

This module has few imports, so that it loads quickly.
"""

from __future__ import annotations

import numpy as np

# Allowed error of a sum, as a share of the sum of its absolute terms
OF_SUMS = {"float32": 1e-5, "float64": 1e-12}
OF_NORMS = 1e-3  # allowed error of the RMS of a normalised row, relative to the expected RMS
OF_SHAPES = 1e-4  # allowed error of a row of the last residual stream, if computed with other matrix shapes
OF_SLOPES = 1e-6  # allowed error of central differences, relative to the largest gradient of the tensor


def sum_bound(magnitude: float, dtype: str) -> float:
    """Return the largest difference that rounding can cause between two ways to compute a sum. `magnitude` is
    the sum of the absolute terms."""
    return OF_SUMS[dtype] * magnitude + float(np.finfo(dtype).tiny)

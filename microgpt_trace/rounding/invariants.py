"""The tolerances of the checks of a trace: the largest difference between two ways to compute a number.

This module has few imports, so that it loads quickly.
"""

from __future__ import annotations

import numpy as np

# Sums in the checks of a trace, `explain`, `attribute` and `patch`, relative to the sum of the absolute terms
OF_SUMS = {"float32": 1e-5, "float64": 1e-12}
OF_NORMS = 1e-3  # the RMS of a normed row, relative to the expected RMS
OF_SHAPES = 1e-4  # a row of the last residual stream, if matrices of other shapes compute it
OF_SLOPES = 1e-6  # central differences in float64, relative to the largest gradient of the tensor


def sum_bound(magnitude: float, dtype: str) -> float:
    """Return the largest difference that rounding can cause between two ways to compute a sum. `magnitude` is
    the sum of the absolute values of its terms."""
    return OF_SUMS[dtype] * magnitude + float(np.finfo(dtype).tiny)

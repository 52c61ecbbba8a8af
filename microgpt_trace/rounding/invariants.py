"""How far two ways to compute one number may lie apart: what the checks of a trace allow. Loads quickly."""

from __future__ import annotations

import numpy as np

# The largest difference between two ways to compute one number, in shares of what is added up for it: for
# the checks of a trace, `explain`, and the sums of `attribute` and `patch`.
OF_SUMS = {"float32": 1e-5, "float64": 1e-12}
OF_NORMS = 1e-3  # of a row's RMS, which may lie so far from what the norm gives
OF_SHAPES = 1e-4  # of a row of the last stream, where the products of a pass have other shapes
OF_SLOPES = 1e-6  # of a tensor's largest gradient, which central differences in float64 may miss it by


def sum_bound(magnitude: float, dtype: str) -> float:
    """How far two ways to compute a number may lie apart, of which `magnitude` is added up."""
    return OF_SUMS[dtype] * magnitude + float(np.finfo(dtype).tiny)

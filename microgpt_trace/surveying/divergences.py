"""How far apart two distributions are of which sums or counts are known. Knows no event and no survey."""

from __future__ import annotations

import math

import numpy as np

from ..arrays.stats import NOT_FINITE, Array

FLAT = 1e-9  # a variance below this share of the mean square is what rounding leaves of sums in float64


@NOT_FINITE
def relative_distance(a: Array, b: Array, scale: Array) -> float:
    """||b - a|| / ||scale||, over channels: [C] each. 0 where nothing differs, be the scale 0 or not."""
    differs, size = float(np.linalg.norm(b - a)), float(np.linalg.norm(scale))
    if not differs:
        return 0.0
    return differs / size if size else math.inf


@NOT_FINITE
def normal_divergence(mean_a: Array, variance_a: Array, mean_b: Array, variance_b: Array) -> Array:
    """KL(N_a || N_b) in nats of the normal distributions with these means and variances: [C] each, [C].

    log(s_b / s_a) + (s_a^2 + (m_a - m_b)^2) / 2 s_b^2 - 1/2; variances must be above 0.
    """
    ratio = variance_a / variance_b
    return 0.5 * (ratio - 1 - np.log(ratio) + np.square(mean_a - mean_b) / variance_b)


def varies(variance: Array, mean_square: Array) -> Array:
    """Where a variance is more than rounding."""
    return np.asarray(variance > FLAT * mean_square)


@NOT_FINITE
def jensen_shannon(a: Array, b: Array) -> float | None:
    """The Jensen-Shannon divergence of two histograms of the same bins, in nats: 0 where they are alike, ln 2
    where they share no bin; None where one is empty. Unlike KL it is finite whatever bins are empty.

    Lin, "Divergence measures based on the Shannon entropy" (1991).
    """
    if not (a.any() and b.any()):
        return None
    p, q = a / a.sum(), b / b.sum()
    middle = (p + q) / 2
    terms = [own[own > 0] * np.log((own / middle)[own > 0]) for own in (p, q)]
    return min(max(0.0, math.fsum(np.concatenate(terms).tolist()) / 2), math.log(2))

"""The hand-written gradients against differences of the loss in float64.

Central differences err by O(h^2) from the third derivative and O(eps/h) from rounding; h = 1e-5
leaves about 1e-9. A ReLU that switches within h spoils an element: such elements are counted, not
judged, when the two one-sided differences disagree as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .batch import Batch, Packer
from .checks import Check
from .microgpt import backward, forward
from .model import Model
from .parameters import Parameters
from .stats import Array

STEP = 1e-5
TOLERANCE = 1e-6  # of the parameter's largest gradient
DIRECTION_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class GradientCheck:
    """One parameter: the worst element, and whether all elements agree."""

    name: str
    count: int
    max_abs: float  # of the analytic gradient
    worst_index: tuple[int, ...]
    analytic: float
    numeric: float
    relative_error: float  # |analytic - numeric| / largest gradient of the parameter
    kinks: int  # elements not judged because a ReLU switches within the step
    holds: bool


def gradcheck(model: Model, text: str = "emma") -> Iterator[GradientCheck]:
    """Check every element of every parameter's gradient of the text's loss, parameter by parameter."""
    from .tracing import prepare

    inputs = prepare(model, text)
    params = model.params.copy(np.float64)
    ids = np.array([*inputs.tokens, inputs.targets[-1]])
    batch = Packer(params.config, np.float64).one(ids)
    grads = Parameters(params.config, np.zeros_like(params.flat))
    with np.errstate(all="ignore"):
        done = forward(params, batch)
        backward(params, done, grads)
        for name in params:
            yield _check_parameter(name, params, grads[name], batch, float(done.loss))


def _check_parameter(
    name: str, params: Parameters, analytic: Array, batch: Batch, middle: float
) -> GradientCheck:
    flat = params[name].reshape(-1)
    above, below = np.empty(flat.size), np.empty(flat.size)
    for i, value in enumerate(flat.tolist()):
        flat[i] = value + STEP
        above[i] = forward(params, batch).loss
        flat[i] = value - STEP
        below[i] = forward(params, batch).loss
        flat[i] = value
    numeric = (above - below) / (2 * STEP)
    expected = analytic.reshape(-1)
    scale = max(float(np.abs(expected).max()), 1e-8)
    error = np.abs(expected - numeric) / scale
    # A kink bends the loss by far more than its curvature can within one step.
    kink = np.abs(above + below - 2 * middle) / STEP > 1e-3 * scale
    judged = np.where(kink & (error > TOLERANCE), 0.0, error)
    worst = int(np.nan_to_num(judged, nan=np.inf).argmax())
    return GradientCheck(
        name, flat.size, float(np.abs(expected).max()),
        tuple(int(i) for i in np.unravel_index(worst, analytic.shape)),
        float(expected[worst]), float(numeric[worst]), float(judged[worst]),
        int(np.count_nonzero(kink & (error > TOLERANCE))), bool((judged <= TOLERANCE).all()),
    )  # fmt: skip


def directional_check(params: Parameters, grads: Parameters, batch: Batch, replaced: bool) -> Check:
    """The traced gradient against one central difference along itself: two passes in float64."""
    claim = "the gradient agrees with a finite difference"
    norm = float(np.linalg.norm(grads.flat.astype(np.float64)))
    reason = "values were replaced" if replaced else "" if np.isfinite(norm) else "the gradient is not finite"
    if reason or norm == 0:
        return Check("gradient", claim, None, None, DIRECTION_TOLERANCE, reason or "the gradient is zero")
    direction = grads.flat.astype(np.float64) / norm
    wide = Packer(params.config, np.float64).one(np.append(batch.tokens, batch.targets[-1].argmax()))
    losses = [
        float(forward(Parameters(params.config, params.flat + sign * STEP * direction), wide).loss)
        for sign in (1, -1)
    ]
    slope = (losses[0] - losses[1]) / (2 * STEP)
    deviation = abs(slope - norm) / norm
    detail = f"{norm:.6g} against {slope:.6g}"
    return Check("gradient", claim, deviation <= DIRECTION_TOLERANCE, deviation, DIRECTION_TOLERANCE, detail)

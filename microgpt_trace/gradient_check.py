"""The hand-written gradients against differences of the loss in float64.

Central differences err by O(h^2) from the third derivative and O(eps/h) from rounding; h = 1e-5
leaves about 1e-9. A ReLU that switches within h spoils an element: it is counted and not judged,
provided that the difference towards the side without the kink agrees.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from .batch import Batch, Packer
from .checks import Check
from .microgpt import Pass, backward, forward
from .model import Model
from .parameters import Parameters
from .stats import Array

STEP = 1e-5
TOLERANCE = 1e-6  # of the parameter's largest gradient
KINK = 1e-3  # one-sided slopes that differ by this share of the largest gradient: a kink lies between
AGREEMENT = 1e-3  # of the norm of a parameter's gradient in float32


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
    numeric, expected = (above - below) / (2 * STEP), analytic.reshape(-1)
    scale = max(float(np.abs(expected).max()), float(np.abs(numeric).max()), 1e-8)
    error = np.abs(expected - numeric) / scale
    # Past a kink one side of the difference has another slope; the other side has the right one.
    sides = np.stack([(above - middle) / STEP, (middle - below) / STEP]) / scale
    one_side_agrees = np.abs(sides - expected / scale).min(axis=0) < KINK / 10
    kink = (error > TOLERANCE) & (np.abs(sides[0] - sides[1]) > KINK) & one_side_agrees
    judged = np.where(kink, 0.0, error)
    worst = int(np.nan_to_num(judged, nan=np.inf).argmax())
    return GradientCheck(
        name, flat.size, float(np.abs(expected).max()),
        tuple(int(i) for i in np.unravel_index(worst, analytic.shape)),
        float(expected[worst]), float(numeric[worst]), float(judged[worst]),
        int(np.count_nonzero(kink)), bool((judged <= TOLERANCE).all()),
    )  # fmt: skip


def gradient_agreement(done: Pass, params: Parameters, grads: Parameters, replaced: bool) -> Check:
    """The traced gradient of every parameter against a difference of the loss along that gradient.

    The differences are taken in float64 with three steps, of which the best counts: a ReLU that
    switches within a step spoils the longer ones.
    """
    claim = "gradients agree with finite differences"
    wide = params.copy(np.float64)
    wanted = done.batch.targets.argmax(axis=1)
    batch = Packer(params.config, np.float64).one(np.append(done.batch.tokens, wanted[-1]))
    reason = ""
    if replaced:
        reason = "values were replaced"
    elif not np.isfinite(grads.flat).all():
        reason = "a gradient is not finite"
    elif not _same_side_of_kinks(done, forward(wide, batch)):
        reason = "a ReLU is at its kink, on another side in float64"
    if reason:
        return Check("gradient", claim, None, None, AGREEMENT, reason)
    least = 1e-6 * float(np.linalg.norm(grads.flat))
    worst, detail = 0.0, "the gradient is zero"
    for name, grad in grads.items():
        norm = float(np.linalg.norm(grad.astype(np.float64)))
        if norm <= least:
            continue
        slopes = [_slope(wide, name, grad / norm, batch, step) for step in (1e-5, 1e-6, 1e-7)]
        slope = min(slopes, key=lambda found: abs(found - norm))
        if abs(slope - norm) / norm >= worst:
            worst, detail = abs(slope - norm) / norm, f"{name}: {norm:.7g} against {slope:.7g}"
    if least == 0:
        return Check("gradient", claim, None, None, AGREEMENT, detail)
    return Check("gradient", claim, worst <= AGREEMENT, worst, AGREEMENT, detail)


def _same_side_of_kinks(narrow: Pass, wide: Pass) -> bool:
    return all(np.array_equal(a > 0, b > 0) for a, b in zip(narrow.relus, wide.relus, strict=True))


def _slope(params: Parameters, name: str, direction: Array, batch: Batch, step: float) -> float:
    """The central difference of the loss along a direction of one parameter."""
    values, start = params[name], params[name].copy()
    losses = []
    for length in (step, -step):
        values[...] = start + length * direction
        losses.append(float(forward(params, batch).loss))
    values[...] = start
    return (losses[0] - losses[1]) / (2 * step)

"""Compare gradients with central differences of the loss.

A difference over a step h has an error of O(h^2) from the third derivative and of O(eps/h) from rounding. The
third derivative of the loss is unknown. The error of a difference is estimated from the slopes over a step
and over a tenth of the step. An element is counted but not judged if a ReLU switches within the step, or if
the slopes over several steps disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from ..arrays.stats import Array
from ..interpreter.backward import ForwardPass
from ..notebook import in_notebook
from ..rounding.invariants import OF_SLOPES
from ..text.frozen import frozen

STEP, STEPS = 1e-5, (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
MANY = 32  # number of wrong elements after which further slopes of a tensor are not refined

At = Callable[[int, float], ForwardPass]  # runs the pass after move number i over a step


@frozen
class GradientCheck:
    """The gradient check of one parameter or activation: the worst element, and whether all elements agree.
    `hooked` is the gradient's error along a random direction, while hooks replace every value by an equal
    value with another slope. `hooked` is None if the error with hooks was not measured or not judged.

    For a production model, the elements are random directions, errors are relative to the gradient's L2 norm,
    `kind` is the kind of the event or of the parameter's first reader, and `float32_error` is the error of
    the gradient in float32."""

    name: str
    count: int
    max_abs: float  # the largest magnitude in the analytic gradient
    worst_index: tuple[int, ...]
    analytic: float
    numeric: float
    relative_error: float  # |analytic - numeric| / largest gradient of the tensor
    kinks: int  # elements that are not judged because a ReLU switches within the step
    holds: bool
    unsettled: int = 0  # elements that are not judged because the slopes of several steps disagree
    hooked: float | None = None
    kind: str = ""
    float32_error: float | None = None
    _repr_html_ = in_notebook


@np.errstate(all="ignore")
def compared(
    name: str, unit: Array, gradients: Sequence[Array], middle: ForwardPass, at: At, least: float,
    first: Array | None = None,
) -> GradientCheck:  # fmt: skip
    """Compare `gradients`, the versions of one gradient, with differences of the loss around the pass
    `middle`. `unit` is the change of each element per unit of the step. Elements whose unit is 0 are not
    judged. Errors are relative to the largest element of the gradient, or to `least` if `least` is larger.
    `first` has the slopes over STEP, if they were computed before."""
    if not np.isfinite(middle.loss):
        nowhere = (0,) * unit.ndim
        return GradientCheck(name, unit.size, math.nan, nowhere, math.nan, math.nan, math.nan, 0, False)
    shape, unit = unit.shape, unit.reshape(-1)
    expected, left_out = np.stack([grad.reshape(-1) for grad in gradients]) * unit, unit == 0
    scale = max(float(np.abs(expected).max()), least)
    numeric, error, wrong = np.zeros(unit.size) if first is None else first, np.zeros(unit.size), 0
    for i in np.flatnonzero(~left_out).tolist():
        if first is None:
            numeric[i] = (at(i, STEP).loss - at(i, -STEP).loss) / (2 * STEP)
        off = float(np.abs(expected[:, i] - numeric[i]).max())
        if not off <= OF_SLOPES * scale and wrong < MANY:
            numeric[i], error[i] = slope_of(partial(at, i), middle, OF_SLOPES * scale / 4)
            off = float(np.abs(expected[:, i] - numeric[i]).max())
            wrong += off > OF_SLOPES * scale + 4 * error[i] or not np.isfinite(scale)
    expected[:, left_out] = 0
    kink = np.isnan(error) & np.isfinite(expected).all(axis=0)
    settled = np.abs(numeric[error <= OF_SLOPES * scale])
    scale = max(scale, float(settled.max(initial=0.0))) or 1.0
    off = np.abs(expected - numeric).max(axis=0) / scale
    unsettled = left_out | (error > OF_SLOPES * scale) & (off <= OF_SLOPES + 4 * error / scale)
    judged = np.where(kink | unsettled, 0.0, np.nan_to_num(off, nan=np.inf))
    worst = int(judged.argmax())
    version = int(np.nan_to_num(np.abs(expected[:, worst] - numeric[worst]), nan=np.inf).argmax())
    return GradientCheck(
        name, numeric.size, float(np.abs(expected).max()),
        tuple(int(i) for i in np.unravel_index(worst, shape)),
        float(expected[version, worst]), float(numeric[worst]), float(judged[worst]),
        int(np.count_nonzero(kink)), bool((judged <= OF_SLOPES).all()), int(np.count_nonzero(unsettled)),
    )  # fmt: skip


def slope_of(at: Callable[[float], ForwardPass], middle: ForwardPass, enough: float) -> tuple[float, float]:
    """Return the slope of the loss at t = 0, and an estimate of its error. `at(t)` runs the pass at t, and
    `middle` is the pass at t = 0. The result is from the step with the smallest error, or from the first step
    whose error is at most `enough`. Steps that switch a ReLU are skipped, because the loss has two slopes at
    the kink. If fewer than two finite steps remain, slope and error are NaN."""
    best, last = (math.nan, math.nan), math.nan
    for step in STEPS:
        above, below = at(step), at(-step)
        value = float(above.loss - below.loss) / (2 * step)
        if not (np.isfinite(value) and same_relus(above, middle) and same_relus(below, middle)):
            continue
        error = abs(value - last) + rounding_of(middle, step)
        if not best[1] <= error:
            best = value, error
        if best[1] <= enough:
            break
        last = value
    return best


def least_judged(middle: ForwardPass) -> float:
    """Return the smallest gradient that rounding errors do not hide."""
    return 4 * rounding_of(middle, STEP) / OF_SLOPES


def rounding_of(middle: ForwardPass, step: float) -> float:
    """Return the error that rounding alone causes in a slope over a step."""
    return float(np.finfo(np.float64).eps) * max(1.0, float(np.abs(middle.logits).max())) / step


def same_relus(a: ForwardPass, b: ForwardPass) -> bool:
    """Return True if each ReLU passes its input either in both passes or in neither pass."""
    return all(np.array_equal(x > 0, y > 0) for x, y in zip(a.relus, b.relus, strict=True))

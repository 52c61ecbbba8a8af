"""The hand-written gradients against differences of the loss in float64.

Central differences err by O(h^2) from the third derivative and O(eps/h) from rounding; h = 1e-5
leaves about 1e-9. A ReLU that switches within h spoils an element, which is counted and not judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from .batch import Batch, Packer
from .brief import one_line
from .checks import Check
from .events import SILENT, Tap
from .microgpt import Pass, backward, forward
from .microgpt_tracing import prepare
from .model import Model, check_microgpt
from .parameters import Parameters
from .stats import Array

STEP = 1e-5
TOLERANCE = 1e-6  # of the parameter's largest gradient
AGREEMENT = 1e-3  # of a parameter's slope, for gradients in float32
NEXT_TO_NOTHING = 1e-6  # of the norm of the whole gradient: less is rounding


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

    __repr__ = one_line


def gradcheck(model: Model, text: str = "emma") -> Iterator[GradientCheck]:
    """Check every element of every parameter's gradient of the text's loss, parameter by parameter."""
    check_microgpt(model, "gradcheck")
    inputs = prepare(model, text)
    params = model.params.copy(np.float64)
    ids = np.array([*inputs.tokens, inputs.targets[-1]])
    batch = Packer(params.config, np.float64).one(ids)
    grads = Parameters(params.config, np.zeros_like(params.flat))
    return _checks(params, grads, batch)


def _checks(params: Parameters, grads: Parameters, batch: Batch) -> Iterator[GradientCheck]:
    with np.errstate(all="ignore"):
        done = forward(params, batch)
        backward(params, done, grads)
    for name in params:
        with np.errstate(all="ignore"):
            row = _check_parameter(name, params, grads[name], batch, done)
        yield row


def _check_parameter(
    name: str, params: Parameters, analytic: Array, batch: Batch, middle: Pass
) -> GradientCheck:
    flat = params[name].reshape(-1)
    numeric, switched = np.empty(flat.size), np.zeros(flat.size, dtype=bool)
    for i, value in enumerate(flat.tolist()):
        flat[i] = value + STEP
        above = forward(params, batch)
        flat[i] = value - STEP
        below = forward(params, batch)
        flat[i] = value
        numeric[i] = (above.loss - below.loss) / (2 * STEP)
        switched[i] = not (_same_relus(above, middle) and _same_relus(below, middle))
    expected = analytic.reshape(-1)
    # What rounding alone makes of the difference of two losses.
    noise = np.finfo(np.float64).eps * max(1.0, float(np.abs(middle.logits).max())) / STEP
    scale = max(float(np.abs(expected).max()), float(np.abs(numeric).max()), 4 * noise / TOLERANCE)
    error = np.abs(expected - numeric) / scale
    kink = switched & (error > TOLERANCE)
    judged = np.where(kink, 0.0, error)
    worst = int(np.nan_to_num(judged, nan=np.inf).argmax())
    return GradientCheck(
        name, flat.size, float(np.abs(expected).max()),
        tuple(int(i) for i in np.unravel_index(worst, analytic.shape)),
        float(expected[worst]), float(numeric[worst]), float(judged[worst]),
        int(np.count_nonzero(kink)), bool((judged <= TOLERANCE).all()),
    )  # fmt: skip


def _same_relus(a: Pass, b: Pass) -> bool:
    """Whether the same ReLUs let their input through."""
    return all(np.array_equal(x > 0, y > 0) for x, y in zip(a.relus, b.relus, strict=True))


def gradient_agreement(
    done: Pass, params: Parameters, grads: Parameters, replaced: bool, tap: Callable[[], Tap] = lambda: SILENT
) -> Check:
    """The traced gradient of every parameter against a difference of the loss along that gradient, or
    along a fixed random direction where the gradient is next to nothing.

    The differences are taken in float64, with the longest of three steps within which no ReLU
    switches; a parameter for which there is none is not judged. `tap` gives what each pass runs under;
    where hooks have `replaced` values that it does not, nothing is judged.
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
    elif not _same_relus(done, middle := forward(wide, batch, tap())):
        reason = "a ReLU is at its kink, on another side in float64"
    if reason:
        return Check("gradient", claim, None, None, AGREEMENT, reason)
    whole = float(np.linalg.norm(grads.flat.astype(np.float64)))
    rounding = float(np.finfo(grads.dtype).eps) * max(1.0, float(np.abs(done.logits).max()))
    least, floor = NEXT_TO_NOTHING * whole, max(1e-4 * whole, rounding / AGREEMENT)
    rng = np.random.default_rng(0)
    worst, detail = -1.0, "a ReLU is at its kink for every parameter"
    for name, grad in grads.items():
        exact = grad.astype(np.float64)
        norm = float(np.linalg.norm(exact))
        along = exact / norm if norm > least else rng.standard_normal(grad.shape) / math.sqrt(grad.size)
        slope = _slope(wide, name, along, batch, middle, tap)
        if slope is None:
            continue
        expected = float((exact * along).sum())
        deviation = abs(slope - expected) / max(abs(slope), abs(expected), floor)
        if deviation > worst:
            worst, detail = deviation, f"{name}: {expected:.7g} against {slope:.7g}"
    if worst < 0:
        return Check("gradient", claim, None, None, AGREEMENT, detail)
    return Check("gradient", claim, worst <= AGREEMENT, worst, AGREEMENT, detail)


def _slope(
    params: Parameters, name: str, along: Array, batch: Batch, middle: Pass, tap: Callable[[], Tap]
) -> float | None:
    """The central difference of the loss along a direction of one parameter, if a step short enough
    to switch no ReLU is found."""
    values, start = params[name], params[name].copy()
    slope = None
    for step in (1e-5, 1e-6, 1e-7):
        values[...] = start + step * along
        above = forward(params, batch, tap())
        values[...] = start - step * along
        below = forward(params, batch, tap())
        values[...] = start
        if _same_relus(above, middle) and _same_relus(below, middle):
            slope = float(above.loss - below.loss) / (2 * step)
            break
    return slope

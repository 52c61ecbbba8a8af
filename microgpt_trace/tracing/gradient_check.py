"""Check the gradients of a microGPT against central differences of the loss, in float64.

`every_gradient` checks every element of every gradient: the gradients of parameters in three runs (in
training, in a trace with hooks, and while hooks replace values), and the gradients of activations in a trace.
`gradient_agreement` is the self-check of a traced gradient.

A difference over a step h has an error of O(h^2) from the third derivative and of O(eps/h) from rounding. The
third derivative of the loss is unknown. The error of a difference is estimated from the slopes over a step
and over a tenth of the step. An element is counted but not judged if a ReLU switches within the step, or if
the slopes over several steps disagree.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Any

import numpy as np

from ..architecture.edits import Edit, editing
from ..architecture.model import TraceInput
from ..arrays.stats import Array
from ..hooks.bus import SILENT, HookBus, Tap
from ..hooks.event import Replacement, TraceEvent
from ..microgpt.batch import Batch, Packer
from ..microgpt.forward_backward import Pass, backward, event_specs, forward
from ..microgpt.model import Model
from ..microgpt.parameters import Parameters
from ..notebook import in_notebook
from ..rounding.invariants import OF_SLOPES
from ..text.frozen import frozen
from .collector import Collector
from .findings import Check, gradient_check

STEP, STEPS = 1e-5, (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)
MANY = 32  # number of wrong elements after which further slopes of a tensor are not refined
LEAST = 1e-5  # deviation that is always allowed, relative to a parameter's largest gradient
PASSES, TRIES = 2, 8  # number of passes with noise; number of attempts, because some attempts switch a ReLU
MARGIN = 16  # allowed multiple of the deviation with noise (at most 3.4 in 11,000 correct gradients)

Taps = tuple[Tap, Tap]  # the taps of a forward pass and of its backward pass
Noise = Callable[[tuple[int, ...]], Array]
Measured = Any  # a Pass, or another object with `loss`, `logits` and `relus`
Moved = Callable[[Array], Measured]  # runs the pass with a change added to a value


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


def every_gradient(model: Model, inputs: TraceInput) -> Iterator[GradientCheck]:
    """Check every element of the gradient of the loss, and yield a row per parameter and activation."""
    params = model.params.copy(np.float64)
    batch = Packer(params.config, np.float64).one(np.array([*inputs.tokens, inputs.targets[-1]]))
    with np.errstate(all="ignore"):
        done, trained = _gradients(params, batch)
        traced, shown = _traced(params, batch)
        hooked = list(_hooked(params, batch))
    for name, array in params.items():
        moved = partial(_with_parameter, array, partial(forward, params, batch), 1.0)
        row = compared(name, np.ones_like(array), [trained[name], traced[name]], done, moved)
        checks = [check for check in hooked if check.name == name]
        errors = [check.relative_error for check in checks if not (check.kinks or check.unsettled)]
        holds = row.holds and all(check.holds for check in checks)
        yield replace(row, hooked=max(errors, default=None), holds=holds)
    for name, (value, gradient) in shown.items():
        unit = _unit(name, value, batch.targets)
        yield compared(name, unit, [gradient], done, partial(_with_event, params, batch, name))


def _gradients(params: Parameters, batch: Batch, taps: Taps = (SILENT, SILENT)) -> tuple[Pass, Parameters]:
    grads = Parameters(params.config, np.zeros_like(params.flat))
    done = forward(params, batch, taps[0])
    backward(params, done, grads, taps[1])
    return done, grads


def _traced(params: Parameters, batch: Batch) -> tuple[Parameters, dict[str, tuple[Array, Array]]]:
    """Return the gradients of a pass with hooks on all events, and each activation with its gradient."""
    bus = HookBus(event_specs(params.config))
    collector = Collector(bus.specs)
    run = bus.begin(after=[bus.subscription(collector, phases=("forward", "backward"))])
    _, grads = _gradients(params, batch, (run.tap("forward"), run.tap("backward")))
    arrays = collector.arrays
    names = [name for phase, name in arrays if phase == "forward"]
    return grads, {name: (arrays["forward", name], arrays["backward", name]) for name in names}


def _hooked(params: Parameters, batch: Batch) -> Iterator[GradientCheck]:
    """Check the gradients of the parameters while hooks replace every value by an equal value with another
    slope. The first check does not replace P, so that no other gradient is computed from the gradient of P.
    If d loss / d P is finite, a second check also replaces P."""
    names = [spec.name for spec in event_specs(params.config) if spec.parameter != spec.name]
    yield from _bent(params, batch, [name for name in names if name != "probs"])
    if np.isfinite(1 / forward(params, batch).probs[batch.targets > 0]).all():  # d loss / d P is finite
        yield from _bent(params, batch, names)


def _bent(params: Parameters, batch: Batch, names: Sequence[str]) -> Iterator[GradientCheck]:
    bus = HookBus(event_specs(params.config))
    rng, edits = np.random.default_rng(1), list[Edit]()

    def bend(event: TraceEvent, value: Array) -> Replacement:
        here, slope = value.copy(), rng.uniform(0.5, 1.5, value.shape)
        edits.append(Edit(event.name, lambda other: here + slope * (other - here)))
        return Replacement(here, np.asarray(slope))

    doubling = bus.subscription(lambda event, value: 2 * value, *params, phases="backward")
    run = bus.begin(before=[bus.subscription(bend, *names), doubling])
    done, grads = _gradients(params, batch, (run.tap("forward"), run.tap("backward")))
    grads.flat /= 2
    return _along_directions(params, grads, lambda: forward(params, batch, editing(*edits)), done)


@np.errstate(all="ignore")
def _unit(name: str, value: Array, targets: Array) -> Array:
    """Return the change of each element per unit of the step t. The P of a target changes in proportion to P,
    so that P stays above 0. If the P of a target is almost 0, no probability changes, because the loss would
    become infinite."""
    if name != "probs":
        return np.ones_like(value)
    finite = np.isfinite(1 / value[targets > 0]).all()
    return np.where(targets > 0, value, 1) if finite else np.zeros_like(value)


def _with_parameter(values: Array, run: Callable[[], Pass], along: Array | float, change: Array) -> Pass:
    before = values.copy()
    values += change * along
    done = run()
    values[...] = before
    return done


def _with_event(params: Parameters, batch: Batch, name: str, change: Array) -> Pass:
    return forward(params, batch, editing(Edit(name, lambda value: value + change)))


def gradient_agreement(
    done: Pass, params: Parameters, grads: Parameters, replaced: bool, taps: Callable[[], Taps]
) -> Check:
    """Check that the traced gradient of every parameter is the gradient of the loss, up to rounding.

    If terms cancel, a float32 gradient cannot be compared with differences of the loss. Therefore the
    gradient is also computed in float64. The float64 gradient is checked against differences of the loss
    along a random direction of each parameter. The traced gradient is compared with the float64 gradient
    element by element. `taps` returns the taps of each pass. If `replaced` is True, the gradient is not
    judged, because hooks replaced values that the taps do not replace.
    """
    if replaced:
        return gradient_check("values were replaced", LEAST)
    if not np.isfinite(grads.flat).all():
        return gradient_check("a gradient is not finite", LEAST)
    if not np.isfinite(done.loss):
        return gradient_check("the loss is not finite", LEAST)
    ids = np.append(done.batch.tokens, done.batch.targets[-1].argmax())
    wide = params.copy(np.float64)
    batch = Packer(params.config, np.float64).one(ids)
    middle, exact = _gradients(wide, batch, _moving(taps(), np.zeros))
    if not same_relus(done, middle):
        return gradient_check("a ReLU is at its kink and switches in float64", LEAST)
    checks = list(_against_float64(grads, exact, []))
    if not all(check.holds for check in checks):
        moved = list(islice(_moved(params, done, taps), PASSES))
        if not moved:
            return gradient_check("a ReLU is at its kink and switches if rounding changes", LEAST)
        checks = list(_against_float64(grads, exact, moved))
    for row in _along_directions(wide, exact, lambda: forward(wide, batch, taps()[0]), middle):
        detail = f"{row.name}: {row.analytic:.7g} against {row.numeric:.7g}"
        checks.append(gradient_check(detail, OF_SLOPES, row.relative_error))
    return max(checks, key=lambda check: (check.deviation or 0.0) / check.tolerance)


def _moving(taps: Taps, noise: Noise) -> Taps:
    """Return taps that add noise, possibly 0. The pass computes the same steps as a trace with hooks."""
    return _Moving(taps[0], noise), _Moving(taps[1], noise)


class _Moving:
    """A tap that adds noise to every element, in units of one rounding of the largest element in its row."""

    def __init__(self, tap: Tap, noise: Noise) -> None:
        self._tap, self._noise = tap, noise

    def emit(self, name: str, value: Array) -> Array:
        value = self._tap.emit(name, value)
        if not np.ndim(value):
            return value
        unit = np.abs(value).max(axis=-1, keepdims=True) * (np.finfo(value.dtype).eps / 2)
        return (value + unit * self._noise(value.shape)).astype(value.dtype)

    def wants(self, name: str) -> bool:
        return self._tap.wants(name)

    def layer(self, index: int) -> Tap:
        return _Moving(self._tap.layer(index), self._noise)


def _moved(params: Parameters, done: Pass, taps: Callable[[], Taps]) -> Iterator[Parameters]:
    """Yield the gradients of passes with noise, to estimate the effect of rounding on a gradient."""
    noise = np.random.default_rng(0).standard_normal
    for _ in range(TRIES):
        moved, grads = _gradients(params, done.batch, _moving(taps(), noise))
        if same_relus(moved, done) and np.isfinite(grads.flat).all():
            yield grads


def _against_float64(traced: Parameters, exact: Parameters, moved: list[Parameters]) -> Iterator[Check]:
    """Check, for each parameter, the element with the largest deviation from the float64 gradient."""
    for name, right in exact.items():
        off = np.abs(traced[name] - right)
        spread = max((float(np.abs(grads[name] - right).max()) for grads in moved), default=0.0)
        at = np.unravel_index(off.argmax(), off.shape)
        size = float(np.abs(right).max()) or 1.0
        detail = f"{name}[{','.join(map(str, at))}]: {traced[name][at]:.7g} against {right[at]:.7g}"
        yield gradient_check(detail, max(LEAST, MARGIN * spread / size), float(off[at]) / size)


def _along_directions(
    params: Parameters, grads: Parameters, run: Callable[[], Pass], middle: Pass
) -> Iterator[GradientCheck]:
    """Check the slope of the loss of `run` along a random direction of every parameter."""
    rng = np.random.default_rng(0)
    for name, grad in grads.items():
        along = rng.standard_normal(grad.shape) / math.sqrt(grad.size)
        size = float(np.linalg.norm(grad)) / math.sqrt(grad.size)
        moved = partial(_with_parameter, params[name], run, along)
        yield compared(name, np.ones(1), [(grad * along).sum()], middle, moved, size)


@np.errstate(all="ignore")
def compared(
    name: str, unit: Array, gradients: Sequence[Array], middle: Measured, moved: Moved,
    least: float | None = None,
) -> GradientCheck:  # fmt: skip
    """Compare `gradients`, the versions of one gradient, with differences of the loss around the pass
    `middle`. `unit` is the change of each element per unit of the step t. Elements whose unit is 0 are not
    judged. Errors are relative to the largest element of the gradient, or to `least` if `least` is larger. By
    default, `least` is `least_judged(middle)`."""
    if not np.isfinite(middle.loss):
        nowhere = (0,) * unit.ndim
        return GradientCheck(name, unit.size, math.nan, nowhere, math.nan, math.nan, math.nan, 0, False)
    shape, unit = unit.shape, unit.reshape(-1)
    expected, left_out = np.stack([grad.reshape(-1) for grad in gradients]) * unit, unit == 0
    scale = max(float(np.abs(expected).max()), least_judged(middle) if least is None else least)
    numeric, error, wrong = np.zeros(unit.size), np.zeros(unit.size), 0

    def at(i: int, t: float) -> Measured:
        change = np.zeros(unit.size)
        change[i] = t * unit[i]
        return moved(change.reshape(shape))

    for i in np.flatnonzero(~left_out).tolist():
        numeric[i] = float(at(i, STEP).loss - at(i, -STEP).loss) / (2 * STEP)
        off = float(np.abs(expected[:, i] - numeric[i]).max())
        if not off <= OF_SLOPES * scale and wrong < MANY:
            numeric[i], error[i] = slope_of(partial(at, i), middle, OF_SLOPES * scale / 4)
            off = float(np.abs(expected[:, i] - numeric[i]).max())
            wrong += off > OF_SLOPES * scale + 4 * error[i]
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


def slope_of(at: Callable[[float], Measured], middle: Measured, enough: float) -> tuple[float, float]:
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


def least_judged(middle: Measured) -> float:
    """Return the smallest gradient that rounding errors do not hide."""
    return 4 * rounding_of(middle, STEP) / OF_SLOPES


def rounding_of(middle: Measured, step: float) -> float:
    """Return the error that rounding alone causes in a slope over a step."""
    return float(np.finfo(np.float64).eps) * max(1.0, float(np.abs(middle.logits).max())) / step


def same_relus(a: Measured, b: Measured) -> bool:
    """Return True if each ReLU passes its input either in both passes or in neither pass."""
    return all(np.array_equal(x > 0, y > 0) for x, y in zip(a.relus, b.relus, strict=True))

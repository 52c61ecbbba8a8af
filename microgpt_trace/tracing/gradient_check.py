"""gradcheck: every hand-written gradient against differences of the loss, in float64.

That of the parameters as training works it out and as a trace does, where hooks listen; those of the
activations that a trace shows; and those of the parameters where hooks put other values in place.
An element at which a ReLU switches, or whose differences do not settle, is counted and not judged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ..architecture.edits import Edit, editing
from ..arrays.stats import Array
from ..hooks.bus import SILENT, HookBus, Tap
from ..hooks.event import TraceEvent
from ..hooks.replacements import Replacement
from ..microgpt.batch import Batch, Packer
from ..microgpt.forward_backward import Pass, backward, event_specs, forward
from ..microgpt.model import Model, check_microgpt
from ..microgpt.parameters import Parameters
from ..notebook import in_notebook
from ..rounding.invariants import OF_SLOPES
from ..text.brief import frozen
from .central_differences import Deviation, along_directions, rounding_of, slope_of

STEP = 1e-5

MANY = 32  # elements that are wrong: the others of that tensor need no second look
TELLING = 0.5  # of a slope: where differences may err by more, they say nothing of it
KINK = (math.nan, math.nan)  # no slope


@frozen
class GradientCheck:
    """One parameter or activation: the worst element, and whether all elements agree.

    `hooked` is the error of a parameter's slope along one direction while hooks replace every value by
    one that depends on it with other slopes; None where that was not tried or could not be judged.
    """

    name: str
    count: int
    max_abs: float  # of the analytic gradient
    worst_index: tuple[int, ...]
    analytic: float
    numeric: float
    relative_error: float  # |analytic - numeric| / largest gradient of the tensor
    kinks: int  # elements not judged because a ReLU switches within the step
    holds: bool
    unsettled: int = 0  # elements not judged because differences over several steps do not agree
    hooked: float | None = None
    _repr_html_ = in_notebook


def gradcheck(model: Model, text: str = "emma") -> Iterator[GradientCheck]:
    """Check every element of the gradient of the text's loss: parameter by parameter, then activation by
    activation, both as a trace shows them."""
    check_microgpt(model, "gradcheck")
    inputs = model.read(text)
    params = model.params.copy(np.float64)
    ids = np.array([*inputs.tokens, inputs.targets[-1]])
    return _checks(params, Packer(params.config, np.float64).one(ids))


def _checks(params: Parameters, batch: Batch) -> Iterator[GradientCheck]:
    with np.errstate(all="ignore"):
        done, trained = _gradients(params, batch, SILENT, SILENT)
        traced, shown = _traced(params, batch)
        hooked = sorted(_hooked(params, batch), key=lambda found: found.excess)
    for name, array in params.items():
        with np.errstate(all="ignore"):
            moved = partial(_moving_parameter, params, batch, array.reshape(-1))
            row = _check(name, [trained[name], traced[name]], np.ones_like(array), done, moved)
        for found in hooked:  # the worst comes last
            if found.name == name:
                told = found.relative if found.allowed < TELLING else None
                row = replace(row, hooked=told, holds=row.holds and found.excess <= 1)
        yield row
    for name, (value, gradient) in shown.items():
        with np.errstate(all="ignore"):
            unit = _unit(name, value, batch.targets)
            yield _check(name, [gradient], unit, done, partial(_moving_event, params, batch, name, unit))


def _gradients(params: Parameters, batch: Batch, forth: Tap, back: Tap) -> tuple[Pass, Parameters]:
    """A pass and its gradients."""
    grads = Parameters(params.config, np.zeros_like(params.flat))
    done = forward(params, batch, forth)
    backward(params, done, grads, back)
    return done, grads


def _traced(params: Parameters, batch: Batch) -> tuple[Parameters, dict[str, tuple[Array, Array]]]:
    """The parameters' gradients where hooks listen to everything, and of every activation what they are
    shown: its value and its gradient."""
    bus = HookBus(event_specs(params.config))
    seen: dict[tuple[str, str], Array] = {}

    def look(event: TraceEvent, value: Array) -> None:
        seen[event.phase, event.name] = value.copy()

    run = bus.begin(after=[bus.subscription(look, phases=("forward", "backward"))])
    _, grads = _gradients(params, batch, run.tap("forward"), run.tap("backward"))
    names = [name for phase, name in seen if phase == "forward"]
    return grads, {name: (seen["forward", name], seen["backward", name]) for name in names}


def _hooked(params: Parameters, batch: Batch) -> Iterator[Deviation]:
    """The parameters' slopes where hooks replace every value by one that is the same here, but depends on
    it with other slopes: every gradient passes through them. Once without P: the logits have a way past it.
    """
    names = [spec.name for spec in event_specs(params.config) if spec.parameter != spec.name]
    yield from _bent(params, batch, [name for name in names if name != "probs"])
    if np.isfinite(1 / forward(params, batch).probs[batch.targets > 0]).all():  # and so is d loss / d P
        yield from _bent(params, batch, names)


def _bent(params: Parameters, batch: Batch, names: Sequence[str]) -> Iterator[Deviation]:
    bus = HookBus(event_specs(params.config))
    rng, edits = np.random.default_rng(1), list[Edit]()

    def bend(event: TraceEvent, value: Array) -> Replacement:
        here, slope = value.copy(), rng.uniform(0.5, 1.5, value.shape)
        edits.append(Edit(event.name, lambda other: here + slope * (other - here)))
        return Replacement(here, np.asarray(slope))

    def double(event: TraceEvent, value: Array) -> Array:
        return 2 * value

    bending = bus.subscription(bend, *names)
    run = bus.begin(before=[bending, bus.subscription(double, *params, phases="backward")])
    done, grads = _gradients(params, batch, run.tap("forward"), run.tap("backward"))
    grads.flat /= 2
    return along_directions(params, grads, lambda: forward(params, batch, editing(*edits)), done)


def _unit(name: str, value: Array, targets: Array) -> Array:
    """By what elements are moved: a target's P, which is above 0, by a part of itself, and where that of
    one is next to 0 none is, as the loss that is worked out from them would be infinite."""
    if name != "probs":
        return np.ones_like(value)
    finite = np.isfinite(1 / value[targets > 0]).all()
    return np.where(targets > 0, value, 1) if finite else np.zeros_like(value)


def _moving_parameter(params: Parameters, batch: Batch, flat: Array, i: int, t: float) -> Pass:
    """A pass with element i of a parameter moved by t."""
    before = flat[i]
    flat[i] = before + t
    done = forward(params, batch)
    flat[i] = before
    return done


def _moving_event(params: Parameters, batch: Batch, name: str, unit: Array, i: int, t: float) -> Pass:
    """A pass with element i of an activation moved by t times its unit."""

    def change(value: Array) -> Array:
        moved = np.array(value)
        moved.reshape(-1)[i] += t * unit.reshape(-1)[i]
        return moved

    return forward(params, batch, editing(Edit(name, change)))


def _check(
    name: str, gradients: Sequence[Array], unit: Array, middle: Pass, moved: Callable[[int, float], Pass]
) -> GradientCheck:
    """Hold a gradient, in as many versions as there are ways to work it out, against differences of the
    loss: `moved(i, t)` is the pass with element i moved by t times its unit."""
    if not np.isfinite(middle.loss):
        return GradientCheck(
            name, unit.size, math.nan, (0,) * unit.ndim, math.nan, math.nan, math.nan, 0, False
        )
    shape, unit = unit.shape, unit.reshape(-1)
    expected = np.stack([gradient.reshape(-1) for gradient in gradients]) * unit
    scale = max(float(np.abs(expected).max()), 4 * rounding_of(middle, STEP) / OF_SLOPES)
    numeric, error = np.zeros(unit.size), np.zeros(unit.size)
    left_out, wrong = unit == 0, 0
    for i in np.flatnonzero(~left_out).tolist():
        numeric[i] = float(moved(i, STEP).loss - moved(i, -STEP).loss) / (2 * STEP)
        off = float(np.abs(expected[:, i] - numeric[i]).max())
        if not off <= OF_SLOPES * scale and wrong < MANY:
            numeric[i], error[i] = slope_of(partial(moved, i), middle, OF_SLOPES * scale / 4) or KINK
            off = float(np.abs(expected[:, i] - numeric[i]).max())
            wrong += off > OF_SLOPES * scale + 4 * error[i]
    expected[:, left_out] = 0
    return _judged(name, shape, expected, numeric, error, left_out, scale)


def _judged(
    name: str, shape: tuple[int, ...], expected: Array, numeric: Array, error: Array, left_out: Array,
    scale: float,
) -> GradientCheck:  # fmt: skip
    """The verdict on gradients [ways, n] and differences [n] with their errors, NaN at a kink."""
    kink = np.isnan(error) & np.isfinite(expected).all(axis=0)
    settled = np.abs(numeric[error <= OF_SLOPES * scale])
    scale = max(scale, float(settled.max(initial=0.0)))
    off = np.abs(expected - numeric).max(axis=0) / scale
    unsettled = left_out | (error > OF_SLOPES * scale) & (off <= OF_SLOPES + 4 * error / scale)
    judged = np.where(kink | unsettled, 0.0, np.nan_to_num(off, nan=np.inf))
    worst = int(judged.argmax())
    way = int(np.nan_to_num(np.abs(expected[:, worst] - numeric[worst]), nan=np.inf).argmax())
    return GradientCheck(
        name, numeric.size, float(np.abs(expected).max()),
        tuple(int(i) for i in np.unravel_index(worst, shape)),
        float(expected[way, worst]), float(numeric[worst]), float(judged[worst]),
        int(np.count_nonzero(kink)), bool((judged <= OF_SLOPES).all()), int(np.count_nonzero(unsettled)),
    )  # fmt: skip

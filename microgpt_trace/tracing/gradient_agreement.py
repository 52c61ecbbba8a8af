"""The self-check of a traced gradient: is it the gradient of the loss?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..hooks.bus import Run, Tap
from ..hooks.edits import Edit, editing
from ..interpreter.backward import ForwardPass, TokenLogit, forward
from ..models.language_model import LanguageModel, TraceInput
from ..rounding.invariants import OF_SLOPES, OF_SUMS
from .central_differences import same_relus
from .findings import Check, agreement_check
from .gradient_check import Hooks, Moves

LEAST = 1e-5  # deviation that is always allowed, relative to a parameter's largest gradient
PASSES, TRIES = 2, 8  # number of passes with noise; number of attempts, because some attempts switch a ReLU
MARGIN = 16  # allowed multiple of the deviation with noise (at most 3.4 in 11,000 correct gradients)
CHANGE = 40  # the change of the scalar in a difference, as a multiple of the rounding error of a logit
LOGITS = 25.0  # if all logits are smaller, the rounding error of a logit of this size is assumed
ALLOWED, BENT = 0.03, 0.1  # error of a difference, besides its asymmetry; largest asymmetry of a difference

Noise = Callable[[tuple[int, ...]], Array]


def agreement_of_parameters(
    model: LanguageModel, inputs: TraceInput, done: ForwardPass, gradients: Mapping[str, Array],
    replaced: bool, hooks: Hooks = lambda bus: (),
) -> Check:  # fmt: skip
    """Check that the traced gradient of every parameter is the gradient of the loss, up to rounding.

    If terms cancel, a float32 gradient cannot be compared with differences of the loss. Therefore the
    gradient is also computed in float64. The float64 gradient is checked against differences of the loss
    along a random direction of each parameter. The traced gradient is compared with the float64 gradient
    element by element. `hooks` returns the hooks of each pass. If `replaced` is True, the gradient is not
    judged, because other hooks replaced values.
    """
    if replaced:
        return agreement_check("values were replaced", LEAST)
    if not all(np.isfinite(gradient).all() for gradient in gradients.values()):
        return agreement_check("a gradient is not finite", LEAST)
    if not math.isfinite(done.loss):
        return agreement_check("the loss is not finite", LEAST)
    moves = Moves(model, inputs, [*gradients], 1, hooks)
    middle, exact = moves.whole_gradients()
    if not same_relus(done, middle):
        return agreement_check("a ReLU is at its kink and switches in float64", LEAST)
    checks = list(_against_float64(gradients, exact, []))
    if not all(check.holds for check in checks):
        moved = list(islice(_moved(model, moves, done), PASSES))
        if not moved:
            return agreement_check("a ReLU is at its kink and switches if rounding changes", LEAST)
        checks = list(_against_float64(gradients, exact, moved))
    for row in moves.along_directions(middle, exact):
        detail = f"{row.name}: {row.analytic:.7g} against {row.numeric:.7g}"
        checks.append(agreement_check(detail, OF_SLOPES, row.relative_error))
    return max(checks, key=lambda check: (check.deviation or 0.0) / check.tolerance)


class _Noisy(NamedTuple):
    """A tap that adds noise to every element, in units of one rounding of the largest element in its row."""

    tap: Tap
    noise: Noise

    def emit(self, name: str, value: Array) -> Array:
        value = self.tap.emit(name, value)
        if not np.ndim(value):
            return value
        unit = np.abs(value).max(axis=-1, keepdims=True) * (np.finfo(value.dtype).eps / 2)
        return np.asarray(value + unit * self.noise(value.shape)).astype(value.dtype)

    def wants(self, name: str) -> bool:
        return self.tap.wants(name)


def _moved(model: LanguageModel, moves: Moves, done: ForwardPass) -> Iterator[Mapping[str, Array]]:
    """Yield the gradients of passes with noise, to estimate the effect of rounding on a gradient."""
    around = partial(_Noisy, noise=np.random.default_rng(0).standard_normal)
    for _ in range(TRIES):
        gradients = dict[str, Array]()
        moved = moves.gradients(model, gradients.__setitem__, around)
        if same_relus(moved, done) and all(np.isfinite(own).all() for own in gradients.values()):
            yield gradients


def _against_float64(
    traced: Mapping[str, Array], exact: Mapping[str, Array], moved: Sequence[Mapping[str, Array]]
) -> Iterator[Check]:
    """Check, for each parameter, the element with the largest deviation from the float64 gradient."""
    for name, right in exact.items():
        off = np.abs(traced[name] - right)
        spread = max((float(np.abs(gradients[name] - right).max()) for gradients in moved), default=0.0)
        at = np.unravel_index(off.argmax(), off.shape)
        size = float(np.abs(right).max()) or 1.0
        detail = f"{name}[{','.join(map(str, at))}]: {traced[name][at]:.7g} against {right[at]:.7g}"
        yield agreement_check(detail, max(LEAST, MARGIN * spread / size), float(off[at]) / size)


def agreement_of_an_event(
    model: LanguageModel, inputs: TraceInput, logits: Sequence[TokenLogit], rows: Sequence[int],
    gradient: Array, run: Run,
) -> Check:  # fmt: skip
    """Check the gradient of the first event against a central difference of the scalar, along the direction
    of the gradient. The step changes the scalar by much more than rounding does. If the scalar changes
    differently in the two directions, so that the step is too large, the gradient is not judged."""
    name, size = next(iter(model.plan)), float(np.linalg.norm(gradient.astype(np.float64)))
    if run.replaced or run.altered:
        return agreement_check("hooks replaced values or gradients", ALLOWED)
    if not 0 < size < math.inf:
        return agreement_check(f"the gradient of {name} is {'0' if size == 0 else 'not finite'}", ALLOWED)
    targets = [inputs.targets[row] for row in rows]

    def run_at(step: float) -> tuple[float, float]:
        edit = Edit(name, lambda value: value + (step / size * gradient).astype(value.dtype))
        done = forward(model, np.array(inputs.tokens), targets, editing(edit), rows=rows)
        value = sum(of.factor * float(done.logits[of.row, of.token]) for of in logits)
        return value if logits else done.loss, float(np.abs(done.logits).max())

    middle, largest = run_at(0.0)
    change = CHANGE * OF_SUMS[model.dtype] * max(LOGITS, largest)
    above, below = (run_at(sign * change / size)[0] for sign in (1, -1))
    slope, bend = (above - below) / (2 * change), abs(above + below - 2 * middle) / (2 * change)
    if not bend <= BENT:
        return agreement_check(
            f"the {run.scalar} is not linear within the smallest step that rounding allows", ALLOWED
        )
    detail = f"{name}: {size:.6g} against {slope * size:.6g}, along the direction of the gradient"
    return agreement_check(detail, ALLOWED + bend, abs(slope - 1))

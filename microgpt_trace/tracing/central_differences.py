"""Central differences of a microGPT's loss, in float64, and how far one may be off.

A difference over a step h errs by O(h^2) from the third derivative and by O(eps/h) from rounding. Nobody
knows the third derivative, but what one step gives and what a tenth of it gives differ by both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from ..microgpt.forward_backward import Pass
from ..microgpt.parameters import Parameters
from ..rounding.invariants import OF_SLOPES

STEPS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8)


class Slope(NamedTuple):
    """d loss / d t at t = 0, and how far it may be off."""

    value: float
    error: float


def slope_of(at: Callable[[float], Pass], middle: Pass, enough: float = 0.0) -> Slope | None:
    """The slope of the loss of `at(t)` around `middle`, the pass at t = 0: that of the step that errs the
    least, or of the first that errs by no more than `enough`.

    None where fewer than two steps switch no ReLU and give a number: at a kink there are two slopes.
    """
    best: Slope | None = None
    last: float | None = None
    for step in STEPS:
        above, below = at(step), at(-step)
        value = float(above.loss - below.loss) / (2 * step)
        if not (np.isfinite(value) and same_relus(above, middle) and same_relus(below, middle)):
            continue
        if last is not None:
            found = Slope(value, abs(value - last) + rounding_of(middle, step))
            best = found if best is None or found.error < best.error else best
            if best.error <= enough:
                break
        last = value
    return best


def rounding_of(middle: Pass, step: float) -> float:
    """What rounding alone makes of the difference of two losses over a step."""
    return float(np.finfo(np.float64).eps) * max(1.0, float(np.abs(middle.logits).max())) / step


def same_relus(a: Pass, b: Pass) -> bool:
    """Whether the same ReLUs let their input through."""
    return all(np.array_equal(x > 0, y > 0) for x, y in zip(a.relus, b.relus, strict=True))


class Deviation(NamedTuple):
    """How far two numbers lie apart that should be one, relative to their size, and how far they may."""

    name: str
    relative: float
    allowed: float
    detail: str

    @property
    def excess(self) -> float:
        """The distance in units of what is allowed; a NaN is beyond everything."""
        excess = self.relative / self.allowed
        return math.inf if math.isnan(excess) else excess


def along_directions(
    params: Parameters, grads: Parameters, run: Callable[[], Pass], middle: Pass
) -> Iterator[Deviation]:
    """Of every parameter the slope of the loss along a random direction, by its gradient and by differences
    of the losses of `run`; nothing of one for which a ReLU is at its kink."""
    rng = np.random.default_rng(0)
    for name, grad in grads.items():
        along = rng.standard_normal(grad.shape) / math.sqrt(grad.size)
        values, start = params[name], params[name].copy()
        expected = float((grad * along).sum())
        size = max(abs(expected), float(np.linalg.norm(grad)) / math.sqrt(grad.size))

        def at(t: float) -> Pass:
            values[...] = start + t * along  # noqa: B023
            return run()

        slope = slope_of(at, middle, enough=OF_SLOPES * size)
        values[...] = start
        if slope is not None:
            size = max(size, abs(slope.value)) or 1.0
            yield Deviation(
                name, abs(expected - slope.value) / size, OF_SLOPES + 2 * slope.error / size,
                f"{name}: {expected:.7g} against {slope.value:.7g}",
            )  # fmt: skip

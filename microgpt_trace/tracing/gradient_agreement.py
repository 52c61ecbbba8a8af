"""The self-check of a traced gradient: is it right up to rounding?

float32 cannot be held against differences of the loss where it cancels. So the gradient is worked out in
float64 as well, which is held against differences, and the traced one against that, element by element.
How far rounding may move it is measured, by passes in which every value is moved by a rounding more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice

import numpy as np

from ..arrays.stats import Array
from ..hooks.bus import SILENT, Tap
from ..microgpt.batch import Batch, Packer
from ..microgpt.forward_backward import Pass, backward, forward
from ..microgpt.parameters import Parameters
from .central_differences import Deviation, along_directions, same_relus
from .findings import Check

CLAIM = "gradients agree with finite differences"
LEAST = 1e-5  # of a parameter's largest gradient: so much may always be rounding
PASSES, TRIES = 2, 8  # passes that are moved, and how many are tried, as one may switch a ReLU
MARGIN = 16  # how many times as far off as they a right gradient may be; of 11,000 the worst was 3.4

Taps = tuple[Tap, Tap]  # what a forward pass runs under, and its backward pass
Noise = Callable[[tuple[int, ...]], Array]


def gradient_agreement(
    done: Pass, params: Parameters, grads: Parameters, replaced: bool,
    taps: Callable[[], Taps] = lambda: (SILENT, SILENT),
) -> Check:  # fmt: skip
    """Whether the traced gradient of every parameter is that of the loss.

    `taps` gives what each pass runs under; where hooks have `replaced` values that it does not, nothing
    is judged.
    """
    reason = "values were replaced" if replaced else ""
    if not np.isfinite(grads.flat).all():
        reason = reason or "a gradient is not finite"
    if not np.isfinite(done.loss):
        reason = reason or "the loss is not finite"
    if reason:
        return _not_judged(reason)
    ids = np.append(done.batch.tokens, done.batch.targets[-1].argmax())
    wide = params.copy(np.float64)
    batch = Packer(params.config, np.float64).one(ids)
    middle, exact = _pass(wide, batch, taps(), np.zeros)
    if not same_relus(done, middle):
        return _not_judged("a ReLU is at its kink, on another side in float64")
    found = list(_against_float64(grads, exact, []))
    if any(deviation.excess > 1 for deviation in found):
        moved = list(islice(_moved(params, done, taps), PASSES))
        if not moved:
            return _not_judged("a ReLU is at its kink, on another side after other roundings")
        found = list(_against_float64(grads, exact, moved))
    found += along_directions(wide, exact, lambda: forward(wide, batch, taps()[0]), middle)
    worst = max(found, key=lambda deviation: deviation.excess)
    return Check("gradient", CLAIM, worst.excess <= 1, worst.relative, worst.allowed, worst.detail)


def _not_judged(reason: str) -> Check:
    return Check("gradient", CLAIM, None, None, LEAST, reason)


def _pass(params: Parameters, batch: Batch, taps: Taps, noise: Noise) -> tuple[Pass, Parameters]:
    """A pass and its gradients, on the way that a trace takes: nobody listens, but the taps could."""
    grads = Parameters(params.config, np.zeros_like(params.flat))
    done = forward(params, batch, _Moving(taps[0], noise))
    backward(params, done, grads, _Moving(taps[1], noise))
    return done, grads


class _Moving:
    """A tap that moves every element by so many times what one rounding moves the largest of its row."""

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
    """Gradients of passes with other roundings that switch no ReLU."""
    noise = np.random.default_rng(0).standard_normal
    for _ in range(TRIES):
        again, grads = _pass(params, done.batch, taps(), noise)
        if same_relus(again, done) and np.isfinite(grads.flat).all():
            yield grads


def _against_float64(traced: Parameters, exact: Parameters, moved: list[Parameters]) -> Iterator[Deviation]:
    """The element of every parameter that lies farthest from the gradient in float64."""
    for name, right in exact.items():
        off = np.abs(traced[name] - right)
        spread = max((float(np.abs(grads[name] - right).max()) for grads in moved), default=0.0)
        at = np.unravel_index(off.argmax(), off.shape)
        size = float(np.abs(right).max()) or 1.0
        where = f"{name}[{','.join(map(str, at))}]"
        yield Deviation(
            name,             float(off[at]) / size, max(LEAST, MARGIN * spread / size),
            f"{where}: {traced[name][at]:.7g} against {right[at]:.7g}",
        )  # fmt: skip

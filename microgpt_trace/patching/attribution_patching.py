"""Attribution patching: estimate the effects of all points from two forward passes and one backward pass.

The estimate is the sum of (clean value - corrupted value) * d metric / d value over the elements of a point,
with the gradient of the corrupted run (Nanda, "Attribution Patching: Activation Patching At Industrial
Scale", 2023). The estimate is exact only where the metric is linear in the value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, zip_longest

import numpy as np

from ..arrays.logits import LogitDifference
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..hooks.bus import HookBus
from ..hooks.edits import Edit
from ..hooks.event import TraceEvent
from ..interpreter.backward import TokenLogit, backward, forward
from ..models.language_model import LanguageModel, TraceInput
from ..plans.kinds import Linear, Mixture
from ..plans.plan import Plan, kind_of
from ..selection.sites import Part
from .points import WHOLE, PatchPoint, point_of, points_of


class DifferentiableRun:
    """A forward pass over n sequences of the tokens, with logits [n, V] at position `row`. `values` has the
    values [n*T, W] of the events `names`.

    The pass runs under the hooks of `bus`, and then under the edits.
    """

    def __init__(
        self, model: LanguageModel, bus: HookBus, inputs: TraceInput, names: Sequence[str], row: int,
        edits: Sequence[Edit] = (), n: int = 1,
    ) -> None:  # fmt: skip
        self.values: dict[str, Array] = {}
        self._gradients: dict[str, Array] = {}

        def keep(event: TraceEvent, value: Array) -> None:
            (self._gradients if event.phase == "backward" else self.values)[event.name] = value.copy()

        listening = [bus.subscription(partial(_changed, edit), edit.name) for edit in edits]
        listening.append(bus.subscription(keep, *names, phases=("forward", "backward")))
        self._run = bus.begin(after=listening)
        tap, replaced = self._run.tap("forward"), self._run.replaced
        with one_blas_thread(), np.errstate(all="ignore"):
            rows = range(row, n * len(inputs.tokens), len(inputs.tokens))
            self._done = forward(model, np.array(inputs.tokens), [None] * n, tap, replaced, rows, n)
        self.logits = self._done.logits

    def gradients(self, contrast: LogitDifference) -> dict[str, Array]:
        """Return the gradients of the logit differences with respect to the events `names`."""
        signs = ((contrast.target, 1.0), (contrast.against, -1.0))
        of = [TokenLogit(i, token, sign) for i in range(len(self.logits)) for token, sign in signs]
        with one_blas_thread(), np.errstate(all="ignore"):
            backward(self._done, self._run.tap("backward"), of=of)
        return self._gradients


def _changed(edit: Edit, event: TraceEvent, value: Array) -> Array:
    return edit.change(value)


class Estimates:
    """The clean and the corrupted run, and the estimated effect of patching each element of some events.

    The events are those of the points, and `more`. `logits` [2, V] are the logits of both runs at position
    `row`. Call `differentiate` before the other methods.
    """

    def __init__(
        self, model: LanguageModel, pair: tuple[TraceInput, TraceInput], points: Sequence[PatchPoint],
        more: Sequence[str], row: int,
    ) -> None:  # fmt: skip
        names, bus = [*sources(model.plan, points), *more], model.hooks.alone()
        clean, self._corrupt = (DifferentiableRun(model, bus, inputs, names, row) for inputs in pair)
        values = clean.values.items()
        self._plan, self.effects = model.plan, {n: v - self._corrupt.values.pop(n) for n, v in values}
        self.logits = np.concatenate([clean.logits, self._corrupt.logits])

    def differentiate(self, contrast: LogitDifference) -> None:
        """Run the backward pass of the corrupted run from the logit difference."""
        for name, gradient in self._corrupt.gradients(contrast).items():
            self.effects[name] *= gradient

    def of(self, point: PatchPoint) -> float:
        """Return the sum over a point, which is an estimate of the effect of patching the point."""
        name, part = source_of(self._plan, point)
        effects = self.effects[name]
        chosen = effects[np.ix_(*part.indices(effects.shape, range(effects.shape[-2])))]
        return float(chosen.sum(dtype=np.float64))

    def largest(self, name: str, count: int) -> Iterator[tuple[int, int]]:
        """Yield the position and the channel of the elements of an event with the largest estimates."""
        effects = np.abs(self.effects[name]).ravel()
        for flat in np.argsort(-effects, kind="stable")[:count]:
            position, channel = np.unravel_index(flat, self.effects[name].shape)
            yield int(position), int(channel)


def sources(plan: Plan, points: Sequence[PatchPoint]) -> list[str]:
    """Return the events whose elements estimate some points."""
    return list(dict.fromkeys(source_of(plan, point)[0] for point in points))


def source_of(plan: Plan, point: PatchPoint) -> tuple[str, Part]:
    """Return the event and the part whose elements estimate a point. A head reads columns of the context, and
    has the same estimate as these columns, because the head is linear in them."""
    row, part = plan[point.spot.name], point.part
    if row.name in plan.sums_of and isinstance(row.kind, Linear) and part.channels is None:
        return row.inputs[0], Part(None, part.positions, tuple(range(*(row.kind.columns or ()))))
    return row.name, part


def mlps_of(plan: Plan) -> list[str]:
    """Return what MLPs and mixtures write to the residual stream, in order of computation. If a norm follows,
    this is the norm's output. A norm ignores the length of its input, so gradient * value is 0 before it."""
    return [name for name in plan if name in plan.branches and not plan.product_of(name).parts]


def default_points(model: LanguageModel, streams: Sequence[str], length: int) -> list[PatchPoint]:
    """Return streams, the MLPs and the heads at each position, and each head as a whole."""
    plan, heads = model.plan, list(model.plan.sums_of)
    whole = [point_of(plan, head, WHOLE) for head in heads]
    single = [point_of(plan, head, Part(None, (t,)), f"@{t}") for head in heads for t in range(length)]
    return [*points_of(model, [*streams, *mlps_of(plan)], length), *whole, *single]


def neurons_of(plan: Plan) -> list[str]:
    """Return the events that the output products of the MLPs read: the neurons."""
    rows = [plan.product_of(name) for name in mlps_of(plan)]
    rows = [plan[row.inputs[0]] if isinstance(row.kind, Mixture) else row for row in rows]
    return [row.inputs[0] for row in rows]


def largest_neurons(model: LanguageModel, estimates: Estimates, count: int) -> list[PatchPoint]:
    """Return the neurons at single positions with the largest estimates, the largest first."""
    points = [
        point_of(model.plan, name, Part(None, (position,), (channel,)), f"@{position}:{channel}")
        for name in neurons_of(model.plan)
        for position, channel in estimates.largest(name, count)
    ]
    return sorted(points, key=lambda point: -abs(estimates.of(point)))[:count]


def to_confirm(plan: Plan, points: Sequence[PatchPoint], effects: Sequence[float], count: int) -> list[int]:
    """Return the numbers of `count` points with the largest estimates, in turn from the residual stream, the
    heads and each other kind of event. A whole head is only chosen if no head is cut into positions."""
    kinds: dict[str, list[int]] = {}
    cut = any(point.spot.head is not None and point.spot.is_part for point in points)
    for number in np.argsort(-np.abs(effects), kind="stable").tolist():
        spot = points[number].spot
        if cut and spot.head is not None and not spot.is_part:
            continue
        name = spot.name
        kind = "stream" if name in plan.streams else "head" if name in plan.sums_of else kind_of(name)
        kinds.setdefault(kind, []).append(number)
    turns = chain.from_iterable(zip_longest(*kinds.values()))
    return [number for number in turns if number is not None][:count]

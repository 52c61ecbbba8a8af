"""Attribution patching: estimate the effects of all points from two forward passes and one backward pass.

The estimate is the sum of (clean value - corrupted value) * d metric / d value over the elements of a point,
with the gradient of the corrupted run (Nanda, "Attribution Patching: Activation Patching At Industrial
Scale", 2023). The estimate is exact only where the metric is linear in the value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest

import numpy as np

from ..architecture.interpreter.backward import TokenLogit, backward, forward
from ..architecture.model import LanguageModel, TraceInput
from ..architecture.plans.kinds import Linear, Mixture
from ..architecture.plans.plan import Plan, kind_of
from ..arrays.logits import LogitDifference
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..hooks.event import TraceEvent
from ..hooks.sites import Part
from .points import WHOLE, PatchPoint, point_of, points_of


class Estimates:
    """The clean and the corrupted run, and the estimated effect of patching each element of some events.

    The events are those of the points, and `more`. `logits` [2, V] are the logits of both runs at position
    `row`. Call `differentiate` before the other methods.
    """

    def __init__(
        self, model: LanguageModel, pair: tuple[TraceInput, TraceInput], points: Sequence[PatchPoint],
        more: Sequence[str], row: int,
    ) -> None:  # fmt: skip
        self._plan = model.plan
        self._effects: dict[str, Array] = {}  # the clean value, then the change, then change * gradient
        names = list(dict.fromkeys([*(_source(model.plan, point)[0] for point in points), *more]))
        bus = model.hooks.alone()
        self._run = bus.begin(after=[
            bus.subscription(self._change, *names), bus.subscription(self._weigh, *names, phases="backward"),
        ])  # fmt: skip
        clean = bus.begin(after=[bus.subscription(self._keep, *names)])
        with one_blas_thread(), np.errstate(all="ignore"):
            passes = [
                forward(model, np.array(inputs.tokens), [None], run.tap("forward"), run.replaced, [row])
                for run, inputs in zip((clean, self._run), pair, strict=True)
            ]
        self._corrupt = passes[1]
        self.logits = np.concatenate([done.logits for done in passes])

    def _keep(self, event: TraceEvent, value: Array) -> None:
        self._effects[event.name] = value.copy()

    def _change(self, event: TraceEvent, value: Array) -> None:
        self._effects[event.name] -= value

    def _weigh(self, event: TraceEvent, gradient: Array) -> None:
        self._effects[event.name] *= gradient

    def differentiate(self, contrast: LogitDifference) -> None:
        """Run the backward pass of the corrupted run from the logit difference."""
        of = [TokenLogit(0, contrast.target), TokenLogit(0, contrast.against, -1.0)]
        with one_blas_thread(), np.errstate(all="ignore"):
            backward(self._corrupt, self._run.tap("backward"), of=of)

    def of(self, point: PatchPoint) -> float:
        """Return the estimated change of the logit difference if the clean value is put in the point."""
        name, part = _source(self._plan, point)
        effects = self._effects[name]
        chosen = effects[np.ix_(*part.indices(effects.shape, range(effects.shape[-2])))]
        return float(chosen.sum(dtype=np.float64))

    def size(self, names: Sequence[str]) -> int:
        """Return the number of elements of events."""
        return sum(self._effects[name].size for name in names)

    def largest(self, name: str, count: int) -> Iterator[tuple[int, int]]:
        """Yield the position and the channel of the elements of an event with the largest estimates."""
        effects = np.abs(self._effects[name]).ravel()
        for flat in np.argsort(-effects, kind="stable")[:count]:
            position, channel = np.unravel_index(flat, self._effects[name].shape)
            yield int(position), int(channel)


def _source(plan: Plan, point: PatchPoint) -> tuple[str, Part]:
    """Return the event and the part whose elements estimate a point. A head reads columns of the context, and
    has the same estimate as these columns, because the head is linear in them."""
    row, part = plan[point.spot.name], point.part
    if row.name in plan.sums_of and isinstance(row.kind, Linear) and part.channels is None:
        return row.inputs[0], Part(None, part.positions, tuple(range(*(row.kind.columns or ()))))
    return row.name, part


def mlps_of(plan: Plan) -> list[str]:
    """Return the outputs of the MLPs, in order of computation. A mixture of experts counts as one output."""
    products = (plan.product_of(branch) for branch in plan.branches)
    names = {row.name for row in products if not row.parts}
    return [name for name in plan if name in names]


def default_points(model: LanguageModel, length: int) -> list[PatchPoint]:
    """Return the residual stream, the MLPs and the heads at each position, and each head as a whole."""
    plan, heads = model.plan, list(model.plan.sums_of)
    streams = points_of(model, [*plan.streams, *mlps_of(plan)], length)
    whole = [point_of(plan, head, WHOLE) for head in heads]
    single = [point_of(plan, head, Part(None, (t,)), f"@{t}") for head in heads for t in range(length)]
    return [*streams, *whole, *single]


def neurons_of(plan: Plan) -> list[str]:
    """Return the events that the output products of the MLPs read: the neurons."""
    rows = [plan[name] for name in mlps_of(plan)]
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

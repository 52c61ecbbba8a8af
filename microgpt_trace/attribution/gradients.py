"""Attribute one logit difference by gradients: to the token embeddings, the heads, the MLPs and the neurons.

A head is attributed through the columns of the context that its output product reads. The product is linear,
so gradient * value has the same sum over these columns as over the head's output.

Integrated gradients (Sundararajan et al., "Axiomatic Attribution for Deep Networks", 2017) are integrals of
gradient * d value along the straight path of the token embeddings from a baseline to the text. Their sum over
the tokens equals the change of the logit difference. For heads, MLPs and neurons, the integral along this
path is the conductance (Dhamdhere et al., "How Important Is a Neuron?", 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np

from ..architecture.edits import Edit, Report
from ..architecture.model import LanguageModel, TraceInput
from ..architecture.plans.kinds import Lookup
from ..architecture.plans.plan import Plan
from ..arrays.logits import LogitDifference
from ..arrays.stats import Array
from ..errors import InputError
from ..patching import attribution_patching as patching
from ..patching.attribution_patching import DifferentiableRun
from ..patching.pairs import mean_of
from ..patching.points import WHOLE, point_of
from ..running.token_names import token_label, token_of
from ..tracing.findings import Check
from .results import AttributedPrompt, GradientMethod, Neuron, PromptsAttribution

NEURONS = 100  # the number of neurons in a result
ACTIVE = 3  # the number of positions at which a neuron is most active
FIRST, MOST = 16, 256  # the smallest and the largest number of steps of a path
SMALLEST = 1e-6  # the smallest step, as a share of its end
TOLERANCE = 0.01  # allowed distance of the sum along a path, as a share of the change

# a run at one point of a path: the logit difference, and values and gradients by the names of events
Point = tuple[float, dict[str, Array], dict[str, Array]]
Ask = Callable[[Array], tuple[list[LogitDifference], list[str]]]  # logits [n, V] -> the question, notes


@np.errstate(all="ignore")
def by_gradient(
    model: LanguageModel, inputs: TraceInput, rows: Sequence[int], ask: Ask, method: GradientMethod,
    neurons: bool, baseline: str | int | None, report: Report,
) -> PromptsAttribution:  # fmt: skip
    """Attribute the logit difference at the only position of `rows`, as `attribute` does."""
    plan, inner = model.plan, patching.neurons_of(model.plan) if neurons else []
    if len(rows) != 1:
        raise InputError(f"positions: the method {method} explains one position, found {len(rows)}")
    if baseline is not None and method != "integrated":
        raise InputError("baseline: needs the method integrated")
    chosen = [plan.chosen_by[name] for name in inner if name in plan.chosen_by]
    if chosen and method == "integrated":
        raise InputError("neurons: the chosen experts may change along the path; choose another method")
    embedding = next(row for row in plan.of_kind(Lookup) if row.kind.by == "tokens")
    points = patching.default_points(model, [embedding.name], len(inputs.tokens))
    points += [point_of(plan, name, WHOLE) for name in (embedding.name, *patching.mlps_of(plan))]
    names = [*patching.sources(plan, points), *inner]
    run = DifferentiableRun(model, model.hooks, inputs, [*names, *chosen], rows[0])
    (contrast,), notes = ask(run.logits[None])
    if method == "integrated":
        effects, check = _integrate(model, inputs, contrast, names, baseline, report)
    else:
        slopes, check = run.gradients(contrast), None
        factors = slopes if method == "gradient" else run.values
        effects = {name: np.multiply(slopes[name], factors[name], dtype=np.float64) for name in names}
    root = np.sqrt if method == "gradient" else np.asarray  # an L2 norm is the root of a sum of squares
    sums, labels = patching.Effects(plan, effects), tuple(token_label(model, t) for t in inputs.tokens)
    found = [own for name in inner for own in _neurons(plan, name, effects[name], root, run.values)]
    difference, told = contrast.difference(run.logits), (*inputs.notes, *notes)
    prompt = AttributedPrompt(inputs.tokens, labels, told, contrast, difference, check)
    cells = tuple(mean_of(point.spot, [float(root(sums.of(point)))]) for point in points)
    strongest = tuple(sorted(found, key=lambda neuron: -neuron.value)[:NEURONS])
    return PromptsAttribution(model.origin, method, (prompt,), cells, strongest)


def _integrate(
    model: LanguageModel, inputs: TraceInput, contrast: LogitDifference, names: Sequence[str],
    baseline: str | int | None, report: Report,
) -> tuple[dict[str, Array], Check]:  # fmt: skip
    """Return the integral of gradient * d value for each element of the events `names`.

    The trapezoidal rule adds up the mean gradient of a step times the change of the value. If the sum over
    the tokens is not right, the number of steps is doubled, at most to MOST, by halving the steps with the
    largest errors. A step smaller than SMALLEST is not halved. The difference may jump there, if a mixture
    chooses other experts.
    """
    quick, start = model.for_many_passes(), np.zeros(1)
    embedding = next(row for row in model.plan.of_kind(Lookup) if row.kind.by == "tokens")
    if baseline is not None:
        start = model.parameter(embedding.kind.table, np.array([token_of(model, baseline)]))

    def at(share: float, names: Sequence[str]) -> Point:
        edit = Edit(embedding.name, lambda x: (start + share * (x - start)).astype(x.dtype))
        run = DifferentiableRun(quick, model.hooks, inputs, names, contrast.position, [edit])
        return contrast.difference(run.logits), run.values, run.gradients(contrast)

    def error(a: float, b: float) -> float:
        change = points[b][0] - points[a][0]
        return float(_during(points[a], points[b], embedding.name).sum()) - change

    points = {step / FIRST: at(step / FIRST, [embedding.name]) for step in range(FIRST + 1)}
    errors = {step: error(*step) for step in pairwise(points)}
    change = points[1.0][0] - points[0.0][0]
    while abs(sum(errors.values())) > TOLERANCE * abs(change) and len(errors) < MOST:
        for _ in range(len(errors)):
            a, b = max(errors, key=lambda ab: (ab[1] - ab[0] > SMALLEST * ab[1], abs(errors[ab])))
            middle = (a + b) / 2
            points[middle] = at(middle, [embedding.name])
            del errors[a, b]
            errors |= {(a, middle): error(a, middle), (middle, b): error(middle, b)}
            report(len(errors), 2 * MOST)
    before, effects = at(0.0, names), dict.fromkeys(names, np.zeros(()))
    for number, share in enumerate(sorted(points)[1:]):
        after = at(share, names)
        effects = {name: effects[name] + _during(before, after, name) for name in names}
        before = after
        report(len(errors) + number, 2 * len(errors))
    steps, total = len(errors), float(effects[embedding.name].sum())
    deviation = 0.0 if total == change else abs(total - change) / abs(change or math.nan)
    holds = deviation <= TOLERANCE if math.isfinite(deviation) else None
    whence = "zeros" if baseline is None else token_label(model, token_of(model, baseline))
    claim = (
        f"in {steps} steps from {whence} to the token embeddings, the attributions of the tokens sum to "
        f"{total:.4g}, and the difference changes by {change:.4g}"
    )
    if holds is False and model.plan.chosen_by:
        claim += "; the chosen experts may change along the path"
    elif holds is False and baseline is None:
        claim += "; --baseline TOKEN begins at a token, because norms change abruptly near zeros"
    return effects, Check("path", claim, holds, deviation, TOLERANCE)


def _during(a: Point, b: Point, name: str) -> Array:
    """Return the integral during a step. A gradient at zero embeddings may overflow, and is then left out."""
    start, end = (gradients[name].astype(np.float64) for _, _, gradients in (a, b))
    return np.where(np.isfinite(start), (start + end) / 2, end) * (b[1][name] - a[1][name])


def _neurons(
    plan: Plan, name: str, effects: Array, root: Callable[[Array], Array], values: dict[str, Array]
) -> Iterator[Neuron]:
    """Yield the neurons of an event [T, W], or [T, k*W] for k chosen experts, with the largest effects."""
    choice, value = plan.chosen_by.get(name), values[name]
    experts = np.zeros((len(value), 1), int) if choice is None else values[choice].astype(int)  # [T, k]
    sums = np.zeros((experts.max() + 1, value.shape[1] // experts.shape[1]))
    np.add.at(sums, experts, effects.reshape(*experts.shape, -1))
    sums, active = root(sums), value.reshape(*experts.shape, -1)
    for flat in np.argsort(-sums, axis=None, kind="stable")[:NEURONS].tolist():
        expert, channel = divmod(flat, sums.shape[1])
        positions, places = np.nonzero(experts == expert)
        own = active[positions, places, channel]
        most = np.argsort(-np.abs(own), kind="stable")[:ACTIVE]
        site = f"{name}{'' if choice is None else f' expert {expert}'}:{channel}"
        total, active_at = float(sums[expert, channel]), tuple(positions[most].tolist())
        yield Neuron(site, plan[name].layer, total, active_at, tuple(own[most].tolist()))

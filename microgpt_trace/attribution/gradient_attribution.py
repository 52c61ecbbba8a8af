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
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from ..arrays.logits import LogitDifference
from ..arrays.stats import Array
from ..errors import InputError
from ..hooks.edits import Edit
from ..models.language_model import LanguageModel, TraceInput
from ..patching import attribution_patching as patching
from ..patching.attribution_patching import DifferentiableRun
from ..patching.pairs import mean_of
from ..patching.patch_results import Spot
from ..patching.points import WHOLE, PatchPoint, point_of
from ..plans.kinds import Lookup
from ..plans.plan import Plan
from ..progress import Report
from ..selection.token_names import token_label, token_of
from ..tracing.findings import Check
from .path import TOLERANCE, Integral, Parts, Point, Run, integrate
from .results import Attributed, AttributedPrompt, GradientMethod, Neuron, PromptsAttribution

NEURONS = 100  # the number of neurons in a result
ROWS = 128  # rows of a pass; at 5 tokens, SmolLM2 needs 70 ms per point in such passes, and 280 ms alone
KEPT = 1024  # rows of the runs that are kept, because smaller panels need them
ACTIVE = 3  # the number of positions at which a neuron is most active

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
    (contrast,), notes = ask(run.logits)
    numbers = {name: _numbers(plan, name, run.values) for name in inner}
    parts, check = _parts(plan, points, numbers), None
    if method == "integrated":
        start, whence = np.zeros(1), "zeros"
        if baseline is not None:
            token = token_of(model, baseline)
            start = model.parameter(embedding.kind.table, np.array([token]))
            whence = token_label(model, token)
        found, interrupted = integrate(_along(model, inputs, contrast, names, start), parts, report)
        values, errors = found.values, found.errors
        sites = [point.spot.site for point in points]
        sites += [f"{name}:{channel}" for name in inner for channel in range(run.values[name].shape[1])]
        check = _check(model, found, sites[int(errors.argmax())], whence, interrupted)
    else:
        slopes = run.gradients(contrast)
        factors = slopes if method == "gradient" else run.values
        values = parts({name: np.multiply(slopes[name], factors[name], dtype=np.float64) for name in names})
        values = np.sqrt(values) if method == "gradient" else values  # an L2 norm is the root of the squares
        errors = np.full(len(values), np.nan)
    labels, told = tuple(token_label(model, t) for t in inputs.tokens), (*inputs.notes, *notes)
    difference = contrast.difference(run.logits[0])
    prompt = AttributedPrompt(inputs.tokens, labels, told, contrast, difference, check)
    each = zip(points, values.tolist(), errors.tolist(), strict=False)
    cells = tuple(attributed(point.spot, [value], [error]) for point, value, error in each)
    strongest, at = list[Neuron](), len(points)
    for name, own in numbers.items():
        some = slice(at, at := at + own.max() + 1)
        strongest += _neurons(plan, name, own, values[some], errors[some], run.values)
    strongest = sorted(strongest, key=lambda neuron: -neuron.value)[:NEURONS]
    return PromptsAttribution(model.origin, method, (prompt,), cells, tuple(strongest))


def attributed(
    spot: Spot, values: Sequence[float | None], errors: Sequence[float | None] = (None,)
) -> Attributed:
    """Return the mean and spread of the finite values, and the mean error if all errors are finite."""
    own = mean_of(spot, [math.nan if value is None else value for value in values])
    error = _known(np.mean(np.array(errors, float)))  # None becomes NaN
    return Attributed(*spot.place, own.mean, own.spread, own.count, error)


def _check(model: LanguageModel, found: Integral, worst: str, whence: str, interrupted: bool) -> Check:
    """Check that the sum over the tokens is the change, and that half the steps give the same parts. `worst`
    is the site with the largest error."""
    deviation = 0.0 if found.largest == 0 else found.largest / abs(found.change or math.nan)
    holds = deviation <= TOLERANCE if math.isfinite(deviation) else None
    claim = (
        f"in {found.steps} steps from {whence} to the token embeddings, the attributions of the tokens sum "
        f"to {found.total:.4g}, and the difference changes by {found.change:.4g}; half the steps change no "
        f"part by more than {found.errors.max():.2g} ({worst})"
    )
    if holds is False and model.plan.chosen_by:
        claim += "; the chosen experts may change along the path"
    elif holds is False and whence == "zeros":
        claim += "; --baseline TOKEN begins at a token, because norms change abruptly near zeros"
    detail = "interrupted before the errors were small" if interrupted else ""
    return Check("path", claim, holds, deviation, TOLERANCE, detail)


def _along(
    model: LanguageModel, inputs: TraceInput, contrast: LogitDifference, names: Sequence[str], start: Array
) -> Run:
    """Return the function that runs the model at some shares of the path from `start` to the token
    embeddings, the first of the events `names`. A pass has a sequence for each share."""
    quick, length = model.for_many_passes(), len(inputs.tokens)
    at_a_time = 1 if len(model.hooks) else max(1, ROWS // length)  # hooks expect one sequence
    known = dict[float, Point]()

    def passed(shares: Sequence[float]) -> Iterator[Point]:
        along, n = np.repeat(shares, length)[:, None], len(shares)
        edit = Edit(names[0], lambda x: (start + along * (x - start)).astype(x.dtype))
        done = DifferentiableRun(quick, model.hooks, inputs, names, contrast.position, [edit], n)
        gradients, values = done.gradients(contrast), done.values
        for i, logits in enumerate(done.logits):
            rows = slice(i * length, (i + 1) * length)
            own, slopes = ({name: v[rows] for name, v in of.items()} for of in (values, gradients))
            yield contrast.difference(logits), own, slopes

    def run(shares: list[float]) -> Iterator[Point]:
        for i, share in enumerate(shares):
            if share not in known:
                missing = [other for other in dict.fromkeys(shares[i:]) if other not in known][:at_a_time]
                known.update(zip(missing, passed(missing), strict=True))
                for old in [*known][: -max(at_a_time, KEPT // length)]:
                    del known[old]
            yield known[share]

    return run


def _parts(plan: Plan, points: Sequence[PatchPoint], numbers: Mapping[str, Array]) -> Parts:
    """Return the function that adds up the elements of each point, and then of each neuron. `numbers` are the
    numbers of the neurons [T, W] by event."""
    places = list[tuple[str, int | slice, slice]]()
    for name, part in (patching.source_of(plan, point) for point in points):
        channels = slice(part.channels[0], part.channels[-1] + 1) if part.channels else slice(None)
        places.append((name, slice(None) if part.positions is None else part.positions[0], channels))

    def parts(effects: Mapping[str, Array]) -> Array:
        of_points = [effects[name][rows, channels].sum() for name, rows, channels in places]
        of_neurons = (np.bincount(own.ravel(), effects[name].ravel()) for name, own in numbers.items())
        return np.concatenate([of_points, *of_neurons])

    return parts


def _numbers(plan: Plan, name: str, values: Mapping[str, Array]) -> Array:
    """Return the number of the neuron of each element: [T, W], or [T, k*W] for k chosen experts"""
    choice, (length, width) = plan.chosen_by.get(name), values[name].shape
    experts = np.zeros((length, 1), int) if choice is None else values[choice].astype(int)  # [T, k]
    channels = np.arange(width // experts.shape[1])
    return (experts[:, :, None] * len(channels) + channels).reshape(length, width)


def _neurons(
    plan: Plan, name: str, numbers: Array, sums: Array, errors: Array, values: Mapping[str, Array]
) -> Iterator[Neuron]:
    """Yield the neurons of an event with the largest sums. `numbers` are the numbers of neurons: [T, W]"""
    choice = plan.chosen_by.get(name)
    width = values[name].shape[1] // (1 if choice is None else values[choice].shape[1])
    for number in np.argsort(-sums, kind="stable")[:NEURONS].tolist():
        positions, columns = np.nonzero(numbers == number)
        active = values[name][positions, columns]
        most, (expert, channel) = np.argsort(-np.abs(active), kind="stable")[:ACTIVE], divmod(number, width)
        site = f"{name}{'' if choice is None else f' expert {expert}'}:{channel}"
        active_at, error = tuple(positions[most].tolist()), _known(errors[number])
        yield Neuron(
            site, plan[name].layer, float(sums[number]), active_at, tuple(active[most].tolist()), error
        )


def _known(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None

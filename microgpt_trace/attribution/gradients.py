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
from functools import partial

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
from ..patching.points import WHOLE, PatchPoint, point_of
from ..patching.results import Spot
from ..running.token_names import token_label, token_of
from ..tracing.findings import Check
from .path import TOLERANCE, Integral, Parts, Point, integrate
from .results import Attributed, AttributedPrompt, GradientMethod, Neuron, PromptsAttribution

NEURONS = 100  # the number of neurons in a result
ROWS = 128  # rows of a pass; at 5 tokens, SmolLM2 needs 70 ms per point in such passes, and 280 ms alone
INTERRUPTED = "interrupted before the errors were small"  # the detail of a check
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
    experts = {name: _experts(plan, name, run.values) for name in inner}
    parts, check = _parts(plan, points, experts), None
    if method == "integrated":
        path = RunPath(model, inputs, contrast, names, embedding.kind.table, baseline)
        found, interrupted = integrate(path.points, path.at_a_time, parts, report)
        values, errors = found.values, found.errors
        sites = [*(point.spot.site for point in points), *("a neuron" for _ in errors[len(points) :])]
        check = _check(model, found, sites, path.whence, INTERRUPTED * interrupted)
    else:
        slopes = run.gradients(contrast)
        factors = slopes if method == "gradient" else run.values
        values = parts({name: np.multiply(slopes[name], factors[name], dtype=np.float64) for name in names})
        values = np.sqrt(values) if method == "gradient" else values  # an L2 norm is the root of the squares
        errors = np.full(len(values), np.nan)
    labels, told = tuple(token_label(model, t) for t in inputs.tokens), (*inputs.notes, *notes)
    difference = contrast.difference(run.logits[0])
    prompt = AttributedPrompt(inputs.tokens, labels, told, contrast, difference, check)
    cells = [attributed(point.spot, [v], [e]) for point, v, e in zip(points, values, errors, strict=False)]
    strongest, at = list[Neuron](), len(points)
    for name in inner:
        size = _by_neuron(run.values[name], experts[name]).size
        own = slice(at, at := at + size)
        strongest += _neurons(plan, name, values[own], errors[own], experts[name], run.values[name])
    strongest = sorted(strongest, key=lambda neuron: -neuron.value)[:NEURONS]
    return PromptsAttribution(model.origin, method, (prompt,), tuple(cells), tuple(strongest))


def attributed(spot: Spot, values: Sequence[float | None], errors: Sequence[float | None] = ()) -> Attributed:
    """Return the mean and spread of the finite values, and the mean error if all errors are finite."""
    own = mean_of(spot, [math.nan if value is None else value for value in values])
    error = mean_of(spot, [error for error in errors if error is not None]).mean
    return Attributed(*spot.place, own.mean, own.spread, own.count, None if None in errors else error)


def _known(number: float) -> float | None:
    return float(number) if math.isfinite(number) else None


def _check(model: LanguageModel, found: Integral, sites: Sequence[str], whence: str, detail: str) -> Check:
    """Check that the sum over the tokens is the change, and that half the steps give the same parts."""
    change, worst, off = found.change, int(found.errors.argmax()), abs(found.total - found.change)
    error = float(found.errors[worst])
    largest = float(np.max([error, off]))
    deviation = 0.0 if largest == 0 else largest / abs(change or math.nan)
    holds = deviation <= TOLERANCE if math.isfinite(deviation) else None
    claim = (
        f"in {found.steps} steps from {whence} to the token embeddings, the attributions of the tokens sum "
        f"to {found.total:.4g}, and the difference changes by {change:.4g}; half the steps change no part by "
        f"more than {error:.2g} ({sites[worst]})"
    )
    if holds is False and model.plan.chosen_by:
        claim += "; the chosen experts may change along the path"
    elif holds is False and whence == "zeros":
        claim += "; --baseline TOKEN begins at a token, because norms change abruptly near zeros"
    return Check("path", claim, holds, deviation, TOLERANCE, detail)


class RunPath:
    """The runs on the straight path from a baseline to the token embeddings, the first of the events."""

    def __init__(
        self, model: LanguageModel, inputs: TraceInput, contrast: LogitDifference, names: Sequence[str],
        table: str, baseline: str | int | None,
    ) -> None:  # fmt: skip
        self._run = partial(DifferentiableRun, model.for_many_passes(), model.hooks, inputs, names)
        self._contrast, self._names, self._length = contrast, names, len(inputs.tokens)
        self._start, self.whence = np.zeros(1), "zeros"
        if baseline is not None:
            token = token_of(model, baseline)
            self._start, self.whence = model.parameter(table, np.array([token])), token_label(model, token)
        self.at_a_time = 1 if len(model.hooks) else max(1, ROWS // self._length)  # hooks expect one sequence

    def points(self, shares: Sequence[float]) -> list[Point]:
        """Run one pass, whose sequences are at these shares of the path."""
        along, n = np.repeat(shares, self._length)[:, None], len(shares)
        edit = Edit(self._names[0], lambda x: (self._start + along * (x - self._start)).astype(x.dtype))
        run = self._run(self._contrast.position, [edit], n)
        gradients, values = run.gradients(self._contrast), run.values
        rows = [slice(i * self._length, (i + 1) * self._length) for i in range(n)]
        cut = [[{name: v[own] for name, v in of.items()} for own in rows] for of in (values, gradients)]
        return [*zip(map(self._contrast.difference, run.logits), *cut, strict=True)]


def _parts(plan: Plan, points: Sequence[PatchPoint], experts: Mapping[str, Array]) -> Parts:
    """Return the function that adds up the elements of each point, and then of each neuron."""
    places = list[tuple[str, int | slice, slice]]()
    for name, part in (patching.source_of(plan, point) for point in points):
        channels = slice(part.channels[0], part.channels[-1] + 1) if part.channels else slice(None)
        places.append((name, slice(None) if part.positions is None else part.positions[0], channels))

    def parts(effects: Mapping[str, Array]) -> Array:
        of_points = [effects[name][rows, channels].sum() for name, rows, channels in places]
        by_neuron = (_by_neuron(effects[name], own).ravel() for name, own in experts.items())
        return np.concatenate([of_points, *by_neuron])

    return parts


def _experts(plan: Plan, name: str, values: Mapping[str, Array]) -> Array:
    """Return the experts that each position chose for an event of neurons, or 0 without a choice: [T, k]"""
    choice = plan.chosen_by.get(name)
    return np.zeros((len(values[name]), 1), int) if choice is None else values[choice].astype(int)


def _by_neuron(effects: Array, experts: Array) -> Array:
    """Add up the positions of each neuron: [T, k*W] for k chosen experts -> [experts, W]"""
    sums = np.zeros((experts.max() + 1, effects.shape[1] // experts.shape[1]))
    np.add.at(sums, experts, effects.reshape(*experts.shape, -1))
    return sums


def _neurons(
    plan: Plan, name: str, values: Array, errors: Array, experts: Array, activations: Array
) -> Iterator[Neuron]:
    """Yield the neurons of an event with the largest values. `activations` are the event: [T, k*W]"""
    active = activations.reshape(*experts.shape, -1)
    for flat in np.argsort(-values, kind="stable")[:NEURONS].tolist():
        expert, channel = divmod(flat, active.shape[2])
        positions, places = np.nonzero(experts == expert)
        own = active[positions, places, channel]
        most = np.argsort(-np.abs(own), kind="stable")[:ACTIVE]
        site = f"{name}{'' if name not in plan.chosen_by else f' expert {expert}'}:{channel}"
        total, active_at = float(values[flat]), tuple(positions[most].tolist())
        error = _known(errors[flat])
        yield Neuron(site, plan[name].layer, total, active_at, tuple(own[most].tolist()), error)

"""The backward pass of any plan: d loss / d every event and parameter. Knows no kind's arithmetic.

Of the forward pass the streams between the layers stay, [T, C] a layer; each layer is computed again from its
own, with what hooks had replaced put in place again. What several rows read has the sum of their gradients:
the residual stream needs no rule. Where a value was replaced the tap stops or scales its gradient.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...arrays.logits import used_losses
from ...arrays.stats import Array
from ...arrays.threads import keep_freed_memory
from ...hooks.bus import SILENT, Tap
from ...hooks.event import differs
from ..model import LanguageModel
from ..operations.by_kind import arithmetic_of
from ..operations.pass_state import Gradients, PassState
from ..operations.prediction import known_targets
from ..plans.kinds import Loss, Probabilities
from ..plans.plan import NOTHING, Operation, Plan
from .run import before_forward, compute, final_forward, head_forward, layer_forward, row_forward


@dataclass(frozen=True, eq=False, repr=False)
class ForwardPass:
    """The results of a forward pass and what its backward pass needs."""

    run: PassState
    streams: Sequence[Array]  # [T, C] that enter each layer, and the one that leaves the last
    logits: Array  # [T, V]
    probs: Array  # [T, V] as used
    softmax: Array  # [T, V] as computed
    loss: Array  # [] the mean of -log P(target) where it is known


def forward(
    model: LanguageModel, tokens: Array, targets: Sequence[int | None], tap: Tap = SILENT
) -> ForwardPass:
    """One pass over the tokens up to the loss, all at once: no part of it is left out."""
    keep_freed_memory()
    run = PassState(model, tokens, tap=tap, targets=targets)
    streams = [before_forward(run)]
    for i in range(len(model.plan.layers)):
        streams.append(layer_forward(streams[-1], i, run))
    logits_row, probs_row, loss_row = _ends(model.plan)
    final = final_forward(model, streams[-1], tap)
    logits = tap.emit(logits_row.name, head_forward(model, final, tap))
    values = {logits_row.name: logits}
    computed = row_forward(probs_row, values, run)
    probs = tap.emit(probs_row.name, computed)
    loss = row_forward(loss_row, values, run)
    if differs(probs, computed):
        rows, known = known_targets(targets)
        losses = used_losses(known.tolist(), logits[rows], probs[rows], True)
        loss = np.asarray(losses.mean(), logits.dtype)
    return ForwardPass(run, streams, logits, probs, computed, tap.emit(loss_row.name, loss))


def backward(
    done: ForwardPass,
    tap: Tap = SILENT,
    replaced: Mapping[str, Array] = NOTHING,
    wanted: Collection[str] = (),
) -> dict[str, Array]:
    """d loss / d of each `wanted` parameter by name; the tap is given d loss / d event on the way.

    `replaced` are the values that hooks had put in place of events in the forward pass.
    """
    plan, streams = done.run.model.plan, done.streams
    walk = _Walk(replace(done.run, wanted=frozenset(wanted)), tap, replaced)
    walk.gradients[plan.head[-1].name] = _by_way_of_probs(done, tap)
    walk.back((*plan.final, *plan.head), {plan.streams[-1]: streams[-1]})
    for i in reversed(range(len(plan.layers))):
        walk.back(plan.layers[i], {plan.streams[i]: streams[i]})
    walk.back(plan.before, {})
    return walk.parameters


def _ends(plan: Plan) -> tuple[Operation, Operation, Operation]:
    """The rows of the logits, the probabilities and the loss."""
    (probs,), (loss,) = plan.of_kind(Probabilities), plan.of_kind(Loss)
    return plan.head[-1], probs, loss


def _by_way_of_probs(done: ForwardPass, tap: Tap) -> Array:
    """The gradient of the logits, by way of the loss and the probabilities where a tap wants these."""
    _, probs_row, loss_row = _ends(done.run.model.plan)
    dloss = one = np.ones((), done.logits.dtype)
    if tap.wants(loss_row.name):
        dloss = tap.emit(loss_row.name, one)
    dlogits = _backward(loss_row, done.run, dloss, done.loss, done.logits).inputs[0]
    if tap.wants(probs_row.name):
        rows, targets = known_targets(done.run.targets)
        computed = np.zeros_like(done.probs)
        if rows.size and dloss != 0:  # else 0, whatever P is
            computed[rows, targets] = -dloss / len(rows) / done.probs[rows, targets]
        dprobs = tap.emit(probs_row.name, computed)
        if dprobs is not computed:
            dlogits = _backward(probs_row, done.run, dprobs, done.softmax, done.logits).inputs[0]
    return dlogits


def _backward(row: Operation, run: PassState, dy: Array, y: Array | None, *inputs: Array) -> Gradients:
    kernels: Any = arithmetic_of(row.kind)
    found: Gradients = kernels.backward(row, run, dy, y, *inputs)
    return found


class _Walk:
    """The way back through a plan, a group of its rows at a time."""

    def __init__(self, run: PassState, tap: Tap, replaced: Mapping[str, Array]) -> None:
        self._run, self._tap, self._replaced = run, tap, replaced
        self.gradients: dict[str, Array] = {}  # of events, of those that are still to be passed on
        self.parameters: dict[str, Array] = {}

    def back(self, rows: Sequence[Operation], before: dict[str, Array]) -> None:
        """From the gradient of what the last of these rows gives to those of what they read `before`. All but
        the last are computed again."""
        again = _Again(self._replaced)
        compute(rows[:-1], dict(before), replace(self._run, tap=again))
        values = before | again.used
        for row in reversed(rows):
            if row.name in self.gradients:
                dy = self._tap.emit(row.name, self.gradients.pop(row.name))
                self._through(row, dy, values, again.computed)

    def _through(
        self, row: Operation, dy: Array, values: Mapping[str, Array], computed: Mapping[str, Array]
    ) -> None:
        """Add to the gradients of what a row reads. Where a tap changed that of a part, its parts make them,
        and the row itself only those of the parameters that are none of theirs, its bias."""

        def gradients(own: Operation, gradient: Array) -> Gradients:
            inputs = [values[name] for name in own.inputs]
            return _backward(own, self._run, gradient, computed.get(own.name), *inputs)

        parts = self._changed_parts(row, dy)
        found = [(own, gradients(own, gradient)) for own, gradient in parts]
        given = {name for _, of_part in found for name in of_part.parameters}
        inputs, parameters = gradients(row, dy)
        rest = {name: gradient for name, gradient in parameters.items() if name not in given}
        found.append((row, Gradients(() if parts else inputs, rest)))
        for own, (of_inputs, of_parameters) in found:
            for name, gradient in zip(own.inputs, of_inputs, strict=False):
                _add(self.gradients, name, gradient)
            for name, gradient in of_parameters.items():
                _add(self.parameters, name, gradient)

    def _changed_parts(self, row: Operation, dy: Array) -> list[tuple[Operation, Array]]:
        """The parts of a row with their gradients; none where each has the row's own."""
        changed: dict[str, Array] = {}
        for name in row.parts:
            if self._tap.wants(name):
                dpart = self._tap.emit(name, dy)
                if dpart is not dy:
                    changed[name] = dpart
        plan = self._run.model.plan
        return [(plan[name], changed.get(name, dy)) for name in row.parts] if changed else []


class _Again:
    """The tap of rows that are computed again: what hooks had replaced stands in its place again."""

    def __init__(self, replaced: Mapping[str, Array]) -> None:
        self._replaced = replaced
        self.computed: dict[str, Array] = {}
        self.used: dict[str, Array] = {}

    def emit(self, name: str, value: Array) -> Array:
        self.computed[name] = value
        self.used[name] = self._replaced.get(name, value)
        return self.used[name]

    def wants(self, name: str) -> bool:
        return name in self._replaced

    def layer(self, index: int) -> Tap:
        raise NotImplementedError("a plan's rows are emitted by their whole names")


def _add(sums: dict[str, Array], name: str, gradient: Array) -> None:
    sums[name] = sums[name] + gradient if name in sums else gradient

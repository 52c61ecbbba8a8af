"""The backward pass of any plan: gradients of all events and parameters. The arithmetic is in operations/.

The forward pass stores the residual stream before each layer, [T, C]. The backward pass recomputes each layer
from the stored stream and from the values that hooks inserted. If several rows read a value, the gradients
from these rows are added up. The tap stops or scales the gradient of a replaced value.
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
    """The results of a forward pass that the backward pass needs."""

    run: PassState
    streams: Sequence[Array]  # [T, C] the residual stream before each layer and after the last layer
    logits: Array  # [T, V]
    probs: Array  # [T, V] after replacements by hooks
    softmax: Array  # [T, V] before replacements by hooks
    loss: Array  # [] the mean of -log P(target) over known targets


def forward(
    model: LanguageModel, tokens: Array, targets: Sequence[int | None], tap: Tap = SILENT
) -> ForwardPass:
    """Run one pass over the tokens up to the loss. Every event is computed."""
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
    done: ForwardPass, tap: Tap = SILENT, replaced: Mapping[str, Array] = NOTHING,
    wanted: Collection[str] = (),
) -> dict[str, Array]:  # fmt: skip
    """Return the gradient of each parameter in `wanted`, by name. Emit each event's gradient to the tap.

    `replaced` maps events to the values that hooks inserted in the forward pass.
    """
    plan, streams = done.run.model.plan, done.streams
    walk = _Walk(replace(done.run, wanted=frozenset(wanted)), tap, replaced)
    walk.gradients[plan.head[-1].name] = _logits_gradient(done, tap)
    walk.back((*plan.final, *plan.head), {plan.streams[-1]: streams[-1]})
    for i in reversed(range(len(plan.layers))):
        walk.back(plan.layers[i], {plan.streams[i]: streams[i]})
    walk.back(plan.before, {})
    return walk.parameters


def _ends(plan: Plan) -> tuple[Operation, Operation, Operation]:
    """Return the rows of the logits, the probabilities and the loss."""
    (probs,), (loss,) = plan.of_kind(Probabilities), plan.of_kind(Loss)
    return plan.head[-1], probs, loss


def _logits_gradient(done: ForwardPass, tap: Tap) -> Array:
    """Return the gradient of the logits. Emit the gradients of loss and probabilities if requested."""
    _, probs_row, loss_row = _ends(done.run.model.plan)
    dloss = one = np.ones((), done.logits.dtype)
    if tap.wants(loss_row.name):
        dloss = tap.emit(loss_row.name, one)
    dlogits = _backward(loss_row, done.run, dloss, done.loss, done.logits).inputs[0]
    if tap.wants(probs_row.name):
        rows, targets = known_targets(done.run.targets)
        computed = np.zeros_like(done.probs)
        if rows.size and dloss != 0:  # if dloss is 0, the gradient is 0, even if P is 0
            computed[rows, targets] = -dloss / len(rows) / done.probs[rows, targets]
        dprobs = tap.emit(probs_row.name, computed)
        if dprobs is not computed:
            dlogits = _backward(probs_row, done.run, dprobs, done.softmax, done.logits).inputs[0]
    return dlogits


def _backward(row: Operation, run: PassState, dy: Array, y: Array | None, *inputs: Array) -> Gradients:
    kernels: Any = arithmetic_of(row.kind)
    gradients: Gradients = kernels.backward(row, run, dy, y, *inputs)
    return gradients


class _Walk:
    """A backward walk through the rows of a plan, one group of rows at a time."""

    def __init__(self, run: PassState, tap: Tap, replaced: Mapping[str, Array]) -> None:
        self._run, self._tap, self._replaced = run, tap, replaced
        self.gradients: dict[str, Array] = {}  # gradients of events that are not processed yet
        self.parameters: dict[str, Array] = {}

    def back(self, rows: Sequence[Operation], before: dict[str, Array]) -> None:
        """Process `rows` in reverse order. All rows except the last row are first recomputed from the inputs
        `before`."""
        tap = _RecomputingTap(self._replaced)
        compute(rows[:-1], dict(before), replace(self._run, tap=tap))
        values = before | tap.used
        for row in reversed(rows):
            if row.name in self.gradients:
                dy = self._tap.emit(row.name, self.gradients.pop(row.name))
                self._through(row, dy, values, tap.computed)

    def _through(
        self, row: Operation, dy: Array, values: Mapping[str, Array], computed: Mapping[str, Array]
    ) -> None:
        """Add the gradients of a row's inputs and parameters. If a tap changed the gradient of a part, add
        the gradients from all parts instead. The row then adds only the gradient of its bias."""

        def gradients(reader: Operation, dy: Array) -> Gradients:
            inputs = [values[name] for name in reader.inputs]
            return _backward(reader, self._run, dy, computed.get(reader.name), *inputs)

        parts = [(part, gradients(part, dpart)) for part, dpart in self._changed_parts(row, dy)]
        shared = {name for _, part in parts for name in part.parameters}
        inputs, parameters = gradients(row, dy)
        rest = {name: gradient for name, gradient in parameters.items() if name not in shared}
        for reader, (dinputs, dparameters) in (*parts, (row, Gradients(() if parts else inputs, rest))):
            for name, gradient in zip(reader.inputs, dinputs, strict=False):
                _add(self.gradients, name, gradient)
            for name, gradient in dparameters.items():
                _add(self.parameters, name, gradient)

    def _changed_parts(self, row: Operation, dy: Array) -> list[tuple[Operation, Array]]:
        """Return the parts of a row with their gradients, or [] if no tap changed the gradient of a part."""
        changed: dict[str, Array] = {}
        for name in row.parts:
            if self._tap.wants(name):
                dpart = self._tap.emit(name, dy)
                if dpart is not dy:
                    changed[name] = dpart
        plan = self._run.model.plan
        return [(plan[name], changed.get(name, dy)) for name in row.parts] if changed else []


class _RecomputingTap:
    """The tap for recomputed rows. For a replaced event, the tap returns the hook's value."""

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
        raise NotImplementedError("this tap needs full names of events, such as layer0.attn.q")


def _add(sums: dict[str, Array], name: str, gradient: Array) -> None:
    sums[name] = sums[name] + gradient if name in sums else gradient

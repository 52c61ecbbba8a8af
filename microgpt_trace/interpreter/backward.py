"""The backward pass of any plan: gradients of all events and parameters. The arithmetic is in operations/.

The forward pass keeps the residual stream, [T, C], before and within each layer, and as many other values as
fit in memory. The backward pass recomputes the other values that it needs, layer by layer, from the kept
values and from the values that hooks inserted. If several rows read a value, the gradients from these rows
are added up. The tap stops or scales the gradient of a replaced value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field, replace
from typing import Any, NamedTuple

import numpy as np

from ..arrays.logits import in_small_parts, used_losses
from ..arrays.stats import Array
from ..hooks.bus import SILENT, Tap
from ..hooks.edits import replacing
from ..hooks.event import differs
from ..models.language_model import LanguageModel
from ..operations.by_kind import arithmetic_of, values_for_backward
from ..operations.pass_state import Gradients, PassState
from ..operations.prediction import known_targets
from ..plans.kinds import Activation, Experts, Linear, Loss, Probabilities
from ..plans.plan import NOTHING, Operation, Plan
from ..text.frozen import frozen
from .run import compute, head_forward, head_input, pass_forward, row_forward

# The number of elements to keep: 64 MB. SmolLM2 needs that many for 64 tokens. To recompute its layers for
# these would make forward and backward pass 2.7 times as long as a forward pass, instead of 2.1 times.
KEPT = 1 << 24
Give = Callable[[str, Array], object]  # receives the name and the gradient of a parameter


class ValuesTap:
    """A tap that keeps the values of the events `names`, before and after the replacements by another tap."""

    def __init__(self, tap: Tap, names: Collection[str]) -> None:
        self._tap, self._names = tap, names
        self.computed: dict[str, Array] = {}
        self.used: dict[str, Array] = {}

    def emit(self, name: str, value: Array) -> Array:
        used = self._tap.emit(name, value)
        if name in self._names:
            self.computed[name], self.used[name] = value, used
        return used

    def wants(self, name: str) -> bool:
        return name in self._names or self._tap.wants(name)


def keeping_tap(plan: Plan, length: int, tap: Tap) -> ValuesTap:
    """Return a tap that keeps values of a text of this length for a backward pass: the residual stream, and
    other values as long as they fit. Products with weights come first, because they take longest to
    recompute."""
    shapes, kept = plan.shapes(length), {*plan.streams, *plan.residuals, *plan.lasting}
    rows = [row for rows in plan.layers for row in rows if not row.extra]
    needed = dict.fromkeys(name for row in rows for name in values_for_backward(row, ()))
    products = {name for name in needed if isinstance(plan[plan.source(name)].kind, Linear | Experts)}
    left = KEPT - sum(math.prod(shapes[name]) for name in kept)
    for name in sorted(needed.keys() - kept, key=lambda name: (name not in products, plan.order[name])):
        left -= math.prod(shapes[name])
        if left < 0:
            break
        kept.add(name)
    return ValuesTap(tap, kept)


@frozen(slots=False, eq=False)
class ForwardPass:
    """The results of a forward pass that the backward pass needs. The run has a `keeping_tap`."""

    run: PassState
    final: Array  # [T, C] the input of the head
    rows: Sequence[int]  # the positions with logits; the targets of the run belong to these positions
    replaced: Mapping[str, Array]  # the values that hooks inserted, by event
    # [n, V] at the positions `rows`. If empty, they are computed again. A backward pass in parts overwrites
    # them.
    logits: Array = field(default_factory=lambda: np.empty(0))
    loss: float = math.nan  # the mean of -log P(target) over known targets

    @property
    def relus(self) -> list[Array]:
        """The inputs of the ReLUs that were kept for a backward pass."""
        assert isinstance(self.run.tap, ValuesTap)
        used = self.run.tap.used
        rows = [row for row in self.run.model.plan.of_kind(Activation) if row.kind.function == "ReLU"]
        return [used[row.inputs[0]] for row in rows if row.inputs[0] in used]


class _Tiled(dict[str, Array]):
    """Values of a sequence, which are read as values of n equal sequences: [N, ...] -> [n*N, ...]"""

    n = 1

    def __getitem__(self, name: str) -> Array:
        value = super().__getitem__(name)
        return np.tile(value, (self.n, *[1] * (value.ndim - 1)))


def repeated(done: ForwardPass, targets: Array) -> ForwardPass:
    """Return the pass of n sequences that are equal to the sequence of `done`, with the targets [n, T]. No
    hook may have changed a value. A backward pass computes the logits again."""
    run, tap = done.run, ValuesTap(SILENT, ())
    assert isinstance(run.tap, ValuesTap)
    tap.computed = tap.used = values = _Tiled(run.tap.used)
    values.n = n = len(targets)
    run = PassState(run.model, np.tile(run.tokens, n), n, tap, targets=targets.ravel().tolist())
    return ForwardPass(run, np.tile(done.final, (n, 1)), range(targets.size), {})


class TokenLogit(NamedTuple):
    """A logit, times a factor. `row` is the number of a position with logits."""

    row: int
    token: int
    factor: float = 1.0


def forward(
    model: LanguageModel, tokens: Array, targets: Sequence[int | None], tap: Tap = SILENT,
    replaced: Mapping[str, Array] = NOTHING, rows: Sequence[int] | None = None, n: int = 1,
) -> ForwardPass:  # fmt: skip
    """Run one pass over n sequences of the tokens up to the loss, with logits at the rows `rows` of the pass,
    by default at all. `targets` are the tokens after these positions. `replaced` is the tap's record of the
    values that hooks insert."""
    tokens = np.tile(tokens, n)
    rows = range(len(tokens)) if rows is None else rows
    tap = keeping_tap(model.plan, len(tokens), tap)
    run = PassState(model, tokens, n, tap, targets=targets)
    final = pass_forward(run)
    logits_row, probs_row, loss_row = _ends(model.plan)
    logits = tap.emit(logits_row.name, head_forward(model, final[list(rows)], tap))
    values = {logits_row.name: logits}
    computed = row_forward(probs_row, values, run)
    probs = tap.emit(probs_row.name, computed)
    loss = row_forward(loss_row, values, run)
    if differs(probs, computed):
        at, known = known_targets(targets)
        losses = used_losses(known.tolist(), logits[at], probs[at], True)
        loss = np.asarray(losses.mean(), logits.dtype)
    loss = tap.emit(loss_row.name, loss)
    return ForwardPass(run, final, rows, replaced, logits, float(loss))


def backward(
    done: ForwardPass, tap: Tap = SILENT, wanted: Collection[str] = (), of: Sequence[TokenLogit] = (),
    size: int | None = None, head_tap: Tap | None = None, after_head: Callable[[], None] = lambda: None,
    give: Give = lambda name, gradient: None,
) -> None:  # fmt: skip
    """Compute the gradients of the loss, or of the sum of the logits `of`. Emit each event's gradient to the
    tap. Call `give` with the gradient of each parameter in `wanted`, as soon as the gradient is complete.

    If `size` is given, logits and their gradients are computed for at most `size` positions at a time, and
    emitted to `head_tap`. Then no hook may change these values. `after_head` is called after the last part.
    """
    plan, count = done.run.model.plan, len(done.rows)
    walk = _Walk(replace(done.run, wanted=frozenset(wanted)), head_tap or tap, done.replaced, give)
    dfinal = np.zeros_like(done.final)
    for start in range(0, count, size or count):
        part = slice(start, min(start + (size or count), count))
        dfinal[list(done.rows[part])] = walk.through_head(done, part, of, whole=size is None)
    walk.finish(plan.head)
    after_head()
    walk.tap = tap
    walk.gradients[head_input(done.run.model)] = dfinal
    for rows in (plan.final, *reversed(plan.layers), plan.before):
        walk.back(rows)


def first_readers(plan: Plan) -> dict[str, Operation]:
    """Return the first row that reads each parameter."""
    return {
        name: row
        for row in reversed([*plan.values()])
        for name in row.kind.parameters([plan.open_shapes[source] for source in row.inputs])
    }


def _ends(plan: Plan) -> tuple[Operation, Operation, Operation]:
    """Return the rows of the logits, the probabilities and the loss."""
    (probs,), (loss,) = plan.of_kind(Probabilities), plan.of_kind(Loss)
    return plan.head[-1], probs, loss


def _backward(row: Operation, run: PassState, dy: Array, y: Array | None, *inputs: Array | None) -> Gradients:
    kernels: Any = arithmetic_of(row.kind)
    gradients: Gradients = kernels.backward(row, run, dy, y, *inputs)
    return gradients


class _Walk:
    """A backward walk through the rows of a plan, one group of rows at a time."""

    def __init__(self, run: PassState, tap: Tap, replaced: Mapping[str, Array], give: Give) -> None:
        self.run, self.tap, self._replaced, self._give = run, tap, replaced, give
        self.gradients: dict[str, Array] = {}  # gradients of events that are not processed yet
        self.parameters: dict[str, Array] = {}  # gradients of parameters that are not complete yet
        self._first = first_readers(run.model.plan) if run.wanted else {}
        self._ends = _ends(run.model.plan)
        self._dloss: Array | None = None

    def back(self, rows: Sequence[Operation]) -> None:
        """Process `rows` in reverse order."""
        values = self._values(rows)
        for row in reversed(rows):
            self._back(row, values)
            self.finish([row])

    def finish(self, rows: Sequence[Operation]) -> None:
        """Give away the gradients that are complete, because no row before `rows` reads the parameter."""
        for name in [name for name in self.parameters if self._first[name] in rows]:
            self._give(name, self.parameters.pop(name))

    def _values(
        self, rows: Sequence[Operation], inputs: Mapping[str, Array] = NOTHING, needed: Collection[str] = ()
    ) -> ValuesTap:
        """Return the values that the gradients of rows need, and the values of the events `needed`. Values
        that the forward pass did not keep, and that `inputs` lacks, are recomputed."""
        names = {name for row in rows for name in values_for_backward(row, self.run.wanted)} | {*needed}
        result, kept = ValuesTap(replacing(self._replaced), names), self.run.tap
        assert isinstance(kept, ValuesTap)
        for name in {name for row in rows for name in (row.name, *row.inputs)} & {*kept.used}:
            result.computed[name], result.used[name] = kept.computed[name], kept.used[name]
        result.used.update(inputs)
        missing, read = list[Operation](), {*names, *self._replaced}
        for row in reversed(rows):
            if row.name in read and row.name not in result.used:
                missing.append(row)
                read.update(row.inputs)
        compute(missing[::-1], dict(result.used), replace(self.run, tap=result))
        return result

    def _back(self, row: Operation, values: ValuesTap) -> None:
        if row.name in self.gradients:
            dy = self.tap.emit(row.name, self.gradients.pop(row.name))
            self._through(row, dy, values.used, values.computed)

    def through_head(self, done: ForwardPass, part: slice, of: Sequence[TokenLogit], whole: bool) -> Array:
        """Return the gradient of the head's input at some positions with logits: [n, C] If `whole` is false,
        the gradient of the logits overwrites the logits."""
        plan, name = self.run.model.plan, head_input(self.run.model)
        logits, probs, _ = self._ends
        inputs = {name: done.final[list(done.rows[part])]}
        if done.logits.size:
            inputs[logits.name] = done.logits[part]
        values = self._values(plan.head, inputs, [logits.name])
        value = values.used[logits.name]
        gradient = np.empty_like(value) if whole else value
        if of:
            gradient[...] = 0
            for row, token, factor in of:
                if part.start <= row < part.stop:
                    gradient[row - part.start, token] += factor
        else:
            targets = self.run.targets[part]
            for some in [slice(None)] if whole else in_small_parts(*value.shape):
                computed = row_forward(probs, {logits.name: value[some]}, self.run)
                used = self._replaced.get(probs.name, computed)
                gradient[some] = self._through_loss(value[some], computed, used, targets[some])
        self.gradients[logits.name] = gradient
        for reader in reversed(plan.head):
            self._back(reader, values)
        return self.gradients.pop(name)

    def _through_loss(
        self, logits: Array, computed: Array, probs: Array, targets: Sequence[int | None]
    ) -> Array:
        """Return the gradient of the logits [n, V] of positions with these targets. `probs` are the
        probabilities after replacements by hooks, and `computed` before. Emit the gradients of loss and
        probabilities if requested."""
        _, probs_row, loss_row = self._ends
        if self._dloss is None:
            self._dloss = np.ones((), logits.dtype)
            if self.tap.wants(loss_row.name):
                self._dloss = self.tap.emit(loss_row.name, self._dloss)
        (rows, tokens), count = known_targets(targets), len(known_targets(self.run.targets)[0])
        share = self._dloss * (len(rows) / count if count else 1)  # of the positions in the mean
        run = replace(self.run, targets=targets)
        dlogits = _backward(loss_row, run, share, None, logits).inputs[0]
        if self.tap.wants(probs_row.name):
            dprobs = np.zeros_like(probs)
            if rows.size and share != 0:  # if dloss is 0, the gradient is 0, even if P is 0
                dprobs[rows, tokens] = -share / len(rows) / probs[rows, tokens]
            used = self.tap.emit(probs_row.name, dprobs)
            if used is not dprobs:
                dlogits = _backward(probs_row, self.run, used, computed, logits).inputs[0]
        return dlogits

    def _through(
        self, row: Operation, dy: Array, values: Mapping[str, Array], computed: Mapping[str, Array]
    ) -> None:
        """Add the gradients of a row's inputs and parameters. If a tap changed the gradient of a part, add
        the gradients from all parts instead. The row then adds only the gradient of its bias."""

        def gradients(reader: Operation, dy: Array) -> Gradients:
            inputs = [values.get(name) for name in reader.inputs]
            return _backward(reader, self.run, dy, computed.get(reader.name), *inputs)

        parts = [(part, gradients(part, dpart)) for part, dpart in self._changed_parts(row, dy)]
        shared = {name for _, part in parts for name in part.parameters}
        inputs, parameters = gradients(row, dy)
        rest = {name: gradient for name, gradient in parameters.items() if name not in shared}
        for reader, (dinputs, dparameters) in (*parts, (row, Gradients(() if parts else inputs, rest))):
            for name, gradient in zip(reader.inputs, dinputs, strict=False):
                self.gradients[name] = self.gradients[name] + gradient if name in self.gradients else gradient
            for name, gradient in dparameters.items():
                if self.parameters.setdefault(name, gradient) is not gradient:
                    self.parameters[name] += gradient  # in place, because the matrix of an embedding is large

    def _changed_parts(self, row: Operation, dy: Array) -> list[tuple[Operation, Array]]:
        """Return the parts of a row with their gradients, or [] if no tap changed the gradient of a part."""
        changed: dict[str, Array] = {}
        for name in row.parts:
            if self.tap.wants(name):
                dpart = self.tap.emit(name, dy)
                if dpart is not dy:
                    changed[name] = dpart
        plan = self.run.model.plan
        return [(plan[name], changed.get(name, dy)) for name in row.parts] if changed else []

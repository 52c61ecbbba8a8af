"""Run a prompt many times, each time with one edit. Runs share the computation before the edited layer.

One pass computes many runs, each as one sequence of the pass. A sequence starts as a copy of the unedited
residual stream, and joins the pass at the edited layer. 150 runs take about as long as a prompt of 375
tokens. 150 separate passes would unpack the weights 150 times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ..arrays.logits import rows_of_a_part
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..hooks.bus import SILENT
from ..hooks.edits import Edit, EditTap
from ..models.language_model import LanguageModel, TraceInput
from ..operations.pass_state import PassState
from ..plans.plan import Plan
from ..progress import Report, unreported
from .run import before_forward, final_forward, head_forward, layer_forward

ELEMENTS = 1 << 23  # elements in the largest array of a pass: 32 MB
BEFORE = -1  # the layer number of the rows before the first layer


def logits_of_edits(
    model: LanguageModel, inputs: TraceInput, edits: Sequence[Edit], rows: Sequence[int],
    report: Report = unreported,
) -> Iterator[tuple[int, Array]]:  # fmt: skip
    """Yield the number of each edit and the logits [n, V] of the positions `rows`, in any order."""
    with one_blas_thread(), np.errstate(all="ignore"):
        plan, depth, tokens = model.plan, len(model.plan.layers), np.array(inputs.tokens)
        size = max(1, ELEMENTS // _widest(plan, len(tokens)) - 1)
        order = sorted(range(len(edits)), key=lambda number: _joins(edits[number].name, plan))
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        starts = [max(0, _joins(edits[group[0]].name, plan)) for group in groups]
        total, done, at = sum(depth - start for start in starts), 0, 0
        unedited = PassState(model, tokens)
        stream = before_forward(unedited)
        for group, start, following in zip(groups, starts, [*starts, None][1:], strict=True):
            for i in range(at, start):
                stream = layer_forward(stream, i, unedited)
            at = start
            batch = Growing(unedited, stream, [edits[number] for number in group], at)
            for i in range(at, depth):
                if i == following:
                    stream, at = batch.stream[: len(tokens)].copy(), i
                    unedited.lasting.update(batch.lasting())
                batch.advance(i)
                done += 1
                report(done, total)
            yield from zip(group, batch.logits(rows), strict=True)


def _widest(plan: Plan, length: int) -> int:
    """Return the number of elements of the largest event in a layer."""
    shapes = plan.shapes(length)
    return max(math.prod(shapes[row.name]) for rows in plan.layers for row in rows)


def _joins(name: str, plan: Plan) -> int:
    """Return the layer at which a sequence with an edit of this event joins the pass."""
    row = plan[name]
    if row.layer is not None:
        return row.layer
    return BEFORE if row in plan.before else len(plan.layers)


class Growing:
    """A pass whose first sequence is unedited. Edited sequences join the pass in the order of `edits`.

    `stream` [T, C] is the unedited residual stream before layer `start`.
    """

    def __init__(self, unedited: PassState, stream: Array, edits: Sequence[Edit], start: int) -> None:
        self.stream, self._unedited, self._run, self._edits = stream, unedited, unedited, edits
        if start == 0 and self._join(BEFORE):
            self.stream = before_forward(self._run)

    def advance(self, layer: int) -> None:
        """Add the sequences that are edited in this layer, and run the layer."""
        self._copy(self._join(layer))
        self.stream = layer_forward(self.stream, layer, self._run)

    def _join(self, layer: int) -> int:
        """Add the sequences that join at this layer to the state of the pass, and count the new sequences."""
        model, n = self._run.model, self._run.n
        joining = sum(_joins(edit.name, model.plan) == layer for edit in self._edits[n - 1 :])
        if joining:
            n += joining
            tokens, lasting = np.tile(self._unedited.tokens, n), self._run.lasting.copy()
            self._run = PassState(model, tokens, n, self._tap(range(n)), lasting=lasting)
        return joining

    def _copy(self, joining: int) -> None:
        """Append `joining` copies of the unedited residual stream, and of the values for later layers."""
        if joining:
            length, lasting = len(self._unedited.tokens), self._run.lasting
            copied = {name: np.tile(value[:length], (joining, 1)) for name, value in lasting.items()}
            lasting |= {name: np.concatenate([lasting[name], own]) for name, own in copied.items()}
            copies = np.tile(self.stream[:length], (joining, 1))
            self.stream = np.concatenate([self.stream, copies])

    def lasting(self) -> dict[str, Array]:
        """Return the unedited values for later layers."""
        return {name: value[: len(self._unedited.tokens)] for name, value in self._run.lasting.items()}

    def _tap(self, sequences: range) -> EditTap:
        """Return a tap that applies the edits of `sequences`. Sequence 0 is unedited."""
        edits: dict[str, list[tuple[int, Edit]]] = {}
        for number in sequences:
            if number:
                edit = self._edits[number - 1]
                for own in (edit, *edit.also):
                    edits.setdefault(own.name, []).append((number - sequences.start, own))
        return EditTap(edits, len(sequences))

    def logits(self, rows: Sequence[int]) -> Iterator[Array]:
        """Yield the logits [n, V] of the positions `rows`, one array for each edited sequence."""
        model, length = self._run.model, len(self._unedited.tokens)
        self._copy(self._join(len(model.plan.layers)))
        final = final_forward(model, self.stream, self._run.tap)
        streams = final.reshape(self._run.n, length, -1)[1:]
        head = {row.name for row in model.plan.head}
        edited = any(edit.name in head for edit in self._edits)
        size = rows_of_a_part(model.config.vocab_size, length if edited else len(rows))
        for start in range(0, len(streams), size):
            part = streams[start : start + size]
            part = part if edited else part[:, list(rows)]
            tap = self._tap(range(start + 1, start + 1 + len(part))) if edited else SILENT
            logits = head_forward(model, part.reshape(-1, part.shape[2]), tap)
            logits = tap.emit("logits", logits).reshape(*part.shape[:2], -1)
            yield from logits[:, list(rows)] if edited else logits

"""Many runs of one prompt that differ in one edit each, with the work before the edit shared.

They are sequences of one pass: each joins as a copy of the unedited stream where its
edit takes place. 150 of them cost about as much as one prompt of 375 tokens, where 150 passes would
unpack the weights 150 times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from ...arrays.logits import rows_of_a_part
from ...arrays.stats import Array
from ...arrays.threads import one_blas_thread
from ...hooks.bus import SILENT
from ..edits import Edit, EditTap, Report
from ..model import LanguageModel, TraceInput
from ..operations.pass_state import PassState
from ..plans.plan import Plan
from .run import before_forward, final_forward, head_forward, layer_forward

ELEMENTS = 1 << 23  # of the widest array of a pass: 32 MB
BEFORE = -1  # in the place of a layer's number: before all of them


def logits_of_edits(
    model: LanguageModel, inputs: TraceInput, edits: Sequence[Edit], rows: Sequence[int], report: Report
) -> Iterator[tuple[int, Array]]:
    """The logits [n, V] of some positions under each edit, with the number of the edit, in any order."""
    with one_blas_thread(), np.errstate(all="ignore"):
        plan, depth, tokens = model.plan, len(model.plan.layers), np.array(inputs.tokens)
        size = max(1, ELEMENTS // _widest(plan, len(tokens)) - 1)
        order = sorted(range(len(edits)), key=lambda number: _joins(edits[number].name, plan))
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        starts = [max(0, _joins(edits[group[0]].name, plan)) for group in groups]
        total, done, at = sum(depth - start for start in starts), 0, 0
        unedited = PassState(model, tokens)
        stream = before_forward(unedited)
        for group, start, following in zip(groups, starts, [*starts[1:], None], strict=True):
            for i in range(at, start):
                stream = layer_forward(stream, i, unedited)
            at = start
            batch = Growing(unedited, stream, [edits[number] for number in group], at)
            for i in range(at, depth):
                if i == following:
                    stream, at = batch.stream[: len(tokens)].copy(), i
                batch.advance(i)
                done += 1
                report(done, total)
            yield from zip(group, batch.logits(rows), strict=True)


def _widest(plan: Plan, length: int) -> int:
    """How many elements the largest event of a layer has."""
    shapes = plan.shapes(length)
    return max(math.prod(shapes[own.name]) for rows in plan.layers for own in rows)


def _joins(name: str, plan: Plan) -> int:
    """The layer before which a variant with an edit of that event joins."""
    row = plan[name]
    if row.layer is not None:
        return row.layer
    return BEFORE if any(own is row for own in plan.before) else len(plan.layers)


class Growing:
    """A pass whose first sequence is unedited; the variants join it one after another.

    `edits` are in the order in which they join; the unedited stream [T, C] enters layer `start`.
    """

    def __init__(self, unedited: PassState, stream: Array, edits: Sequence[Edit], start: int) -> None:
        self.stream, self._unedited, self._run, self._edits = stream, unedited, unedited, edits
        if start == 0 and self._join(BEFORE):
            self.stream = before_forward(self._run)

    def advance(self, layer: int) -> None:
        """Let those join whose edit is in this layer, and go through it."""
        self._copy(self._join(layer))
        self.stream = layer_forward(self.stream, layer, self._run)

    def _join(self, layer: int) -> int:
        """How many more sequences there are from this layer on."""
        model, n = self._run.model, self._run.n
        joining = sum(_joins(edit.name, model.plan) == layer for edit in self._edits[n - 1 :])
        if joining:
            n += joining
            self._run = PassState(model, np.tile(self._unedited.tokens, n), n, self._tap(range(n)))
        return joining

    def _copy(self, joining: int) -> None:
        """Add so many copies of the unedited stream."""
        if joining:
            copies = np.tile(self.stream[: len(self._unedited.tokens)], (joining, 1))
            self.stream = np.concatenate([self.stream, copies])

    def _tap(self, sequences: range) -> EditTap:
        """The tap of some of the sequences, of which the first is unedited."""
        edits: dict[str, list[tuple[int, Edit]]] = {}
        for number in sequences:
            if number:
                edit = self._edits[number - 1]
                edits.setdefault(edit.name, []).append((number - sequences.start, edit))
        return EditTap(edits, len(sequences))

    def logits(self, rows: Sequence[int]) -> Iterator[Array]:
        """The logits of these positions of every variant, [n, V] each."""
        model, length = self._run.model, len(self._unedited.tokens)
        self._copy(self._join(len(model.plan.layers)))
        final = final_forward(model, self.stream, self._run.tap)
        streams = final.reshape(self._run.n, length, -1)[1:]
        head = {own.name for own in model.plan.head}
        edited = any(edit.name in head for edit in self._edits)
        size = rows_of_a_part(model.config.vocab_size, length if edited else len(rows))
        for start in range(0, len(streams), size):
            part = streams[start : start + size]
            part = part if edited else part[:, list(rows)]
            tap = self._tap(range(start + 1, start + 1 + len(part))) if edited else SILENT
            logits = head_forward(model, part.reshape(-1, part.shape[2]), tap)
            logits = tap.emit("logits", logits).reshape(*part.shape[:2], -1)
            yield from (own[list(rows)] if edited else own for own in logits)

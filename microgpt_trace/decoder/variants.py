"""Many runs of one prompt that differ in one edit each, with the work before the edit shared.

They are sequences of one pass: each joins as a copy of the unedited stream where its
edit takes place. 150 of them cost about as much as one prompt of 375 tokens, where 150 passes would
unpack the weights 150 times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..architecture.edits import Edit, EditTap, Report
from ..architecture.model import TraceInput
from ..architecture.plan import layer_of
from ..architecture.rope import rope_turns
from ..arrays.logits import rows_of_a_part
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..hooks.bus import SILENT
from .llama import Stored, Weights, head_forward, layer_forward, rmsnorm

ELEMENTS = 1 << 23  # of the widest array of a pass: 32 MB


def variants(
    model: Stored, inputs: TraceInput, edits: Sequence[Edit], rows: Sequence[int], report: Report
) -> Iterator[tuple[int, Array]]:
    """The logits [n, V] of some positions under each edit, with the number of the edit, in any order."""
    with one_blas_thread(), np.errstate(all="ignore"):
        yield from _together(model, inputs, edits, rows, report)


def _together(
    model: Stored, inputs: TraceInput, edits: Sequence[Edit], rows: Sequence[int], report: Report
) -> Iterator[tuple[int, Array]]:
    if not edits:
        return
    config, length = model.config, len(inputs.tokens)
    widest = max(config.n_inner, config.n_head * max(config.head_dim, length))
    size = max(1, ELEMENTS // (length * widest) - 1)
    order = sorted(range(len(edits)), key=lambda number: _joins(edits[number].name, config.n_layer))
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    starts = [max(0, _joins(edits[group[0]].name, config.n_layer)) for group in groups]
    total = sum(config.n_layer - start for start in starts)
    stream, at, done = model.tensors["wte"].take(np.array(inputs.tokens)), 0, 0
    shared = _Shared(model, length)
    for group, start, following in zip(groups, starts, [*starts[1:], None], strict=True):
        for i in range(at, start):
            stream = layer_forward(stream, i, shared.weights, shared.turns(1), SILENT, None)
        at = start
        batch = Growing(shared, stream, [edits[number] for number in group], at)
        for i in range(at, config.n_layer):
            if i == following:
                stream, at = batch.stream[:length].copy(), i
            batch.advance(i)
            done += 1
            report(done, total)
        yield from zip(group, batch.logits(rows), strict=True)


def _joins(name: str, n_layer: int) -> int:
    """The layer before which a variant with an edit of that event joins; -1 is before all of them."""
    layer = layer_of(name)
    return layer if layer is not None else -1 if name == "embed.tok" else n_layer


@dataclass
class _Shared:
    """What all passes over a prompt have in common."""

    model: Stored
    length: int

    def __post_init__(self) -> None:
        self.weights = Weights(self.model)
        config = self.model.config
        self._turns = rope_turns(config.rope, config.head_dim, np.arange(self.length))

    def turns(self, n: int) -> tuple[Array, Array]:
        """cos and sin for n sequences, [n*T, 1, D/2] each"""
        cos, sin = (np.tile(a, (n, 1, 1)) for a in self._turns)
        return cos, sin


class Growing:
    """A pass whose first sequence is unedited; the variants join it one after another.

    `edits` are in the order in which they join; the stream [T, C] enters layer `start`.
    """

    def __init__(self, shared: _Shared, stream: Array, edits: Sequence[Edit], start: int) -> None:
        self.stream, self._shared, self._edits, self._joined = stream, shared, edits, 0
        self._n_layer = shared.model.config.n_layer
        if start == 0:
            self._join(-1)
            self.stream = self._tap().emit("embed.tok", self.stream)

    @property
    def n(self) -> int:
        """How many sequences there are."""
        return 1 + self._joined

    def advance(self, layer: int) -> None:
        """Let those join whose edit is in this layer, and go through it."""
        self._join(layer)
        tap, turns = self._tap().layer(layer), self._shared.turns(self.n)
        self.stream = layer_forward(self.stream, layer, self._shared.weights, turns, tap, None, self.n)

    def _join(self, layer: int) -> None:
        waiting = self._edits[self._joined :]
        joining = sum(_joins(edit.name, self._n_layer) == layer for edit in waiting)
        if joining:
            copies = np.tile(self.stream[: self._shared.length], (joining, 1))
            self.stream, self._joined = np.concatenate([self.stream, copies]), self._joined + joining

    def _tap(self) -> EditTap:
        edits: dict[str, list[tuple[int, Edit]]] = {}
        for number, edit in enumerate(self._edits[: self._joined], 1):
            edits.setdefault(edit.name, []).append((number, edit))
        return EditTap(edits, self.n)

    def logits(self, rows: Sequence[int]) -> Iterator[Array]:
        """The logits of these positions of every variant, [n, V] each."""
        self._join(self._n_layer)
        model, tap = self._shared.model, self._tap()
        gain, eps = model.tensors["final_norm"].read(), model.config.norm_eps
        final = tap.emit("final.norm", rmsnorm(self.stream, gain, eps))
        streams = final.reshape(self.n, self._shared.length, -1)[1:]
        of_logits = [edit.name == "logits" for edit in self._edits]
        width = len(rows) if not any(of_logits) else self._shared.length
        size = rows_of_a_part(model.config.vocab_size, width)
        for start in range(0, len(streams), size):
            part = streams[start : start + size]
            part = part if any(of_logits) else part[:, list(rows)]
            logits = head_forward(model, part.reshape(-1, part.shape[2])).reshape(*part.shape[:2], -1)
            for number, of_variant in enumerate(logits, start):
                edited = self._edits[number].change(of_variant) if of_logits[number] else of_variant
                yield edited[list(rows)] if any(of_logits) else edited

"""Measure what each parameter of an export, put alone into the original, does to the predictions.

Exact: the events that read the parameter are computed from the inputs of the original's run. Each becomes an
edit of a run of the original, and the runs share the layers before their edits, as in `patch`.

By gradients: to second order, KL is half the expected square of the change of log P(y), where y is sampled
from the original's predictions (the Fisher information: Amari, "Natural Gradient Works Efficiently in
Learning", 1998). One gradient serves all positions of a text, because their changes are uncorrelated.
"""

from __future__ import annotations

import math
from collections import ChainMap, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np

from ..arrays.logits import divergences, in_parts, rows_held, softmax
from ..arrays.stats import Array
from ..arrays.threads import one_blas_thread
from ..decoder.decoder import Decoder
from ..grouping import grouped
from ..hooks.bus import SILENT, Tap
from ..hooks.edits import Edit
from ..interpreter.backward import ValuesTap, backward, forward, repeated
from ..interpreter.logits_forward import ROWS
from ..interpreter.run import compute, head_forward, head_input, row_forward
from ..models.float64_model import parts_of
from ..operations.pass_state import PassState
from ..plans.plan import NOTHING, Operation
from ..progress import Report, unreported
from ..text.frozen import frozen
from .certificate import TensorEffect
from .opening import Side
from .prediction_checks import Reads

SAMPLES = 16  # sampled next tokens at each position. 8 would double the error of estimates on SmolLM2


def tensor_effects(
    export: Side, original: Side, reads: Reads | str, confirm: int | None = None,
    report: Report = unreported,
) -> tuple[TensorEffect, ...]:  # fmt: skip
    """Return the mean KL(original || original with one parameter of the export), in nats, for each parameter
    of the export, the largest first.

    By default, every KL is exact. If `confirm` is a number, all are estimated by gradients, and the `confirm`
    largest are also exact. An estimate cannot see that other experts are chosen. Parameters that the original
    lacks, or that have another shape there, are left out. The result is empty if the original cannot run
    or could not encode the texts.

    On KeyboardInterrupt, return the effects over the finished texts, or over a part of the first text. An
    unknown effect has neither `kl` nor `estimate`. If all are unknown, raise KeyboardInterrupt.
    """
    if original.model is None or isinstance(reads, str):
        return ()
    context = original.model.config.context_length
    texts = [own.tokens for own in reads if not isinstance(own, str) and len(own.tokens) <= context]
    effects = _EffectSums(_exchanges(export, original.model))
    try:
        with one_blas_thread(), np.errstate(all="ignore"):
            if confirm is not None:
                effects.estimate(original.model, texts, report)
            effects.measure(original.model, texts, confirm, report)
    except KeyboardInterrupt:
        if not effects.estimates and not effects.exact:
            raise
    return effects.table()


@frozen(eq=False)
class Exchange:
    """A parameter of the export, the rows of the original that read it, and the original with it. `equal` is
    True if the original has the same values."""

    name: str
    type: str
    rows: tuple[Operation, ...]
    model: Decoder
    equal: bool


def _exchanges(export: Side, original: Decoder) -> list[Exchange]:
    """Return the parameters of the export that fit into the original. Rows that fill up the vocabulary are
    dropped. Parts of a sum are not rows of an exchange, because the sum reads the same parameter."""
    plan, result = original.plan, list[Exchange]()
    places = [
        (theirs, row, name)
        for own in (export.config.plan if export.config else plan).values()
        if (row := plan.get(own.name)) is not None and row.name not in plan.sums_of
        for theirs, name in zip(own.kind.names, row.kind.names, strict=False)
    ]
    stored: Any = original.tensors  # a ChainMap writes only to its first mapping
    for theirs, found in grouped(places, lambda place: place[0]).items():
        names, tensor = {name for _, _, name in found}, export.tensors.get(theirs)
        (count, *rest), *others = {plan.parameters[name] for name in names}
        if tensor is None or others or tensor.shape[1:] != (*rest,):
            continue
        if tensor.shape[0] > count == original.config.vocab_size:
            tensor = tensor.of_rows(np.arange(count))
        if tensor.shape[0] == count:
            model = replace(original, tensors=ChainMap(dict.fromkeys(names, tensor), stored))
            equal = all(
                np.array_equal(model.parameter(name, part), original.parameter(name, part))
                for name in names
                for part in parts_of(tensor.shape)
            )
            rows = tuple(row for _, row, _ in found)
            result.append(Exchange(theirs, tensor.encoding.name, rows, model, equal))
    return result


class _TextRun:
    """The original's run of a text [T]. Values of events are computed a layer at a time when needed."""

    def __init__(self, model: Decoder, tokens: Array) -> None:
        self.model, self.tokens, plan = model, tokens, model.plan
        self.done = forward(model, tokens, [None] * len(tokens))
        groups = (plan.before, *plan.layers, plan.final, plan.head)
        self._group_of = {row.name: rows for rows in groups for row in rows}
        self._last: tuple[object, Mapping[str, Array]] = None, NOTHING

    def changed(self, exchange: Exchange, row: Operation) -> Array:
        """Return the value of a row that reads the parameter of the export."""
        return row_forward(row, self.values(row), PassState(exchange.model, self.tokens))

    def values(self, row: Operation) -> Mapping[str, Array]:
        """Return the values of the row's layer."""
        rows = self._group_of[row.name]
        if self._last[0] is not rows:
            tap, kept = ValuesTap(SILENT, self._group_of), self.done.run.tap
            assert isinstance(kept, ValuesTap)
            streams = kept.used | {head_input(self.model): self.done.final}
            read = {name for row in rows for name in row.inputs}.difference(row.name for row in rows)
            tap.used = {name: streams[name] for name in read}
            compute(rows, dict(tap.used), PassState(self.model, self.tokens, tap=tap))
            self._last = rows, tap.used
        return self._last[1]


class _EffectSums:
    """Sums of KL over positions, and numbers of positions, of the exchanges that change a value."""

    def __init__(self, exchanges: Sequence[Exchange]) -> None:
        self._all, self._different = exchanges, [own for own in exchanges if not own.equal]
        self.exact, self.estimates = (defaultdict[str, Array](lambda: np.zeros(2)) for _ in range(2))

    def estimate(self, model: Decoder, texts: Sequence[Array], report: Report) -> None:
        """Estimate all effects by gradients."""
        rng = np.random.default_rng(0)
        for number, tokens in enumerate(texts):
            report(number, len(texts))
            run, length = _TextRun(model, tokens), len(tokens)
            targets = _sampled(run.done.logits, SAMPLES, rng)
            head = length * max(1, rows_held(model.config.vocab_size) // length)  # rows of whole samples
            for part in in_parts(SAMPLES, length, ROWS):
                changes = _Changes(run, self._different, len(targets[part]))
                backward(repeated(run.done, targets[part]), changes, size=head)
                share = len(targets[part]) / SAMPLES
                for name, sums in changes.sums.items():  # the loss is a mean over n*T targets
                    change = sums * targets[part].size
                    self.estimates[name] += share * np.square(change).mean() / 2, share * length

    def measure(self, model: Decoder, texts: Sequence[Array], confirm: int | None, report: Report) -> None:
        """Measure the `confirm` largest effects, or all, as known so far."""
        order = {effect.name: place for place, effect in enumerate(self.table())}
        chosen = sorted(self._different, key=lambda own: order[own.name])[:confirm]
        for number, tokens in enumerate(texts if chosen else ()):
            run = _TextRun(model, tokens)

            def layers(done: int, of: int, number: int = number) -> None:
                report(number * of + done, len(texts) * of)

            sums = deepcopy(self.exact) if number else self.exact  # an interrupted text counts only alone
            for own, logits in _exchanged(run, chosen, layers):
                for part in in_parts(*logits.shape):
                    kl = divergences(run.done.logits[part], logits[part])
                    sums[own.name] += kl.sum(), len(kl)
            self.exact = sums

    def table(self) -> tuple[TensorEffect, ...]:
        """Return the effects, the largest first. If an effect is unknown, all shares are unknown."""
        found = [self._effect(own) for own in self._all]
        values = [_size(effect) for effect in found]
        total = math.fsum(value for value in values if math.isfinite(value))
        if total > 0 and min(values) >= 0:
            shares = [value / total if math.isfinite(value) else None for value in values]
            found = [replace(effect, share=share) for effect, share in zip(found, shares, strict=True)]
        return tuple(sorted(found, key=_size, reverse=True))

    def _effect(self, own: Exchange) -> TensorEffect:
        kl, estimate = (
            float(np.divide(*sums[own.name])) if own.name in sums else 0.0 if known and own.equal else None
            for sums, known in ((self.exact, True), (self.estimates, bool(self.estimates)))
        )
        return TensorEffect(own.name, own.type, kl, estimate, None)


def _size(effect: TensorEffect) -> float:
    """Return the exact or the estimated KL, infinity for NaN, or -1 if the effect is unknown."""
    value = effect.size
    return -1.0 if value is None else math.inf if math.isnan(value) else value


def _exchanged(run: _TextRun, chosen: Sequence[Exchange], report: Report) -> Iterator[tuple[Exchange, Array]]:
    """Yield each exchange with its logits [T, V]. An exchange inside and outside the head needs a whole
    pass."""
    inputs, every = run.model.read(tokens=run.tokens.tolist()), range(len(run.tokens))
    head, edits = {*run.model.plan.head}, list[Edit]()
    alone = [own for own in chosen if len(own.rows) == 1 and not head.issuperset(own.rows)]
    for own in alone:
        edits.append(Edit(own.rows[0].name, lambda _, own=own: run.changed(own, own.rows[0])))  # type: ignore[misc]
    for number, logits in run.model.edited_logits(inputs, edits, every, report):
        yield alone[number], logits
    for own in chosen:
        if head.issuperset(own.rows):
            yield own, head_forward(own.model, run.done.final)
        elif own not in alone:
            yield own, own.model.logits(inputs, every)


def _sampled(logits: Array, count: int, rng: np.random.Generator) -> Array:
    """Sample `count` next tokens of each position: [T, V] -> [count, T]. Each lies in another one of `count`
    equal intervals of probability."""
    intervals = rng.permuted(np.tile(np.arange(count)[:, None], (1, len(logits))), axis=0)
    places = (intervals + rng.random(intervals.shape)) / count
    sums = softmax(logits).cumsum(axis=1, dtype=np.float64)
    tokens = [np.searchsorted(own, own[-1] * place) for own, place in zip(sums, places.T, strict=True)]
    return np.minimum(np.stack(tokens, axis=1), logits.shape[1] - 1)


class _Changes:
    """A tap for the gradients of n samples of a text. It adds up gradient times change for each exchange.
    Gradients of the head come a few samples at a time."""

    def __init__(self, run: _TextRun, exchanges: Sequence[Exchange], n: int) -> None:
        pairs = ((row, own) for own in exchanges for row in own.rows)
        self._run, self._readers = run, grouped(pairs, lambda pair: pair[0].name)
        self.sums, self._start = {own.name: np.zeros(n) for own in exchanges}, dict[str, int]()

    def wants(self, name: str) -> bool:
        return name in self._readers

    def layer(self, index: int) -> Tap:
        raise NotImplementedError("a backward pass uses full names of events")

    def emit(self, name: str, value: Array) -> Array:
        start = self._start.get(name, 0)
        for row, own in self._readers.get(name, ()):
            change = self._run.changed(own, row) - self._run.values(row)[name]
            some = value.reshape(-1, change.size) @ change.ravel()
            self._start[name] = start + len(some)
            self.sums[own.name][start : start + len(some)] += some
        return value

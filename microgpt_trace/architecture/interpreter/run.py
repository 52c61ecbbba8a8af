"""The interpreter: runs the rows of any plan, layer by layer. Knows no kind's arithmetic.

A value is dropped once no row of its layer reads it any more, so that memory does not grow with the depth.
What no row reads, the share of a head, is computed only where somebody wants it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...arrays.stats import Array
from ...arrays.threads import keep_freed_memory
from ...hooks.bus import SILENT, Tap
from ..model import LanguageModel
from ..operations.by_kind import arithmetic_of
from ..operations.kv_cache import KVCache
from ..operations.pass_state import PassState
from ..plans.plan import Operation


def forward(
    model: LanguageModel, tokens: Array, tap: Tap = SILENT, cache: KVCache | None = None, n: int = 1
) -> Array:
    """What the head reads, up to which everything is computed: tokens [T] -> [n*T, C].

    With a cache the tokens follow those that it has seen, and are added to it. The n sequences of the
    same tokens, one after another, differ by what the tap makes of them.
    """
    x = pass_forward(PassState(model, np.tile(tokens, n), n, tap, cache))
    if cache is not None:
        cache.length += len(tokens)
    return x


def pass_forward(run: PassState) -> Array:
    """What the head reads of a pass: -> [N, C]"""
    keep_freed_memory()
    x = before_forward(run)
    for i in range(len(run.model.plan.layers)):
        x = layer_forward(x, i, run)
    return final_forward(run.model, x, run.tap)


def before_forward(run: PassState) -> Array:
    """The stream that enters the first layer: -> [N, C]"""
    return run_rows(run.model.plan.before, {}, run)


def layer_forward(x: Array, index: int, run: PassState) -> Array:
    """The stream after a layer from that before it: [N, C] -> [N, C]"""
    plan = run.model.plan
    return run_rows(plan.layers[index], {plan.streams[index]: x}, run)


def final_forward(model: LanguageModel, x: Array, tap: Tap = SILENT) -> Array:
    """What the head reads, from the stream after the last layer: [N, C] -> [N, C]"""
    rows = model.plan.final
    return run_rows(rows, {model.plan.streams[-1]: x}, PassState(model, tap=tap)) if rows else x


def head_forward(model: LanguageModel, x: Array, tap: Tap = SILENT) -> Array:
    """The logits, not yet emitted, of what the head reads: [N, C] -> [N, V]"""
    *within, last = model.plan.head
    run = PassState(model, tap=tap)
    if within:
        x = run_rows(within, {what_the_head_reads(model): x}, run)
    return row_forward(last, {last.inputs[0]: x}, run)


def what_the_head_reads(model: LanguageModel) -> str:
    """The event that `forward` gives."""
    return model.plan.head[0].inputs[0]


def run_rows(rows: Sequence[Operation], values: dict[str, Array], run: PassState) -> Array:
    """Run some rows in order, given what they read of others; the value of the last."""
    compute(rows, values, run)
    return values[rows[-1].name]


def compute(rows: Sequence[Operation], values: dict[str, Array], run: PassState) -> None:
    """Put into `values` what some rows give, in order, and take out what is not read any more."""
    mixing = [at for at, row in enumerate(rows) if row.kind.mixes_positions] if run.groups else []
    if mixing:
        start, stop = mixing[0], mixing[-1] + 1
        _compute_together(rows[:start], values, run)
        _compute_by_group(rows[start:stop], values, run)
        _compute_together(rows[stop:], values, run)
    else:
        _compute_together(rows, values, run)


def _compute_by_group(rows: Sequence[Operation], values: dict[str, Array], run: PassState) -> None:
    """Run rows for the texts of each length apart; the last one, which has a row for each of theirs, is
    emitted as a whole."""
    *within, last = rows
    read = {name for row in rows for name in row.inputs}.difference(row.name for row in rows)
    parts = []
    for own, group in run.groups:
        of_group = {name: values[name][own] for name in read}
        _compute_together(within, of_group, group)
        parts.append(row_forward(last, of_group, group))
    values[last.name] = run.tap.emit(last.name, np.concatenate(parts))
    for row in rows:
        for name in run.model.plan.tasks[row.name].done:
            values.pop(name, None)


def _compute_together(rows: Sequence[Operation], values: dict[str, Array], run: PassState) -> None:
    """The same for rows that are run for all sequences together.

    Where a part is replaced, what that changes is added to the whole, which reads what its parts read.
    """
    ahead: dict[str, Array] = {}  # wholes of which a part was replaced
    emit, wants, tasks = run.tap.emit, run.tap.wants, run.model.plan.tasks
    for row in rows:
        read, whole, done = tasks[row.name]
        if read or wants(row.name):
            computed = ahead.pop(row.name) if row.name in ahead else row_forward(row, values, run)
            value = emit(row.name, computed)
            if whole is not None and value is not computed:
                if whole.name not in ahead:
                    ahead[whole.name] = row_forward(whole, values, run)
                ahead[whole.name] = ahead[whole.name] + (value - computed)
            if read:
                values[row.name] = value
            del computed, value
        for name in done:
            values.pop(name, None)


def row_forward(row: Operation, values: Mapping[str, Array], run: PassState) -> Array:
    """The value of a row from those that it reads."""
    kernels: Any = arithmetic_of(row.kind)
    value: Array = kernels.forward(row, run, *[values[name] for name in row.inputs])
    return value

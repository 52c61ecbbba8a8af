"""The interpreter, which runs the rows of any plan, layer by layer. The arithmetic is in operations/.

A value is dropped after the last row that reads it, so that memory does not grow with the number of layers. A
value that no row reads, such as a head's output, is computed only if a listener requests it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..arrays.stats import Array
from ..arrays.threads import keep_freed_memory
from ..hooks.bus import SILENT, Tap, accepting_parts
from ..models.language_model import LanguageModel
from ..operations.by_kind import arithmetic_of, load_arithmetic
from ..operations.pass_state import KVCache, PassState
from ..plans.kinds import Context, Scores
from ..plans.plan import Operation


def forward(
    model: LanguageModel, tokens: Array, tap: Tap = SILENT, cache: KVCache | None = None, n: int = 1
) -> Array:
    """Compute the input of the head for n sequences of the tokens [T]: [n*T, C].

    If there is a KV cache, the tokens continue the cached tokens, and new keys and values are appended to the
    cache. The tap may change each sequence differently.
    """
    x = pass_forward(PassState(model, np.tile(tokens, n), n, tap, cache))
    if cache is not None:
        cache.length += len(tokens)
    return x


def prepare(model: LanguageModel) -> None:
    """Do now what the first pass of a model does once, so that the time of its first event is its own."""
    keep_freed_memory()
    load_arithmetic(model.plan.values())
    assert model.plan.tasks is not None  # computed when first read


def pass_forward(run: PassState) -> Array:
    """Compute the input of the head for all rows of a pass: [N, C]"""
    keep_freed_memory()
    x = before_forward(run)
    for i in range(len(run.model.plan.layers)):
        x = layer_forward(x, i, run)
    return final_forward(run.model, x, run.tap)


def before_forward(run: PassState) -> Array:
    """Compute the residual stream before the first layer: [N, C]"""
    values: dict[str, Array] = {}
    compute(run.model.plan.before, values, run)
    return values[run.model.plan.streams[0]]


def layer_forward(x: Array, index: int, run: PassState) -> Array:
    """Run a layer on the residual stream: [N, C] -> [N, C]"""
    plan = run.model.plan
    borrowed = {name: run.lasting[name] for name in plan.borrowed[index]}
    return run_rows(plan.layers[index], {plan.streams[index]: x, **borrowed}, run)


def final_forward(model: LanguageModel, x: Array, tap: Tap = SILENT) -> Array:
    """Compute the input of the head from the residual stream after the last layer: [N, C] -> [N, C]"""
    rows = model.plan.final
    return run_rows(rows, {model.plan.streams[-1]: x}, PassState(model, tap=tap)) if rows else x


def head_forward(model: LanguageModel, x: Array, tap: Tap = SILENT) -> Array:
    """Compute logits from the input of the head, without emitting them: [N, C] -> [N, V]"""
    *within, last = model.plan.head
    run = PassState(model, tap=tap)
    if within:
        x = run_rows(within, {head_input(model): x}, run)
    return row_forward(last, {last.inputs[0]: x}, run)


def head_input(model: LanguageModel) -> str:
    """Return the name of the event that is the input of the head."""
    return model.plan.head[0].inputs[0]


def run_rows(rows: Sequence[Operation], values: dict[str, Array], run: PassState) -> Array:
    """Run rows in order and return the value of the last row. `values` contains the inputs of the rows."""
    compute(rows, values, run)
    return values[rows[-1].name]


def compute(rows: Sequence[Operation], values: dict[str, Array], run: PassState) -> None:
    """Run rows in order. Add the results to `values`, and remove each value that no later row reads."""
    mixing = [at for at, row in enumerate(rows) if row.kind.mixes_positions]
    if mixing:
        start, stop = mixing[0], mixing[-1] + 1
        _compute_together(rows[:start], values, run)
        _compute_attention(rows[start:stop], values, run)
        _compute_together(rows[stop:], values, run)
    else:
        _compute_together(rows, values, run)


def _compute_attention(rows: Sequence[Operation], values: dict[str, Array], run: PassState) -> None:
    """Run the rows of attention separately for each group of texts of equal length. The value of the last row
    is emitted once, for all groups together."""
    last = rows[-1].name
    read = {name for row in rows for name in row.inputs}.difference(row.name for row in rows)
    parts = [
        _attend(rows, {name: values[name][part] for name in read}, group)
        for part, group in run.groups or [(slice(None), run)]
    ]
    values[last] = run.tap.emit(last, parts[0] if len(parts) == 1 else np.concatenate(parts))
    for row in rows:
        for name in run.model.plan.tasks[row.name].done:
            values.pop(name, None)


def _attend(rows: Sequence[Operation], values: dict[str, Array], run: PassState) -> Array:
    """Compute the value of the last row. If the rows lead from scores to a context, and no listener requests
    a value between as a whole, the rows run for a block of queries at a time."""
    *within, last = rows
    blocks = run.blocks(len(last.kind.group)) if isinstance(last.kind, Context) else []
    if len(blocks) > 1 and isinstance(rows[0].kind, Scores):
        with accepting_parts(run.tap, [row.name for row in within]) as tap:
            if tap is not None:
                parts = []
                for block in blocks:
                    part = _attend(rows, dict(values), replace(run, tap=tap, block=block))
                    parts.append(part.reshape(run.n, -1, part.shape[1]))
                    tap.spend()
                return np.concatenate(parts, axis=1).reshape(-1, part.shape[1])
    _compute_together(within, values, run)
    return row_forward(last, values, run)


def _compute_together(rows: Sequence[Operation], values: dict[str, Array], run: PassState) -> None:
    """Run rows for all sequences together.

    If a hook replaces a part of a row, such as a head's output, the difference is added to the row's value.
    """
    ahead: dict[str, Array] = {}  # values of rows that were computed early, because a hook replaced a part
    emit, wants, plan = run.tap.emit, run.tap.wants, run.model.plan
    tasks, lasting = plan.tasks, plan.lasting
    for row in rows:
        read, total, done = tasks[row.name]
        if read or wants(row.name):
            computed = ahead.pop(row.name) if row.name in ahead else row_forward(row, values, run)
            value = emit(row.name, computed)
            if total is not None and value is not computed:
                if total.name not in ahead:
                    ahead[total.name] = row_forward(total, values, run)
                ahead[total.name] = ahead[total.name] + (value - computed)
            if read:
                values[row.name] = value
            if row.name in lasting:
                run.lasting[row.name] = value
            del computed, value
        for name in done:
            values.pop(name, None)


def row_forward(row: Operation, values: Mapping[str, Array], run: PassState) -> Array:
    """Compute the value of a row, given the values of its inputs."""
    kernels: Any = arithmetic_of(row.kind)
    value: Array = kernels.forward(row, run, *[values[name] for name in row.inputs])
    return value

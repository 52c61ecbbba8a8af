"""Lookup: the rows of a table that the tokens or the positions select."""

from __future__ import annotations

import numpy as np

from ..arrays.stats import Array
from ..formulas.formula import ElementAt, Formula, Over, PlaceAlong, Setting, TermOf, one_step
from ..formulas.traced_element import TracedElement
from ..plans.kinds import Lookup
from ..plans.plan import Operation
from .pass_state import Gradients, PassState
from .reference_inputs import ReferenceInputs


def forward(row: Operation[Lookup], run: PassState) -> Array:
    """Return a row of the table for each row of the pass: [N, C]"""
    kind = row.kind
    return run.model.parameter(kind.table, run.positions if kind.by == "positions" else run.tokens)


def backward(row: Operation[Lookup], run: PassState, dy: Array, y: Array) -> Gradients:
    """Add up the gradients of each row of the table: [N, C] -> [rows, C]"""
    kind = row.kind
    if kind.table not in run.wanted:
        return Gradients(())
    dtable = np.zeros((kind.rows, kind.width), dy.dtype)
    indices = run.positions if kind.by == "positions" else run.tokens
    np.add.at(dtable, indices, dy)
    return Gradients((), {kind.table: dtable})


def reference(row: Operation[Lookup], ref: ReferenceInputs) -> Array:
    """Return a row of the table for each position: [T, C]"""
    kind = row.kind
    indices = np.arange(len(ref.tokens)) if kind.by == "positions" else ref.tokens
    return ref.parameter(row, kind.table, indices).astype(np.float64)


def formula(row: Operation[Lookup], setting: Setting) -> Formula:
    """Describe an element as an element of the table."""
    kind = row.kind
    place = 0 if kind.by == "positions" else PlaceAlong((), table="tokens")
    return one_step(setting.shapes[row.name], TermOf((ElementAt(kind.table, (place, 1)),)))


def parameter_formula(name: str, row: Operation[Lookup], setting: Setting) -> Formula:
    """Describe an element as the sum of the gradients at the positions that read this row of the table."""
    kind = row.kind
    over = Over(setting.shapes[row.name][0], "tokens" if kind.by == "tokens" else "itself")
    return one_step((kind.rows, kind.width), TermOf((ElementAt(row.name, (2, 1), "backward"),), (over,)))


def notes(at: TracedElement[Lookup]) -> tuple[str, ...]:
    """Return a note that names the row of the table."""
    kind, position = at.row.kind, at.index[0]
    token = f"the token at position {position} is #{at.numbers.inputs.tokens[position]}"
    note = token if kind.by == "tokens" else f"row {position} of {kind.table} belongs to position {position}"
    return (f"looked up, not computed: {note}",)

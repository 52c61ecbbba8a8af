"""Lookup: rows of a table by tokens or positions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ...arrays.stats import Array
from ..kinds import Lookup
from ..plan import Operation
from .given import Given
from .rounding import Sizes, Spread
from .shared import Shared


@dataclass(frozen=True, eq=False, repr=False)
class FaultyLookup(Lookup):
    """Other `tokens`, positions moved by an `offset`, rows that are multiplied by `scale` or `read` otherwise
    (from the tokens [T] to their rows [T, C])."""

    tokens: Array | None = None
    offset: int = 0
    scale: float = 1.0
    read: Callable[[Array], Array] | None = None


def forward(row: Operation, run: Shared) -> Array:
    """The rows of the table, of every sequence: -> [n*T, C]"""
    kind = row.kind
    assert isinstance(kind, Lookup)
    return run.rows(kind.table, run.positions if kind.by == "positions" else run.tokens)


def reference(row: Operation, given: Given) -> Array:
    """The rows: -> [T, C]"""
    kind = row.kind
    assert isinstance(kind, Lookup)
    faulty = kind if isinstance(kind, FaultyLookup) else FaultyLookup(**vars(kind))
    if kind.by == "positions":
        indices = (np.arange(len(given.tokens)) + faulty.offset) % kind.rows
    else:
        indices = given.tokens if faulty.tokens is None else faulty.tokens
    rows = faulty.read(indices) if faulty.read else given.rows(row, kind.table, indices)
    return rows.astype(np.float64) * faulty.scale


def spread(kind: Lookup, sizes: Sizes) -> Spread:
    return Spread()


def size(row: Operation, given: Given, value: Array, *inputs: Array) -> Array:
    """What the roundings of each element are relative to."""
    return np.abs(value)

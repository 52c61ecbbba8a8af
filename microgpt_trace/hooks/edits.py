"""Edit: a change of one event. EditTap: applies edits during a pass. This module depends on no model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from .bus import SILENT, Tap


class Edit(NamedTuple):
    """A change of one event. `change` maps the computed value [T, W] or [H, T, T] to a new value. `also` are
    changes of later events of the same run."""

    name: str
    change: Callable[[Array], Array]
    also: tuple[Edit, ...] = ()


def editing(*edits: Edit) -> EditTap:
    """Return a tap that applies `edits` to a single sequence. Two edits must not change the same event."""
    return EditTap({edit.name: [(0, edit)] for edit in edits}, 1)


def replacing(values: Mapping[str, Array]) -> Tap:
    """Return a tap for a single sequence that replaces events by `values`."""
    edits = [Edit(name, lambda value, new=new: new) for name, new in values.items()]  # type: ignore[misc]
    return editing(*edits) if edits else SILENT


class EditTap:
    """A tap for n sequences. `edits` maps an event to pairs of a sequence number and an edit."""

    def __init__(self, edits: dict[str, list[tuple[int, Edit]]], n: int) -> None:
        self._edits, self._n = edits, n

    def emit(self, name: str, value: Array) -> Array:
        edits = self._edits.get(name)
        if not edits:
            return value
        edited = np.array(value)
        sequences = edited.reshape(self._n, -1, *edited.shape[1:]) if edited.ndim else edited[None]
        for number, edit in edits:
            sequences[number] = edit.change(sequences[number])
        return edited

    def wants(self, name: str) -> bool:
        return name in self._edits

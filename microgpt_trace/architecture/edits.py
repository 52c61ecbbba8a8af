"""Edits: each changes one event, and an EditTap applies them. Knows no model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..hooks.bus import Tap
from ..text.brief import frozen

Report = Callable[[int, int], None]  # is told how many layers, events or pairs are done, and the total


def unreported(done: int, total: int) -> None:
    """Ignore the progress."""


class Edit(NamedTuple):
    """A change of one event: `change` takes its computed value [T, W] or [H, T, T] and returns a new one."""

    name: str
    change: Callable[[Array], Array]


@frozen
class Applied:
    """An intervention that was applied, and the number of elements that it set."""

    kind: str  # ablate, ablate-mean, scale, patch, add
    target: str  # as the user wrote it
    text: str  # "zero", "× 0.5", "from clean.safetensors"
    events: tuple[str, ...]
    elements: int


def editing(*edits: Edit) -> EditTap:
    """Return a tap that applies these edits to a single sequence; each edits another event."""
    return EditTap({edit.name: [(0, edit)] for edit in edits}, 1)


class EditTap:
    """A tap that edits some sequences of a pass of n: for each event, pairs of a sequence and its edit."""

    def __init__(self, edits: dict[str, list[tuple[int, Edit]]], n: int, prefix: str = "") -> None:
        self._edits, self._n, self._prefix = edits, n, prefix

    def emit(self, name: str, value: Array) -> Array:
        edits = self._edits.get(self._prefix + name)
        if not edits:
            return value
        edited = np.array(value)
        sequences = edited.reshape(self._n, -1, *edited.shape[1:]) if edited.ndim else edited[None]
        for number, edit in edits:
            sequences[number] = edit.change(sequences[number])
        return edited

    def wants(self, name: str) -> bool:
        return self._prefix + name in self._edits

    def layer(self, index: int) -> Tap:
        return EditTap(self._edits, self._n, f"layer{index}.")

"""Edits: changes of one event each, and the tap under which they are made. Knows no model."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..hooks.bus import Tap
from ..text.brief import frozen

Report = Callable[[int, int], None]  # so much is done (of layers, events, pairs), of so much


def unreported(done: int, total: int) -> None:
    """Nobody is told."""


class Edit(NamedTuple):
    """A change of one event: from its value [T, W] or [H, T, T] as computed to what stands in its place."""

    name: str
    change: Callable[[Array], Array]


@frozen
class Applied:
    """An intervention as it was carried out: what stands in how many elements of which events."""

    kind: str  # ablate, ablate-mean, scale, patch, add
    target: str  # as it was asked for
    text: str  # "zero", "× 0.5", "from clean.safetensors"
    events: tuple[str, ...]
    elements: int


def editing(*edits: Edit) -> EditTap:
    """The tap of a single sequence with these edits, of an event each."""
    return EditTap({edit.name: [(0, edit)] for edit in edits}, 1)


class EditTap:
    """A tap that edits sequences of a pass of n: by event, which sequence and how."""

    def __init__(self, edits: dict[str, list[tuple[int, Edit]]], n: int, prefix: str = "") -> None:
        self._edits, self._n, self._prefix = edits, n, prefix

    def emit(self, name: str, value: Array) -> Array:
        edits = self._edits.get(self._prefix + name)
        if not edits:
            return value
        edited = np.array(value)
        each = edited.reshape(self._n, -1, *edited.shape[1:]) if edited.ndim else edited[None]
        for number, edit in edits:
            each[number] = edit.change(each[number])
        return edited

    def wants(self, name: str) -> bool:
        return self._prefix + name in self._edits

    def layer(self, index: int) -> Tap:
        return EditTap(self._edits, self._n, f"layer{index}.")

"""What the heads look at: shares of attention, and the role that stands out, as the weights pass. Knows no
text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..architecture.kinds import Softmax
from ..arrays.stats import Array
from ..hooks.event import TraceEvent
from ..measuring.definitions import Attention, role_of
from ..measuring.heads import Queries
from .results import HeadRole, Look

if TYPE_CHECKING:
    from ..architecture.plan import Plan


class RoleMeter:
    """A hook for attention weights that measures each layer as it passes and keeps a few numbers a head, and
    where the positions `rows` look."""

    def __init__(self, tokens: Sequence[int], plan: Plan, rows: Sequence[int]) -> None:
        self.roles: list[HeadRole] = []
        self._queries, self._plan, self._rows = Queries(np.array([tokens])), plan, list(rows)
        self._uniform: dict[int | None, Attention] = {}

    def __call__(self, event: TraceEvent, value: Array) -> None:
        if self._queries.length < 2:
            return
        assert event.layer is not None  # weights belong to a layer
        kind = self._plan[event.name].kind
        window = kind.window if isinstance(kind, Softmax) else None
        if window not in self._uniform:
            self._uniform[window] = self._queries.even_attention(window)
        uniform = self._uniform[window]
        heads = head_names(self._plan, event.name, len(value))
        for head, attention in enumerate(self._queries.attention(value)):
            role = role_of(attention, uniform)
            looks = looks_of(value[head], self._rows)
            self.roles.append(
                HeadRole(heads[head], event.layer, head, window, attention, uniform, role, looks)
            )


def head_names(plan: Plan, weights: str, count: int) -> tuple[str, ...]:
    """What the heads that have these weights write, by name; parts of the weights where they write as one."""
    row = plan[weights]
    while not row.parts and plan.readers[row.name]:
        row = plan[plan.readers[row.name][0]]
    return row.parts or tuple(f"{weights}[{h}]" for h in range(count))


def looks_of(weights: Array, rows: Sequence[int]) -> tuple[Look, ...]:
    """Where the positions `rows` look most: [T, T] -> a Look for each"""
    return tuple(Look(row, at := int(weights[row].argmax()), float(weights[row, at])) for row in rows)

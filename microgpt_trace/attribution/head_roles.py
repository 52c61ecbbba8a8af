"""What the heads look at: shares of attention, and the role that stands out. Knows no text.

A head has the role of which its share is at least SHARE and at least TIMES that of uniform attention, of
several the one that is most times the uniform share. Where two are equal it has none: in a prompt of two
tokens the previous one is position 0. As a role, a repeat is one that is not also the previous token or
position 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..architecture.kinds import Softmax
from ..architecture.operations.softmax import visible
from ..arrays.stats import Array
from ..hooks.event import TraceEvent
from .results import Attention, HeadRole, Look, RoleName

if TYPE_CHECKING:
    from ..architecture.plan import Plan

SHARE, TIMES = 0.4, 2.0
ROLES: dict[RoleName, str] = {  # and the share that decides
    "itself": "itself", "previous": "previous", "first": "first", "repeat": "repeat_apart",
}  # fmt: skip


class RoleMeter:
    """A hook for attention weights that measures each layer as it passes and keeps a few numbers a head, and
    where the positions `rows` look."""

    def __init__(self, tokens: Sequence[int], plan: Plan, rows: Sequence[int]) -> None:
        self.roles: list[HeadRole] = []
        self._tokens, self._plan, self._rows = np.array(tokens), plan, list(rows)
        self._uniform: dict[int | None, Attention] = {}

    def __call__(self, event: TraceEvent, value: Array) -> None:
        if len(self._tokens) < 2:
            return
        assert event.layer is not None  # weights belong to a layer
        kind = self._plan[event.name].kind
        window = kind.window if isinstance(kind, Softmax) else None
        if window not in self._uniform:
            self._uniform[window] = uniform_attention(self._tokens, window)
        uniform = self._uniform[window]
        heads = head_names(self._plan, event.name, len(value))
        for head, attention in enumerate(attention_of(value, self._tokens)):
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


def attention_of(weights: Array, tokens: Array) -> list[Attention]:
    """The shares of each head over two tokens or more: [H, T, T], [T] -> H of them"""
    queries = np.arange(1, len(tokens))
    itself, previous, first = (
        weights[:, queries, at].mean(axis=1, dtype=np.float64).tolist() for at in (queries, queries - 1, 0)
    )
    earlier, apart = repeats_of(tokens)
    repeat, repeat_apart = _share_on(weights, earlier), _share_on(weights, apart)
    shares = zip(itself, previous, first, repeat, repeat_apart, strict=True)
    return [Attention(*of_head) for of_head in shares]


def repeats_of(tokens: Array) -> tuple[Array, Array]:
    """Which keys are earlier occurrences of each query's token, and which of these are neither right before
    it nor at position 0: [..., T] -> [..., T, T] twice"""
    keys = np.arange(tokens.shape[-1])
    back = keys[:, None] - keys
    earlier = (back > 0) & (tokens[..., :, None] == tokens[..., None, :])
    return earlier, earlier & (back > 1) & (keys > 0)


def _share_on(weights: Array, chosen: Array) -> list[float | None]:
    """Each head's mean share on the keys [T, T] chosen for each query that has such keys, else None."""
    rows = np.flatnonzero(chosen.any(axis=1))
    if not rows.size:
        return [None] * len(weights)
    keys = chosen[rows]
    return [float((head[rows] * keys).sum(axis=1, dtype=np.float64).mean()) for head in weights]


def uniform_attention(tokens: Array, window: int | None) -> Attention:
    """The shares of a head that gives all that it can see the same weight."""
    seen = visible(Softmax(window), len(tokens))
    return attention_of((seen / seen.sum(axis=1, keepdims=True))[None], tokens)[0]


def role_of(attention: Attention, uniform: Attention) -> RoleName:
    """The role that stands out, by the rule above."""
    times: dict[RoleName, float] = {}
    for role, field in ROLES.items():
        share, even = getattr(attention, field), getattr(uniform, field)
        if share is not None and even and share >= SHARE and share >= TIMES * even:
            times[role] = share / even
    best = [role for role, ratio in times.items() if ratio == max(times.values())]
    return best[0] if len(best) == 1 else "none"

"""What the heads look at: shares of attention, and the role that stands out. Knows no text.

A head has the role of which its share is at least SHARE and at least TIMES that of uniform attention, of
several the one that is most times the uniform share. Where two are equal it has none: in a prompt of two
tokens the previous one is position 0. As a role, a repeat is one that is not also the previous token or
position 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..arrays.stats import Array
from ..decoder.llama import visible
from ..hooks.event import TraceEvent
from .parts import Attention, HeadRole, RoleName

SHARE, TIMES = 0.4, 2.0
ROLES: dict[RoleName, str] = {  # and the share that decides
    "itself": "itself", "previous": "previous", "first": "first", "repeat": "repeat_apart",
}  # fmt: skip


class RoleMeter:
    """A hook for layer*.attn.weights that measures each layer as it passes and keeps four numbers a head.

    `windows` are how many positions back a layer sees, itself included, of those that do not see all.
    """

    def __init__(self, tokens: Sequence[int], windows: Mapping[int, int | None]) -> None:
        self.roles: list[HeadRole] = []
        self._tokens, self._windows = np.array(tokens), windows
        self._uniform: dict[int | None, Attention] = {}

    def __call__(self, event: TraceEvent, value: Array) -> None:
        if len(self._tokens) < 2:
            return
        assert event.layer is not None  # weights belong to a layer
        window = self._windows.get(event.layer)
        if window not in self._uniform:
            self._uniform[window] = uniform_attention(self._tokens, window)
        uniform = self._uniform[window]
        for head, attention in enumerate(attention_of(value, self._tokens)):
            role = role_of(attention, uniform)
            self.roles.append(
                HeadRole(event.name.replace("weights", f"head{head}"), event.layer, head, window, attention,
                         uniform, role)
            )  # fmt: skip


def attention_of(weights: Array, tokens: Array) -> list[Attention]:
    """The shares of each head over two tokens or more: [H, T, T], [T] -> H of them"""
    queries, keys = np.arange(1, len(tokens)), np.arange(len(tokens))
    itself, previous, first = (
        weights[:, queries, at].mean(axis=1, dtype=np.float64).tolist() for at in (queries, queries - 1, 0)
    )
    back = keys[:, None] - keys
    earlier = (back > 0) & (tokens[:, None] == tokens)
    apart = earlier & (back > 1) & (keys > 0)
    repeat, repeat_apart = _share_on(weights, earlier), _share_on(weights, apart)
    shares = zip(itself, previous, first, repeat, repeat_apart, strict=True)
    return [Attention(*of_head) for of_head in shares]


def _share_on(weights: Array, chosen: Array) -> list[float | None]:
    """Each head's mean share on the keys [T, T] chosen for each query that has such keys, else None."""
    rows = np.flatnonzero(chosen.any(axis=1))
    if not rows.size:
        return [None] * len(weights)
    keys = chosen[rows]
    return [float((head[rows] * keys).sum(axis=1, dtype=np.float64).mean()) for head in weights]


def uniform_attention(tokens: Array, window: int | None) -> Attention:
    """The shares of a head that gives all that it can see the same weight."""
    seen = visible(len(tokens), len(tokens), window)
    return attention_of((seen / seen.sum(axis=1, keepdims=True))[None], tokens)[0]


def role_of(attention: Attention, uniform: Attention) -> RoleName:
    """The role that stands out, by the rule above."""
    times: dict[RoleName, float] = {}
    for role, field in ROLES.items():
        share, even = getattr(attention, field), getattr(uniform, field)
        if share is not None and share >= SHARE and share >= TIMES * even:
            times[role] = share / even
    best = [role for role, ratio in times.items() if ratio == max(times.values())]
    return best[0] if len(best) == 1 else "none"

"""What is near zero, massive, an outlier, grown, a sink, still, and which role a head has: each defined once,
for one text and for many. Measures nothing.

A head has the role of which its share is at least SHARE and at least TIMES that of attention spread evenly,
of several the one that is most times the even share. Where two are equal it has none: in a prompt of two
tokens the previous one is position 0. As a role, a repeat is one that is not also the previous token or
position 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NEAR_ZERO = 0.01  # an activation within +-0.01 passes on at most a hundredth of what it gates
MASSIVE = 1000.0  # times the median magnitude: massive. Sun et al., "Massive Activations" (2024)
OUTLIER = 6.0  # times the median RMS of an event's channels
GROWN = 2.0  # a stream that ends this many times longer than it began has grown
SINK = 0.3  # of what even attention leaves to the others, position 0 draws this share: a sink
STILL = 0.98  # a layer whose output keeps this cosine to its input barely turns the stream
SHARE, TIMES = 0.4, 2.0

RoleName = Literal["itself", "previous", "first", "repeat", "none"]
ROLES: dict[RoleName, str] = {  # and the share that decides
    "itself": "itself", "previous": "previous", "first": "first", "repeat": "repeat_apart",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attention:
    """Mean shares of a head's attention, over the queries from position 1 on.

    On the query's own position, on the one before it, on position 0, and, over queries whose token
    occurred before, on these earlier occurrences (None where no token did). `repeat_apart` counts only
    occurrences that are neither the previous position nor position 0, which have shares of their own.
    """

    itself: float
    previous: float
    first: float
    repeat: float | None
    repeat_apart: float | None


def role_of(attention: Attention, even: Attention) -> RoleName:
    """The role that stands out, by the rule above."""
    times: dict[RoleName, float] = {}
    for role, field in ROLES.items():
        share, evenly = getattr(attention, field), getattr(even, field)
        if share is not None and evenly and share >= SHARE and share >= TIMES * evenly:
            times[role] = share / evenly
    best = [role for role, ratio in times.items() if ratio == max(times.values())]
    return best[0] if len(best) == 1 else "none"

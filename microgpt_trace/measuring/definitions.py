"""The definitions of near zero, massive, outlier, grown, sink, still and head roles, for traces and surveys.

A head has a role if its share of attention is at least SHARE and at least TIMES the share of evenly spread
attention. Of several roles it has the one with the largest multiple of the even share. If two multiples are
equal it has none: in a prompt of two tokens the previous token is position 0. For the role, a repeat is an
earlier occurrence that is neither the previous token nor position 0. Measures nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NEAR_ZERO = 0.01  # an activation within ±0.01 passes at most a hundredth of the value that it gates
MASSIVE = 1000.0  # times the median magnitude. Sun et al., "Massive Activations" (2024)
OUTLIER = 6.0  # times the median RMS of the channels of an event
GROWN = 2.0  # a stream has grown if its final size is this many times its first size
SINK = 0.3  # a sink gets its even share of attention and at least this share of the rest
STILL = 0.98  # a layer barely turns the stream if the cosine of its input and output is this or more
SHARE, TIMES = 0.4, 2.0

RoleName = Literal["itself", "previous", "first", "repeat", "none"]
ROLES: dict[RoleName, str] = {  # the share of `Attention` that decides each role
    "itself": "itself", "previous": "previous", "first": "first", "repeat": "repeat_apart",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Attention:
    """The mean shares of a head's attention over the queries from position 1 on.

    They are the shares on the query itself, on the previous position, on position 0, and on earlier
    occurrences of the query's token. `repeat` is the mean over queries whose token occurred before, None if
    there are none. `repeat_apart` leaves out occurrences at the previous position and at position 0.
    """

    itself: float
    previous: float
    first: float
    repeat: float | None
    repeat_apart: float | None


def role_of(attention: Attention, even: Attention) -> RoleName:
    """Return the role of a head, by the rule in the docstring of this module."""
    times: dict[RoleName, float] = {}
    for role, field in ROLES.items():
        share, evenly = getattr(attention, field), getattr(even, field)
        if share is not None and evenly and share >= SHARE and share >= TIMES * evenly:
            times[role] = share / evenly
    best = [role for role, ratio in times.items() if ratio == max(times.values())]
    return best[0] if len(best) == 1 else "none"

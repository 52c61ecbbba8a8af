"""Thresholds that traces and surveys share, and the rule that selects the role of a head.

A role fits a head if the role's share of attention is at least SHARE, and at least TIMES the share that
evenly spread attention has. If several roles fit, the program divides each share by the evenly spread share
and selects the role with the largest quotient. If the largest quotient occurs twice, the head has no role. In
a prompt of two tokens, for example, position 0 is the previous position, so two quotients are equal. For the
role "repeat", occurrences of the token at the previous position and at position 0 do not count.
"""

from __future__ import annotations

from typing import Literal

from ..text.frozen import frozen

NEAR_ZERO = 0.01  # an activation within ±0.01 reduces the value that it multiplies to at most 1 %
MASSIVE = 1000.0  # multiple of the median magnitude: Sun et al., "Massive Activations" (2024)
OUTLIER = 6.0  # multiple of the median RMS of an event's channels
GROWN = 2.0  # a stream has grown if its final size is this many times its first size
SINK = 0.3  # a sink's share is at least e + SINK * (1 - e), where e is the evenly spread share
UNIT_RMS = 0.99  # smallest RMS of a row that is described as RMS 1: eps lowers the RMS a little
STILL = 0.98  # a layer is still if the cosine of its input and output is at least this large
SHARE, TIMES = 0.4, 2.0

RoleName = Literal["itself", "previous", "first", "repeat", "none"]
ROLES: dict[RoleName, str] = {  # role -> the field of `Attention` with the share of this role
    "itself": "itself", "previous": "previous", "first": "first", "repeat": "repeat_apart",
}  # fmt: skip


@frozen
class Attention:
    """The shares of a head's attention on certain keys, averaged over the queries from position 1 on.

    `itself` is the share on the query's own position. `previous` and `first` are the shares on the previous
    position and on position 0. `repeat` is the share on earlier occurrences of the query's token, averaged
    over the queries whose token occurred earlier, or None. `repeat_apart` is like `repeat`, but ignores
    occurrences at the previous position and at position 0.
    """

    itself: float
    previous: float
    first: float
    repeat: float | None
    repeat_apart: float | None


def role_of(attention: Attention, even: Attention) -> RoleName:
    """Return the role of a head, by the rule at the top of this module."""
    times: dict[RoleName, float] = {}
    for role, field in ROLES.items():
        share, evenly = getattr(attention, field), getattr(even, field)
        if share is not None and evenly and share >= SHARE and share >= TIMES * evenly:
            times[role] = share / evenly
    best = [role for role, ratio in times.items() if ratio == max(times.values())]
    return best[0] if len(best) == 1 else "none"

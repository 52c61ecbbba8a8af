"""What a kind tells of how rounding spreads through it. How far that moves anything is not known here."""

from __future__ import annotations

from typing import NamedTuple


class Spread(NamedTuple):
    """What an output errs by: `terms` products in each of its sums (1: none), `alike` where these may be
    equal, so that their roundings add up; `angles` that grow with the position. `peaked`: a row may be two
    numbers that stray alike. `halves`: engines for quantised weights keep what it reads as float16.
    `factor`: each row is multiplied by a number that may be rounded."""

    terms: int = 1
    alike: bool = False
    angles: bool = False
    peaked: bool = False
    halves: bool = False
    factor: bool = False

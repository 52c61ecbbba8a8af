"""What is known about the passes and ranks of a dump, and about the other texts of its batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..dumps.layouts import OfRanks
from ..rounding.judging import JudgedRun
from ..text.frozen import frozen
from ..text.wording import counted

OFFSETS = (1, -1, 2, -2, 3, -3, 4, -4)  # errors of positions to try


class OtherRun(NamedTuple):
    """The values of other rows of a dump. `rows` lists the rows that belong to the positions of the text."""

    run: JudgedRun
    rows: Array


@frozen(slots=False, eq=False)
class PassSchedule:
    """The passes of a dump. `starts` lists the first position of each pass. `padded` is the text with its
    padding, of `padding` rows, or None. `others` opens the other texts of the batch, by number. `ranks` tells
    how events were joined from ranks, and `part` returns the values of an event on a rank."""

    starts: tuple[int, ...] = ()
    padding: int = 0
    padded: Callable[[], OtherRun] | None = None
    others: Mapping[int, Callable[[], OtherRun]] = field(default_factory=dict)
    ranks: Mapping[str, OfRanks] = field(default_factory=dict)
    part: Callable[[str, int], Array] = lambda name, rank: np.empty(0)

    @property
    def rank_count(self) -> int:
        return max((len(own.parts) for own in self.ranks.values()), default=1)

    def passes(self, length: int) -> list[range]:
        """Return the positions of each pass after the first."""
        ends = (*self.starts[2:], length)
        return [range(a, b) for a, b in zip(self.starts[1:], ends, strict=False) if 0 < a < b]

    def offsets(self, length: int) -> Iterator[tuple[Array, str]]:
        """Yield errors of the positions, [length], with a claim about them."""
        later = self.passes(length)
        if self.padding:
            rows = counted(self.padding, "row")
            yield np.full(length, self.padding), f"positions are counted with the {rows} of padding"
        if not later:
            return
        after = np.arange(length) >= later[0].start
        for n in dict.fromkeys((*OFFSETS, self.padding, -self.padding)):
            if n:
                how = f"{abs(n)} too {'large' if n > 0 else 'small'}"
                yield after * n, f"positions of the passes after the first are {how}"
        again = np.zeros(length)
        for own in later:
            again[own] = -own.start
        yield again, "positions begin again at 0 in each pass"


ONE_PASS = PassSchedule()  # of a dump of one pass over one text

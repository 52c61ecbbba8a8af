"""The factors of terms in one run: what each is called, its value, and what rounding that is relative to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...arrays.stats import Array
from ..arithmetic import Operand
from ..steps import element_name
from .element_places import ElementPlaces
from .formula import Constant, ElementAt, Part, Place, ResultOf, ShareOfKnown, Sign
from .places import At


class Result(NamedTuple):
    """Of a step: what later ones call it, its value and what rounding is relative to, by place where there is
    one for each place along ranges. What is worked out from constants alone is `exact`."""

    name: str
    value: float | Array
    magnitude: float | Array
    exact: bool = False


class Read(NamedTuple):
    """A factor of one term or of all of a range: its operand, and of its values the magnitudes."""

    operand: Operand
    magnitudes: Array
    exact: bool = False

    @property
    def opposite(self) -> Read:
        values, name, kind = self.operand
        return self._replace(operand=Operand(-values, lambda i: f"-{name(i)}", kind))


@dataclass(frozen=True, eq=False)
class FactorReader:
    """Reads factors at the places of one term, or of all of a range, after the steps with these results."""

    at: ElementPlaces
    results: Sequence[Result]
    places: At

    @property
    def count(self) -> int:
        return 1 if isinstance(last := (*self.places, 0)[len(self.places) - 1], int) else len(last)

    def factors(self, parts: Sequence[Part]) -> list[Read]:
        """Each factor; a sign goes with the factor before it."""
        found = list[Read]()
        for part in parts:
            if not isinstance(part, Sign):
                found.append(self._factor(part))
            elif part.values[self.at.axes[part.axis]] < 0:
                found.append(found.pop().opposite)
        return found

    def result(self, step: int) -> Result:
        """Of an earlier step, at these places where it has one for each place along ranges."""
        own = self.results[step]
        if not isinstance(own.value, np.ndarray):
            return own
        first = len(self.at.axes)
        places = self.places[first : first + own.value.ndim]
        return own._replace(value=own.value[places], magnitude=own.magnitude[places])  # type: ignore[index]

    def _factor(self, part: Part) -> Read:
        if isinstance(part, ElementAt):
            return self._element(part)
        if isinstance(part, ResultOf):
            own = self._taken(part)
            values, magnitudes = (np.broadcast_to(of, self.count) for of in (own.value, own.magnitude))
            return Read(Operand(values, lambda i: own.name, "constant"), magnitudes, own.exact)
        name, value = self._number(part)
        values = np.full(self.count, value)
        return Read(Operand(values, lambda i: name, "constant"), np.abs(values), exact=True)

    def _element(self, part: ElementAt) -> Read:
        spots = self.at.read.index(part, self.places)
        values = np.broadcast_to(np.asarray(self.at.values(part, self.places), np.float64), self.count)

        def name(i: int) -> str:
            return element_name(part.name, tuple(s if isinstance(s, int) else int(s[i]) for s in spots))

        if part.less is None:
            return Read(Operand(values, name, part.phase), np.abs(values))
        less = self.result(part.less)
        operand = Operand(values - less.value, lambda i: f"({name(i)} - {less.name})", "constant")
        return Read(operand, np.abs(operand.values) + less.magnitude)

    def _taken(self, part: ResultOf) -> Result:
        """An earlier step, 1 over it, or the same below 0."""
        own = self.result(part.step)
        if part.taken == "1/":
            inverse = np.divide(1.0, own.value)
            return Result(f"1/{own.name}", inverse, own.magnitude * inverse * inverse, own.exact)
        if part.taken == "-":
            return Result(f"-({own.name})", -own.value, own.magnitude, own.exact)
        return own

    def _number(self, part: Part) -> tuple[str, float]:
        """What is no element of the run: its name and value."""
        if isinstance(part, Place):
            place = self.at.axes[part.axis]
            return str(place), float(place)
        if isinstance(part, ShareOfKnown):
            known = self.at.read.known
            return f"{'-' if part.sign < 0 else ''}1/{known}", part.sign / known
        assert isinstance(part, Constant)
        if part.axis is None:
            return part.words, part.values[0]
        value = part.values[self.at.axes[part.axis]]
        return f"{value:.6g}", value

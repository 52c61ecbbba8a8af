"""Explanation: the arithmetic of one element as plain data. Knows no model.

A value is worked out in steps; each step is a sum of terms, and a term is a product of factors, or a
function of one. What a factor is called can be explained in turn, or says in words what it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ..brief import one_line

Pass = Literal["forward", "backward"]
Kind = Literal["forward", "backward", "constant"]
EXPLANATION_SCHEMA = "microgpt.explanation/1"


@dataclass(frozen=True, slots=True)
class Factor:
    """A number and where it comes from.

    `kind` "forward": `name` is an element of an event or a parameter ("layer0.attn.q[3,4]"); "backward":
    its gradient; "constant": words for a constant ("1/sqrt(4)") or the label of an earlier step.
    """

    name: str
    value: float
    kind: Kind = "constant"

    __repr__ = one_line


@dataclass(frozen=True, slots=True)
class Term:
    """One of the numbers that a step adds up: the product x of the factors, or a function of it.

    `function` is an expression in x ("exp(x)"), empty where the value is x itself. `label` is the token
    that the term stands for, where it stands for one.
    """

    factors: tuple[Factor, ...]
    value: float
    function: str = ""
    label: str = ""

    __repr__ = one_line


@dataclass(frozen=True, slots=True)
class Step:
    """An intermediate result, or the last one: a sum of `count` terms.

    `terms` are those of largest magnitude, and `rest` is the sum of the others; `magnitude` is the sum
    of all their magnitudes, which rounding errors are relative to.
    """

    label: str
    terms: tuple[Term, ...]
    count: int
    rest: float
    value: float
    magnitude: float

    __repr__ = one_line


@dataclass(frozen=True, slots=True)
class Use:
    """An element that this one goes into, one of `count` of its event.

    Where there are many, it is the one that this element weighs most in; `adds` is the term that it
    adds there, None where that is no term of a sum. `value` is what the element is, None where the run
    did not keep it. `words` say what happens there.
    """

    name: str
    kind: Kind
    value: float | None
    adds: float | None
    count: int
    words: str

    __repr__ = one_line


@dataclass(frozen=True, slots=True)
class Explanation:
    """Where one number comes from and where it goes.

    `value` is the result of the last step, in float64 from the numbers that the operation had read;
    `traced` is what the run had. They agree if `deviation` is at most `tolerance`, which is what
    rounding explains.
    """

    name: str
    index: tuple[int, ...]
    phase: Pass
    model: str
    text: str
    tokens: tuple[int, ...]
    place: str
    expr: str
    formula: str
    steps: tuple[Step, ...]
    value: float
    traced: float
    deviation: float
    tolerance: float
    holds: bool
    uses: tuple[Use, ...]
    notes: tuple[str, ...]

    def __repr__(self) -> str:
        about = {"element": self.element, "phase": self.phase, "model": self.model, "text": self.text}
        return one_line(self, **about, traced=self.traced, holds=self.holds)

    @property
    def element(self) -> str:
        """As one asks for it: "layer0.attn.q[3,4]" """
        return element_name(self.name, self.index)

    def factors(self) -> Iterator[Factor]:
        """The factors of all the steps that can be explained in turn, each once, step by step."""
        seen = set()
        for factor in (f for step in self.steps for term in step.terms for f in term.factors):
            if factor.kind != "constant" and (factor.name, factor.kind) not in seen:
                seen.add((factor.name, factor.kind))
                yield factor


def element_name(name: str, index: tuple[int, ...]) -> str:
    return f"{name}[{','.join(map(str, index))}]" if index else name

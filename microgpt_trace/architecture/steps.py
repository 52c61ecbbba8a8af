"""Steps: how a number is worked out, as plain data. Knows no model and works nothing out.

A value is worked out in steps; each step is a sum of terms, and a term is a product of factors, or a
function of one. What a factor is called can be explained in turn, or says in words what it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..text.brief import frozen

Pass = Literal["forward", "backward"]
Origin = Literal["forward", "backward", "constant"]


@frozen
class Factor:
    """A number and where it comes from.

    `kind` "forward": `name` is an element of an event or a parameter ("layer0.attn.q[3,4]"); "backward":
    its gradient; "constant": words for a constant ("1/sqrt(4)") or the label of an earlier step.
    """

    name: str
    value: float
    kind: Origin = "constant"


@frozen
class Term:
    """One of the numbers that a step adds up: the product x of the factors, or a function of it.

    `function` is an expression in x ("exp(x)"), empty where the value is x itself. `label` is the token
    that the term stands for, where it stands for one.
    """

    factors: tuple[Factor, ...]
    value: float
    function: str = ""
    label: str = ""


@frozen
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


@frozen
class Use:
    """An element that this one goes into, one of `count` of its event.

    Where there are many, it is the one that this element weighs most in; `adds` is the term that it
    adds there, None where that is no term of a sum. `value` is what the element is, None where the run
    did not keep it. `words` say what happens there.
    """

    name: str
    kind: Origin
    value: float | None
    adds: float | None
    count: int
    words: str


def element_name(name: str, index: tuple[int, ...]) -> str:
    """ "layer0.attn.q[3,4]", or the name alone of what has no axes."""
    return f"{name}[{','.join(map(str, index))}]" if index else name


@dataclass(frozen=True, slots=True)
class Worked:
    """How an element is worked out, or what its gradient gets by way of one reader: a formula for it, the
    steps, and what rounding is relative to."""

    formula: str
    steps: tuple[Step, ...]
    magnitude: float
    notes: tuple[str, ...] = ()
    stored: float | None = None  # the value of what is not computed

    @property
    def value(self) -> float:
        return self.steps[-1].value if self.stored is None else self.stored

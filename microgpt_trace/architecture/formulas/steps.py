"""Steps: how a number is worked out, as plain data, and sums of products of which the largest terms are
written out. Knows no model and no events.

A value is worked out in steps; each step is a sum of terms, and a term is a product of factors, or a
function of one. What a factor is called can be explained in turn, or says in words what it is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ...arrays.stats import Array
from ...text.brief import frozen

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


class Function(NamedTuple):
    """What is done with a product of factors, as an expression in x and as it is worked out.

    `words` are the expression as one reads it, where they say more. Where it cancels inside, roundings are
    relative to `beside` too.
    """

    text: str
    of: Callable[[Any], Any]
    words: str = ""
    beside: Function | None = None


class Operand(NamedTuple):
    """One factor of every term of a sum: its values [n], what rounding each is relative to, and how each is
    called. What is worked out from constants alone is `exact`."""

    values: Array
    magnitudes: Array
    name: Callable[[int], str]
    kind: Origin = "constant"
    exact: bool = False

    @property
    def opposite(self) -> Operand:
        """The same below 0."""
        return self._replace(values=-self.values, name=lambda i: f"-{self.name(i)}")

    def factor(self, i: int) -> Factor:
        return Factor(self.name(i), float(self.values[i]), self.kind)


IDENTITY = Function("", lambda x: x)


@np.errstate(all="ignore")
def total(
    label: str, operands: Sequence[Operand], most: int, function: Function = IDENTITY,
    extra: Sequence[Term] = (), label_of: Callable[[int], str] = lambda i: "",
) -> Step:  # fmt: skip
    """The sum of the products of the operands, or of a function of each, and of further terms; its `most`
    largest terms are written out, in their own order where that is all of them. `label_of` gives the token
    that a term stands for."""
    products = np.prod([operand.values for operand in operands], axis=0)
    values = np.append(function.of(products), [term.value for term in extra])
    order: list[int] = np.argsort(-_magnitudes(values), kind="stable")[:most].tolist()
    shown = sorted(order) if len(order) == len(values) else order
    others = np.delete(values, shown)

    def term(i: int) -> Term:
        if i >= len(products):
            return extra[i - len(products)]
        return Term(
            tuple(operand.factor(i) for operand in operands), float(values[i]), function.text, label_of(i)
        )

    return Step(label, tuple(map(term, shown)), len(values), _sum(others), _sum(values), _sum(np.abs(values)))


def _magnitudes(values: Array) -> Array:
    """Magnitudes to order terms by: what is not finite comes first."""
    return np.where(np.isfinite(values), np.abs(values), np.inf)


def _sum(values: Array) -> float:
    if not np.isfinite(values).all():
        return float(values.sum())
    try:
        return math.fsum(values)
    except OverflowError:
        return float(values.sum())


@np.errstate(all="ignore")
def sum_of(label: str, terms: Sequence[Term]) -> Step:
    """A few terms of their own, added up and all written out. Of none the sum is 0."""
    values = np.array([term.value for term in terms])
    return Step(label, tuple(terms), len(terms), 0.0, _sum(values), _sum(np.abs(values)))


def one_term(factors: Sequence[Factor], function: Function = IDENTITY) -> Term:
    """A product of its own, or a function of it."""
    with np.errstate(all="ignore"):
        value = float(function.of(np.prod([factor.value for factor in factors])))
    return Term(tuple(factors), value, function.text)


def in_place_of_x(expression: str, text: str) -> str:
    """An expression in x with a text in the place of x, in parentheses where it needs them."""
    if expression == "x":
        return text
    inner = f"({text})" if is_joined(text) else text
    return _X.sub(lambda found: f"({text})" if found[0] == "(x)" else inner, expression)


def is_joined(text: str, signs: str = "+-×/") -> bool:
    """Whether one of the signs stands between parts of a text, outside of parentheses."""
    while (bare := _INNERMOST.sub("", text)) != text:
        text = bare
    return any(f" {sign} " in text for sign in signs)


_X, _INNERMOST = re.compile(r"\(x\)|\bx\b"), re.compile(r"\([^()]*\)|\[[^]]*\]")


def less(function: Function, value: float | Array) -> Function:
    """The same of x less a number, or less one for each x."""
    if isinstance(value, np.ndarray):
        return function._replace(of=lambda x: function.of(x - value))
    if value == 0:
        return function
    text = in_place_of_x(function.text, f"x - {value!r}" if value > 0 else f"x + {-value!r}")
    return Function(text, lambda x: function.of(x - value), beside=function.beside)


X = Function("x", lambda x: x)
EXP = Function("exp(x)", np.exp)
SIGMOID = Function("1/(1 + exp(-x))", lambda x: 1 / (1 + np.exp(-x)))
RELU = Function("max(x, 0)", lambda x: np.maximum(x, 0))
ABOVE_ZERO = Function("(x > 0)", lambda x: np.where(x > 0, 1.0, 0.0), "1 where x is above 0, else 0")
MINUS_LOG = Function("-log(x)", lambda x: -np.log(x))
INVERSE = Function("1/x", lambda x: 1 / x)


def mean_of(n: int) -> Function:
    """What a term adds to a mean."""
    return Function(f"x/{n}", lambda x: x / n)

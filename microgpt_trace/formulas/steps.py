"""Steps: the computation of a number, as plain data. This module depends on no model and no events.

A value is computed in steps. A step is a sum of terms. A term is a product of factors or a function of this
product. A factor is a constant, an element or a gradient.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from ..arrays.stats import Array
from ..text.frozen import frozen

Pass = Literal["forward", "backward"]
Origin = Literal["forward", "backward", "constant"]


@frozen
class Factor:
    """A number and its source.

    If `kind` is "forward", `name` is an element of an event or a parameter ("layer0.attn.q[3,4]"). If `kind`
    is "backward", the factor is the gradient of the element `name`. If `kind` is "constant", `name` describes
    a constant ("1/sqrt(4)") or is the label of an earlier step.
    """

    name: str
    value: float
    kind: Origin = "constant"


@frozen
class Term:
    """One number of a sum: the product x of the factors, or a function of x.

    `function` is an expression in x ("exp(x)"), or "" if the value is x. `label` is the term's token, or "".
    """

    factors: tuple[Factor, ...]
    value: float
    function: str = ""
    label: str = ""


@frozen
class Step:
    """A sum of `count` terms. Only the largest terms are listed.

    `terms` are the terms with the largest absolute values. `rest` is the sum of the remaining terms.
    `magnitude` is the sum of the absolute values of all terms.
    """

    label: str
    terms: tuple[Term, ...]
    count: int
    rest: float
    value: float
    magnitude: float


@frozen
class Use:
    """An element whose computation reads the explained element.

    `count` elements of the same event read the explained element. The explained element contributes most to
    the element `name`. `adds` is the term that the explained element adds to the element `name`, or None if
    there is no such term. `value` is None if the run did not store the element. `words` describe the
    operation.
    """

    name: str
    kind: Origin
    value: float | None
    adds: float | None
    count: int
    words: str


def element_name(name: str, index: tuple[int, ...]) -> str:
    """Return a name with an index, such as "layer0.attn.q[3,4]", or only the name if the index is empty."""
    return f"{name}[{','.join(map(str, index))}]" if index else name


@frozen
class Worked:
    """The computation of an element, or of the contribution of one reader to the element's gradient."""

    formula: str
    steps: tuple[Step, ...]
    magnitude: float  # the rounding error is at most proportional to this magnitude
    notes: tuple[str, ...] = ()
    stored: float | None = None  # the value of an element that is stored and not computed

    @property
    def value(self) -> float:
        return self.steps[-1].value if self.stored is None else self.stored


class Function(NamedTuple):
    """A function of x, the product of a term's factors: an expression and a Python function.

    `words` replace the expression in sentences if the expression is hard to read. If numbers inside the
    function may cancel, the magnitude of the result is at least |beside(x)|.
    """

    text: str
    of: Callable[[Any], Any]
    words: str = ""
    beside: Function | None = None


class Operand(NamedTuple):
    """The values of one factor in all terms of a sum."""

    values: Array  # [n]
    magnitudes: Array  # [n] the rounding errors are at most proportional to these magnitudes
    name: Callable[[int], str]
    kind: Origin = "constant"
    exact: bool = False  # True if the factor is computed only from constants

    @property
    def opposite(self) -> Operand:
        """The same factor with the opposite sign."""
        return self._replace(values=-self.values, name=lambda i: f"-{self.name(i)}")

    def factor(self, i: int) -> Factor:
        return Factor(self.name(i), float(self.values[i]), self.kind)


IDENTITY = Function("", lambda x: x)


@np.errstate(all="ignore")
def total(
    label: str, operands: Sequence[Operand], most: int, function: Function = IDENTITY,
    extra: Sequence[Term] = (), label_of: Callable[[int], str] = lambda i: "",
) -> Step:  # fmt: skip
    """Multiply the operands, apply `function` to each product, and add up the results and the `extra` terms.
    The step lists all terms in order, or only the `most` largest terms. `label_of` maps the number of a
    product to the product's token."""
    products = np.prod([operand.values for operand in operands], axis=0)
    values = np.append(function.of(products), [term.value for term in extra])
    sizes = np.where(np.isfinite(values), np.abs(values), np.inf)  # NaN and infinity count as the largest
    order: list[int] = np.argsort(-sizes, kind="stable")[:most].tolist()
    chosen = sorted(order) if len(order) == len(values) else order
    others = np.delete(values, chosen)

    def term(i: int) -> Term:
        if i >= len(products):
            return extra[i - len(products)]
        return Term(
            tuple(operand.factor(i) for operand in operands), float(values[i]), function.text, label_of(i)
        )

    return Step(
        label, tuple(map(term, chosen)), len(values), _sum(others), _sum(values), _sum(np.abs(values))
    )


def _sum(values: Array) -> float:
    try:
        return math.fsum(values) if np.isfinite(values).all() else float(values.sum())
    except OverflowError:
        return float(values.sum())


@np.errstate(all="ignore")
def sum_of(label: str, terms: Sequence[Term]) -> Step:
    """Return the sum of a few terms. The step lists all terms. If there are no terms, the sum is 0."""
    values = np.array([term.value for term in terms])
    return Step(label, tuple(terms), len(terms), 0.0, _sum(values), _sum(np.abs(values)))


def one_term(factors: Sequence[Factor], function: Function = IDENTITY) -> Term:
    """Return a term from its factors and a function of their product."""
    with np.errstate(all="ignore"):
        value = float(function.of(np.prod([factor.value for factor in factors])))
    return Term(tuple(factors), value, function.text)


def in_place_of_x(expression: str, text: str) -> str:
    """Replace x in an expression by `text`. Add parentheses where they are needed."""
    if expression == "x":
        return text
    inner = f"({text})" if is_joined(text) else text
    return _X.sub(lambda match: f"({text})" if match[0] == "(x)" else inner, expression)


def is_joined(text: str, signs: str = "+-×/") -> bool:
    """Return True if the text contains one of the signs outside parentheses."""
    while (bare := _INNERMOST.sub("", text)) != text:
        text = bare
    return any(f" {sign} " in text for sign in signs)


_X, _INNERMOST = re.compile(r"\(x\)|\bx\b"), re.compile(r"\([^()]*\)|\[[^]]*\]")


def less(function: Function, value: float | Array) -> Function:
    """Return the function x -> function(x - value). `value` may be an array with a number for each x."""
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
ABOVE_ZERO = Function("(x > 0)", lambda x: np.where(x > 0, 1.0, 0.0), "1 if x is above 0, else 0")
MINUS_LOG = Function("-log(x)", lambda x: -np.log(x))
INVERSE = Function("1/x", lambda x: 1 / x)


def mean_of(n: int) -> Function:
    """Return the function x/n. In a sum of n terms, the function computes a mean."""
    return Function(f"x/{n}", lambda x: x / n)

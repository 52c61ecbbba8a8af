"""Steps from numbers: sums of products of which the largest terms are written out. Knows no events."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..arrays.stats import Array
from .steps import Factor, Origin, Step, Term, element_name

_PLAIN_EXPONENT = 300.0  # exp of what is smaller needs no maximum subtracted in float64


class Function(NamedTuple):
    """What is done with a product of factors, as an expression in x and as it is worked out."""

    text: str
    of: Callable[[Any], Any]


class Operand(NamedTuple):
    """One factor of every term of a sum: its values [n], and how each is called."""

    values: Array
    name: Callable[[int], str]
    kind: Origin = "forward"

    def factor(self, i: int) -> Factor:
        return Factor(self.name(i), float(self.values[i]), self.kind)


def elements(
    values: Array, name: str, place: Callable[[int], tuple[int, ...]], kind: Origin = "forward"
) -> Operand:
    """An operand of elements of an event or a parameter, `place` giving the index of each."""
    return Operand(values, lambda i: element_name(name, place(i)), kind)


IDENTITY = Function("", lambda x: x)


@np.errstate(all="ignore")
def total(
    label: str, operands: Sequence[Operand], most: int, function: Function = IDENTITY,
    extra: Sequence[Factor] = (), label_of: Callable[[int], str] = lambda i: "",
) -> Step:  # fmt: skip
    """The sum of the products of the operands, or of a function of each, and of further numbers; its
    `most` largest terms are written out, in their own order where that is all of them. `label_of` gives
    the token that a term stands for."""
    products = np.prod([operand.values for operand in operands], axis=0)
    values = np.append(function.of(products), [factor.value for factor in extra])
    order: list[int] = np.argsort(-_magnitudes(values), kind="stable")[:most].tolist()
    shown = sorted(order) if len(order) == len(values) else order
    others = np.delete(values, shown)

    def term(i: int) -> Term:
        if i >= len(products):
            return Term((extra[i - len(products)],), float(values[i]))
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
def product(label: str, *factors: Factor, function: Function = IDENTITY) -> Step:
    """One product, or a function of it, as a step."""
    value = float(function.of(np.prod([factor.value for factor in factors])))
    return Step(label, (Term(factors, value, function.text),), 1, 0.0, value, abs(value))


@np.errstate(all="ignore")
def sum_of(label: str, *parts: Sequence[Factor]) -> Step:
    """A few products of their own, added up and all written out."""
    terms = tuple(Term(tuple(part), float(np.prod([f.value for f in part]))) for part in parts)
    values = np.array([term.value for term in terms])
    return Step(label, terms, len(terms), 0.0, _sum(values), _sum(np.abs(values)))


def result(step: Step) -> Factor:
    """A step's value as a factor of a later one."""
    return Factor(step.label, step.value)


def mean_square(label: str, operand: Operand, most: int) -> Step:
    n = len(operand.values)
    return total(label, [operand], most, Function(f"x*x/{n}", lambda x: x * x / n))


def root(label: str, of: Step, eps: float) -> Step:
    """sqrt(value + eps)"""
    return product(label, result(of), function=Function(f"sqrt(x + {eps:.6g})", lambda x: np.sqrt(x + eps)))


def minus(step: Step) -> Factor:
    return Factor(f"-({step.label})", -step.value)


def nothing(label: str) -> Step:
    """A result that is 0 because nothing is added up."""
    return Step(label, (), 0, 0.0, 0.0, 0.0)


def reciprocal(step: Step) -> Factor:
    with np.errstate(all="ignore"):
        return Factor(f"1/{step.label}", float(np.divide(1.0, step.value)))


def exponential(values: Array) -> Function:
    """exp, of x less the largest value where it would overflow without."""
    largest = float(values.max()) if values.size else 0.0
    if abs(largest) < _PLAIN_EXPONENT and not values.min(initial=0.0) < -_PLAIN_EXPONENT:
        return Function("exp(x)", np.exp)
    return Function(f"exp({x_less(largest)})", lambda x: np.exp(x - largest))


def x_less(value: float) -> str:
    """x less a number, as an expression."""
    return f"x - {value!r}" if value >= 0 else f"x + {-value!r}"


SIGMOID = Function("1/(1 + exp(-x))", lambda x: 1 / (1 + np.exp(-x)))
RELU = Function("max(x, 0)", lambda x: np.maximum(x, 0))
ABOVE_ZERO = Function("(x > 0)", lambda x: np.where(x > 0, 1.0, 0.0))
MINUS_LOG = Function("-log(x)", lambda x: -np.log(x))

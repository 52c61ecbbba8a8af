"""xIELU: an activation with two learned numbers, which the kind Activation uses.

Huang and Schlag, "Deriving Activation Functions Using Integration" (2024): a x^2 + x/2 above 0, and
b (exp(x) - 1 - x) + x/2 elsewhere, where a = softplus(alpha_p) and b = 1/2 + softplus(alpha_n).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..arrays.stats import Array
from ..formulas.formula import Constant, ElementAt, Formula, Over, PlaceAlong, ResultOf, Setting, StepOf
from ..formulas.formula import TermOf as Term
from ..formulas.steps import SIGMOID, Function, X
from ..plans.kinds import Activation
from ..plans.plan import Operation

SOFTPLUS = Function("log(1 + exp(x))", lambda x: np.logaddexp(0, x))
_BELOW = "(exp(min(x, -1e-06)) - 1 - x)*(1 - (x > 0))"  # exp reads no number between -1e-6 and 0
_SLOPE = "(exp(min(x, 0))*(-1e-06 > x) - 1)*(1 - (x > 0))"
PARTS = (  # a and b multiply these functions of x
    Function("max(x, 0)**2", lambda x: np.square(np.maximum(x, 0))),
    Function(_BELOW, lambda x: np.where(x > 0, 0, np.expm1(np.minimum(x, -1e-6)) - x), beside=X),
)
SLOPES = (
    Function("2*max(x, 0)", lambda x: 2 * np.maximum(x, 0)),
    Function(_SLOPE, lambda x: np.where(x > 0, 0, np.where(x < -1e-6, np.expm1(np.minimum(x, 0)), -1))),
)
_HALF, _ALONE = Constant("0.5", (0.5,)), (PlaceAlong((), 0),)  # the index of a learned number


def mixed(parts: Sequence[Function], x: Array, alpha_p: Array, alpha_n: Array) -> Array:
    """Return a times the first function of x, plus b times the second."""
    mixture = SOFTPLUS.of(alpha_p) * parts[0].of(x) + (0.5 + SOFTPLUS.of(alpha_n)) * parts[1].of(x)
    return np.asarray(mixture, x.dtype)


def gradients(dy: Array, x: Array, *learned: Array) -> list[Array]:
    """Return the gradients of the learned numbers: [1] each"""
    both = zip(PARTS, learned, strict=True)
    return [(dy * part.of(x)).sum().reshape(1) * SIGMOID.of(own) for part, own in both]


def reference(x: Array, alpha_p: Array, alpha_n: Array) -> Array:
    """Compute xIELU in float64."""
    a, b = (np.log1p(np.exp(-np.abs(own))) + np.maximum(own, 0) for own in (alpha_p, alpha_n))
    return np.where(x > 0, a * x * x, (b + 0.5) * (np.expm1(np.minimum(x, -1e-6)) - x)) + 0.5 * x


def steps(kind: Activation, x: ElementAt, of: Sequence[Function], *rest: ElementAt) -> tuple[StepOf, ...]:
    """Return the steps of a * of[0](x) + b * of[1](x) + 1/2, where 1/2 is multiplied by `rest`."""
    a, b = (Term((ElementAt(name, _ALONE),), function=SOFTPLUS) for name in kind.learned)
    labels = zip(of, ("part above 0", "part below 0"), strict=True)
    above, below = (StepOf((Term((x,), function=own),), label) for own, label in labels)
    last = StepOf(
        (*(Term((ResultOf(n), ResultOf(n + 2))) for n in (0, 1)), Term((_HALF, *rest))),
        "" if rest else "slope",
    )
    return StepOf((a,), "a"), StepOf((Term((_HALF,)), b), "b"), above, below, last


def parameter_formula(name: str, row: Operation, kind: Activation, setting: Setting) -> Formula:
    """Describe the gradient of alpha_p or alpha_n: sigmoid(alpha) times the sum of dy times the part of x."""
    over, part = tuple(map(Over, setting.shapes[row.name])), PARTS[kind.learned.index(name)]
    at, alpha = tuple(range(1, 1 + len(over))), ElementAt(name, _ALONE)
    steps = (
        StepOf((Term((ElementAt(row.inputs[0], at),), over, part),), "part of x", along=over),
        StepOf((Term((ElementAt(row.name, at, "backward"), ResultOf(0)), over),), "sum of dy × part"),
        StepOf((Term((alpha,), function=SIGMOID),), "sigmoid"),
        StepOf((Term((ResultOf(1), ResultOf(2))),)),
    )
    return Formula((1,), steps)

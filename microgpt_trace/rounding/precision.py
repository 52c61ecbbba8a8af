"""The precisions that engines compute in: what they round, and how far that moves a row or an element.

What the checks of a trace allow stands in `invariants`. Shape letters: R rows of an event.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..architecture.operations.spread import Spread
from ..arrays.rounding import to_bf16, to_f16, to_q8
from ..arrays.stats import Array
from ..errors import InputError

# Roundings of an operation in float32, the engine's and ours, of exp and 1/sqrt by polynomials too. A sum of
# K terms has 2 sqrt(K) more, and of terms that may be equal K, for equal roundings do not cancel.
ROUNDINGS = 16.0
VANISHING = 128.0  # times the least normal number: of SiLU e^-x is infinite before x*e^x is nothing


@dataclass(frozen=True)
class Precision:
    """How an engine computes: what it rounds, in words, and how.

    `unit` is the largest relative error of one rounding. Where it is `narrow` every value is rounded to 16
    bits, and sums are float32. With `into_products` values are rounded only on their way into a product, in
    blocks whose size `round` takes too, and all else is float32.
    """

    name: str
    words: str
    round: Callable[..., Array]
    unit: float
    narrow: bool = False
    into_products: bool = False

    @property
    def coarse(self) -> bool:
        """Whether something is rounded further than to float32."""
        return self.narrow or self.into_products


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("f32", "float32", lambda x: np.asarray(x, np.float32), 2.0**-24),
        Precision("bf16", "every value rounded to bfloat16", to_bf16, 2.0**-8, narrow=True),
        Precision("f16", "every value rounded to float16", to_f16, 2.0**-11, narrow=True),
        Precision("q8", "8-bit blocks go into the products", to_q8, 2.0**-24, into_products=True),
    )
}
NARROW = {"bf16": "bfloat16", "f16": "float16"}
# The root mean square of a row's error, in units. One rounding leaves 0.4, six leave 1. After RoPE it is 2,
# whose frequencies, sines and cosines may be rounded too. In attention weights and probabilities two numbers
# may be most of a row and stray alike: there it is 3, and in float32 three times that of other operations.
USUAL, TURNED, PEAKED = 1.0, 2.0, 3.0
CHANCE = 5.0  # standard deviations that chance may bring
SAMPLED = 12  # events whose bits are looked at
ENOUGH = 16  # numbers that tell a precision


class Found(NamedTuple):
    """The precision that an engine computes in, and how that is known."""

    precision: Precision
    how: str


def precision_named(compute: str) -> Precision:
    """Raises InputError for a name that is none."""
    if compute not in PRECISIONS:
        raise InputError(f"compute: expected one of {', '.join(PRECISIONS)}, found {compute!r}")
    return PRECISIONS[compute]


def precision_of(compute: str | None, values: Mapping[str, Array]) -> Found:
    """The precision that was named, or that the bits of the values show.

    The embedding is left out: it is a copy of weights, which may be bf16 whatever computes.
    """
    if compute is not None:
        return Found(precision_named(compute), "as given")
    names = [name for name in values if not name.startswith("embed.")]
    sample = names[:: max(1, len(names) // SAMPLED)][:SAMPLED]
    for kind, words in NARROW.items():
        told = [fit for name in sample if (fit := representable(values[name], kind)) is not None]
        if told and sum(told) * 2 > len(told):
            how = f"every value of {sum(told)} events of {len(told)} looked at is a {words}"
            return Found(PRECISIONS[kind], how)
    return Found(PRECISIONS["f32"], f"values of {len(sample)} events looked at need float32")


def representable(array: Array, kind: str) -> bool | None:
    """Whether a narrow type holds every finite number of an array; None where there are too few to tell."""
    numbers = np.asarray(array, np.float64).ravel()
    numbers = numbers[np.isfinite(numbers) & (numbers != 0) & (np.abs(numbers) != 1)]
    if numbers.size < ENOUGH:
        return None
    return bool((PRECISIONS[kind].round(numbers) == numbers).all())


def roundings(spread: Spread, length: int) -> float:
    """How many roundings move an output of float32, over T positions."""
    angles = 2 * length if spread.angles else 0  # position * frequency is rounded, to a unit of itself
    return ROUNDINGS + 2 * math.sqrt(spread.terms) + angles


def row_error(precision: Precision, spread: Spread, length: int) -> float:
    """What an operation's rows may err relative to themselves where nothing cancels, over T positions; of
    narrow types in the root mean square."""
    if precision.narrow or (precision.into_products and spread.halves):
        usual = TURNED if spread.angles else PEAKED if spread.peaked else USUAL
        return usual * (precision if precision.narrow else PRECISIONS["f16"]).unit
    return roundings(spread, length) * precision.unit * (PEAKED if spread.peaked else 1)


def factor_error(precision: Precision, spread: Spread, rows: int) -> float:
    """What a factor of the rows may be rounded by: of one row by a whole unit, of several by half of one in
    their mean, for it may be the same number in all."""
    return precision.unit * max(0.5, rows**-0.5) if spread.factor and precision.narrow else 0.0


def beyond_usual(concentration: Array) -> Array:
    """How many times its root mean square a row's error may be, [R], of rows whose squares are
    concentrated so: sum x^4 / (sum x^2)^2, which is 1 where one element is the whole row."""
    return np.sqrt(1 + CHANCE * np.sqrt(2 * concentration))


def chain_error(errors: Sequence[float]) -> float:
    """The errors of several operations one after the other, which are independent."""
    return math.sqrt(math.fsum(error * error for error in errors))


def element_bound(size: Array, spread: Spread, length: int, dtype: np.dtype[np.floating]) -> Array:
    """How far the roundings of a computation in that type may move elements, whose roundings are relative to
    `size`."""
    known, units = np.finfo(dtype), roundings(spread, length) + (spread.terms if spread.alike else 0)
    return size * (units * float(known.eps) / 2) + VANISHING * float(known.tiny)

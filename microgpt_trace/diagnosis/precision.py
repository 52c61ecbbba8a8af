"""How far a right operation may lie from ours: the roundings of float32 and of coarser engines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..architecture.operations.rounding import Spread
from ..arrays.rounding import to_bf16, to_f16
from ..arrays.stats import Array
from ..errors import InputError


@dataclass(frozen=True)
class Precision:
    """How an engine computes.

    `unit` is the largest relative error of one rounding, `roundings` how many of them an operation may
    have. Where `exact_sums` is False the sum of K products has rounding errors that grow with sqrt(K).
    Where `rounds_inputs`, what goes into a product is rounded in a way of its own (`product_inputs`).
    """

    name: str
    unit: float
    roundings: float
    exact_sums: bool = True
    rounds_inputs: bool = False


# One rounding moves a row by 0.4 units (rms). The numbers are at least 1.1 times what PyTorch's right runs
# of SmolLM2 need (eager attention weights in f16; eager and sdpa, five prompts). float32: 16 units, for the
# engine's roundings and ours, of exp and 1/sqrt by polynomials too. bf16 and f16: 3 units, sums being
# float32 there. q8: float32, but for the inputs of products, and what such engines keep as f16.
PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("f32", 2.0**-24, 16.0, exact_sums=False),
        Precision("f16", 2.0**-11, 3.0),
        Precision("bf16", 2.0**-8, 3.0),
        Precision("q8", 2.0**-24, 16.0, exact_sums=False, rounds_inputs=True),
    )
}
HALVES: dict[str, tuple[str, Callable[[Array], Array]]] = {  # in words, and how they round
    "bf16": ("bfloat16", to_bf16),
    "f16": ("float16", to_f16),
}
PEAKED = 3.0  # of weights and probabilities: a row may be two numbers that stray alike
SAMPLED = 12  # events whose bits are looked at
ENOUGH = 16  # numbers that tell a precision


class Found(NamedTuple):
    """The precision that an engine computes in, and how that is known."""

    precision: Precision
    how: str


def precision_of(compute: str | None, values: Mapping[str, Array]) -> Found:
    """The precision that was named, or that the bits of the values show.

    The embedding is left out: it is a copy of weights, which may be bf16 whatever computes.
    """
    if compute is not None:
        if compute not in PRECISIONS:
            raise InputError(f"compute: expected one of {', '.join(PRECISIONS)}, found {compute!r}")
        return Found(PRECISIONS[compute], "as given")
    names = [name for name in values if not name.startswith("embed.")]
    sample = names[:: max(1, len(names) // SAMPLED)][:SAMPLED]
    for kind, (words, rounded) in HALVES.items():
        fits = [representable(values[name], rounded) for name in sample]
        told = [fit for fit in fits if fit is not None]
        if told and sum(told) * 2 > len(told):
            how = f"every value of {sum(told)} events of {len(told)} looked at is a {words}"
            return Found(PRECISIONS[kind], how)
    return Found(PRECISIONS["f32"], f"values of {len(sample)} events looked at need float32")


def representable(array: Array, rounded: Callable[[Array], Array]) -> bool | None:
    """Whether a rounding leaves every finite number of an array as it is; None where there are too few."""
    numbers = np.asarray(array, np.float64).ravel()
    numbers = numbers[np.isfinite(numbers) & (numbers != 0) & (np.abs(numbers) != 1)]
    if numbers.size < ENOUGH:
        return None
    return bool((rounded(numbers) == numbers).all())


def floor_of(precision: Precision, spread: Spread, length: int) -> float:
    """What an operation's rows may err relative to themselves where nothing cancels, over T positions."""
    if precision.rounds_inputs and spread.halves:
        precision = PRECISIONS["f16"]
    units = precision.roundings
    if not precision.exact_sums:
        units += 2 * math.sqrt(spread.terms)
        if spread.angles:
            units += 2 * length  # the angle position * frequency is rounded, to a unit of itself
    return units * precision.unit * (PEAKED if spread.peaked else 1)


def chain_floor(floors: Sequence[float]) -> float:
    """The errors of several operations one after the other, which are independent."""
    return math.sqrt(math.fsum(f * f for f in floors))

"""How engines of lower precision compute: what they round, and where."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays.rounding import BLOCK, WIDE_BLOCK, to_bf16, to_f16, to_q8
from ..arrays.stats import Array

OF_WIDE_BLOCKS = tuple(f"Q{bits}_K" for bits in (2, 3, 4, 5, 6))  # whose products take inputs of Q8_K


@dataclass(frozen=True)
class Compute:
    """How an engine computes: how it rounds, where, and the largest relative error of one rounding.

    With `into_products` values are rounded only on their way into a product, in blocks whose size `round`
    takes too; else every event's own value is rounded.
    """

    name: str
    words: str
    round: Callable[..., Array]
    unit: float
    into_products: bool = False


COMPUTES = {
    "bf16": Compute("bf16", "every value rounded to bfloat16", to_bf16, 2**-8),
    "f16": Compute("f16", "every value rounded to float16", to_f16, 2**-11),
    "q8": Compute("q8", "8-bit blocks go into the products", to_q8, 2**-8, into_products=True),
}


def block_of(type: str) -> int:
    """How many elements of the input share a scale in a product with a matrix of this stored type."""
    return WIDE_BLOCK if type in OF_WIDE_BLOCKS else BLOCK


def on_other_grids(
    value: Array, compute: Compute, name: str, numbers: Sequence[int], block: int = BLOCK
) -> Array:
    """[n, ..., K] rounded as `compute` says, each of the n on a grid of its number's, of another spacing.

    Grid 0 is the usual one. Equal elements have equal errors, as in an engine: all have one spacing, or,
    where blocks share a scale and one spacing for all changes nothing, all of a channel have.
    """
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    widths = value.shape[-1] if compute.into_products else 1
    spacing = np.exp2(rng.random((max(numbers) + 1, widths)) - 1).astype(np.float32)
    spacing[0] = 1
    spacing = spacing[list(numbers)].reshape(len(numbers), *[1] * (value.ndim - 2), widths)
    rounded = (
        compute.round(value * spacing, block) if compute.into_products else compute.round(value * spacing)
    )
    return rounded / spacing


def looks_rounded(value: Array) -> set[str]:
    """The narrower types ("bf16", "f16") that hold every element exactly."""
    with np.errstate(all="ignore"):
        return {name for name in ("bf16", "f16") if np.array_equal(COMPUTES[name].round(value), value)}

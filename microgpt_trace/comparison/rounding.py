"""What an engine of lower precision does to a value: the roundings of bf16, f16 and 8-bit blocks."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ..arrays.stats import Array

BLOCK, WIDE_BLOCK = 32, 256  # elements of Q8_0 that share a scale, and of Q8_K
OF_WIDE_BLOCKS = tuple(f"Q{bits}_K" for bits in (2, 3, 4, 5, 6))  # whose products take inputs of Q8_K


@dataclass(frozen=True)
class Compute:
    """How an engine computes: how it rounds, where, and the largest relative error of one rounding.

    `inputs` are the events that are rounded only on their way into a product, in blocks whose size `round`
    takes too; empty: every event's own value is rounded.
    """

    name: str
    words: str
    round: Callable[..., Array]
    unit: float
    inputs: tuple[str, ...] = ()


def to_bf16(x: Array) -> Array:
    """The nearest bfloat16, ties to even, as float32: 8 of the 24 bits of a fraction remain."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isfinite(x), rounded.view(np.float32).reshape(x.shape), x).astype(np.float32)


def to_f16(x: Array) -> Array:
    """The nearest float16 as float32, infinite above 65,504."""
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32).astype(np.float16).astype(np.float32)


def q8_blocks(x: Array, block: int = BLOCK, nudge: float = 0.0) -> tuple[Array, Array]:
    """Blocks along the rows as integers within 127 of 0, and a scale each: [..., K] -> [..., n, block],
    [..., n, 1] float32. The last block is filled up with zeros. `nudge` moves what lies between two
    integers up (or down) by that share of it."""
    width = x.shape[-1]
    padded = np.zeros((*x.shape[:-1], -(-width // block) * block), np.float32)
    padded[..., :width] = x
    blocks = padded.reshape(*x.shape[:-1], -1, block)
    scale = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, np.rint(blocks / scale * np.float32(1 + nudge)), 0), scale


def to_q8(x: Array, block: int = BLOCK, half: bool = False, nudge: float = 0.0) -> Array:
    """Blocks along the rows as 8-bit integers with a scale each, as engines for quantised weights round
    what goes into a product: [..., K] -> [..., K]. With `half` the scale is kept in float16; `nudge` as in
    `q8_blocks`."""
    quants, scale = q8_blocks(x, block, nudge)
    back = quants * (to_f16(scale) if half else scale)
    return back.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]].astype(np.float32)


INTO_PRODUCTS = (
    "layer*.attn.norm", "layer*.attn.context", "layer*.mlp.norm", "layer*.mlp.hidden", "final.norm",
)  # fmt: skip
INTO_PRODUCTS_OF_MICROGPT = ("layer*.attn.norm", "layer*.attn.context", "layer*.mlp.norm", "layer*.mlp.act")
COMPUTES = {
    "bf16": Compute("bf16", "every value rounded to bfloat16", to_bf16, 2**-8),
    "f16": Compute("f16", "every value rounded to float16", to_f16, 2**-11),
    "q8": Compute("q8", "8-bit blocks go into the products", to_q8, 2**-8, INTO_PRODUCTS),
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
    widths = value.shape[-1] if compute.inputs else 1
    spacing = np.exp2(rng.random((max(numbers) + 1, widths)) - 1).astype(np.float32)
    spacing[0] = 1
    spacing = spacing[list(numbers)].reshape(len(numbers), *[1] * (value.ndim - 2), widths)
    rounded = compute.round(value * spacing, block) if compute.inputs else compute.round(value * spacing)
    return rounded / spacing


def looks_rounded(value: Array) -> set[str]:
    """The narrower types ("bf16", "f16") that hold every element exactly."""
    with np.errstate(all="ignore"):
        return {name for name in ("bf16", "f16") if np.array_equal(COMPUTES[name].round(value), value)}

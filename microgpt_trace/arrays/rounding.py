"""The roundings of bf16, f16 and 8-bit blocks."""

from __future__ import annotations

import numpy as np

from .stats import Array

BLOCK, WIDE_BLOCK = 32, 256  # elements of Q8_0 that share a scale, and of Q8_K


def to_bf16(x: Array) -> Array:
    """The nearest bfloat16, ties to even, as float32: 8 of the 24 bits of a fraction remain."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) & np.uint32(0xFFFF0000)
    return np.where(np.isfinite(x), rounded.view(np.float32).reshape(x.shape), x).astype(np.float32)


def to_f16(x: Array) -> Array:
    """The nearest float16 as float32, infinite above 65,504."""
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32).astype(np.float16).astype(np.float32)


def q8_blocks(x: Array, block: int = BLOCK, nudge: float = 0.0, early: bool = False) -> tuple[Array, Array]:
    """Blocks along the rows as integers within 127 of 0, and a scale each: [..., K] -> [..., n, block],
    [..., n, 1] float32. The last block is filled up with zeros. `nudge` moves what lies between two
    integers up (or down) by that share of it. With `early` a scale becomes float16 before it divides."""
    width = x.shape[-1]
    padded = np.zeros((*x.shape[:-1], -(-width // block) * block), np.float32)
    padded[..., :width] = x
    blocks = padded.reshape(*x.shape[:-1], -1, block)
    scale = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
    scale = to_f16(scale) if early else scale
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, np.rint(blocks / scale * np.float32(1 + nudge)).clip(-127, 127), 0), scale


def to_q8(x: Array, block: int = BLOCK, half: bool = False, nudge: float = 0.0, early: bool = False) -> Array:
    """Blocks along the rows as 8-bit integers with a scale each, as engines for quantised weights round
    what goes into a product: [..., K] -> [..., K]. With `half` the scale is kept in float16; `nudge` and
    `early` as in `q8_blocks`."""
    quants, scale = q8_blocks(x, block, nudge, early)
    back = quants * (to_f16(scale) if half else scale)
    return back.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]].astype(np.float32)

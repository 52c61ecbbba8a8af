"""Round numbers to bf16, f16 and 8-bit blocks."""

from __future__ import annotations

import numpy as np

from .stats import Array

BLOCK, WIDE_BLOCK = 32, 256  # number of elements that share a scale, in Q8_0 and in Q8_K


def without_bits(x: Array, bits: int) -> Array:
    """Round x to the nearest float32 whose last `bits` bits are 0, ties to even. 24 - `bits` significant bits
    remain: 8 of a bfloat16 if `bits` is 16, and 11 of a TF32 number if `bits` is 13."""
    stored, last = np.ascontiguousarray(x, np.float32).view(np.uint32), np.uint32(bits)
    half = np.uint32((1 << (bits - 1)) - 1)
    rounded = (stored + half + (stored >> last & np.uint32(1))) >> last << last
    return np.where(np.isfinite(x), rounded.view(np.float32).reshape(np.shape(x)), x).astype(np.float32)


def to_bf16(x: Array) -> Array:
    """Round x to the nearest bfloat16, ties to even, and return the result as float32."""
    return without_bits(x, 16)


def to_f16(x: Array) -> Array:
    """Round x to the nearest float16 and return the result as float32. Numbers too large for float16 become
    infinite."""
    with np.errstate(over="ignore"):
        return np.asarray(x, np.float32).astype(np.float16).astype(np.float32)


def q8_blocks(x: Array, block: int = BLOCK, nudge: float = 0.0, early: bool = False) -> tuple[Array, Array]:
    """Round the blocks of each row to integers from -127 to 127, and return the integers and the blocks'
    scales: [..., K] -> [..., n, block], [..., n, 1] float32. Zeros fill up the last block. Numbers are
    multiplied by 1 + `nudge` before rounding. If `early` is set, scales are rounded to float16 before numbers
    are divided by the scales."""
    width = x.shape[-1]
    padded = np.zeros((*x.shape[:-1], -(-width // block) * block), np.float32)
    padded[..., :width] = x
    blocks = padded.reshape(*x.shape[:-1], -1, block)
    scale = np.abs(blocks).max(axis=-1, keepdims=True) / np.float32(127)
    scale = to_f16(scale) if early else scale
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(scale > 0, np.rint(blocks / scale * np.float32(1 + nudge)).clip(-127, 127), 0), scale


def to_q8(x: Array, block: int = BLOCK, half: bool = False, nudge: float = 0.0, early: bool = False) -> Array:
    """Round the blocks of each row to 8-bit integers times a scale: [..., K] -> [..., K]. Engines for
    quantised weights round the input of a product as this function does. If `half` is set, the scale is
    rounded to float16. `q8_blocks` explains `nudge` and `early`."""
    quants, scale = q8_blocks(x, block, nudge, early)
    rounded = quants * (to_f16(scale) if half else scale)
    return rounded.reshape(*x.shape[:-1], -1)[..., : x.shape[-1]].astype(np.float32)

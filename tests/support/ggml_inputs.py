"""The 8-bit inputs of ggml's CPU engine for products with a quantised matrix: Q8_0, Q8_1, Q8_K.

"divided" is Q8_0 in engines that divide by the float16 scale. Each row is cut into blocks of 8-bit integers
and a scale. Q8_1 also has the sum of a block, in float16, for the minima of Q4_1 and Q5_1. Imports nothing
from the package.
"""

import numpy as np
from support.tiny_models import Blocks

SIZES = {"Q8_0": 32, "Q8_1": 32, "Q8_K": 256, "divided": 32}
_MINIMA = {"Q4_1": 20, "Q5_1": 24}  # bytes of a block. Its second float16 is the minimum.


def _as_float16(x):
    return x.astype(np.float16).astype(np.float32)


def quantise(x, kind):
    """Return (scales [T, n], integers [T, n, size]) of float32 rows [T, K]. Zeros pad the last block."""
    size = SIZES[kind]
    blocks = np.zeros((len(x), -(-x.shape[1] // size) * size), np.float32)
    blocks[:, : x.shape[1]] = x
    blocks = blocks.reshape(len(x), -1, size)
    peak = np.abs(blocks).max(-1)
    d = peak / np.float32(127)
    if kind == "divided":  # the stored scale may be a little smaller, so integers are clipped to 127
        d = _as_float16(d)
        return d, np.clip(np.rint(blocks / np.where(d > 0, d, np.inf)[..., None]), -127, 127)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        per = np.where(d > 0, np.float32(1) / d, 0).astype(np.float32)
        if kind == "Q8_K":  # the scale has the sign of the element with the largest magnitude
            signed = np.take_along_axis(blocks, np.abs(blocks).argmax(-1)[..., None], -1)[..., 0]
            per = np.where(signed != 0, np.float32(-127) / signed, 0).astype(np.float32)
            d = np.where(per != 0, np.float32(1) / per, 0).astype(np.float32)
        scaled = blocks * per[..., None]
    if kind == "Q8_K":
        return d, np.minimum(127, np.rint(scaled))
    return d, np.copysign(np.floor(np.abs(scaled) + np.float32(0.5)), scaled)  # half away from zero


class EightBit:
    """Products as ggml computes them, with inputs in 8-bit blocks. The sums of Q8_1 are multiplied by the
    minima of the matrix."""

    def __init__(self, kind, weights):
        self.kind = kind
        self.minima = {n: minima_of(w) for n, w in weights.items() if isinstance(w, Blocks)}

    def product(self, x, matrix, name):  # [T, K], [out, K] -> [T, out] float64
        d, q = quantise(x.astype(np.float32), self.kind)
        stored = d if self.kind == "Q8_K" else _as_float16(d)
        back = (stored[..., None] * q).reshape(len(x), -1)[:, : x.shape[1]].astype(np.float64)
        minima = self.minima.get(name)
        if self.kind != "Q8_1" or minima is None or len(minima) != len(matrix):
            return back @ matrix.T
        sums = _as_float16(d * q.sum(-1).astype(np.float32)).astype(np.float64)
        return back @ (matrix - np.repeat(minima, SIZES[self.kind], 1)).T + sums @ minima.T


def minima_of(blocks):
    """Return the minimum of each block of 32 of a Q4_1 or Q5_1 matrix, [out, n], or None for other types."""
    size = _MINIMA.get(blocks.type)
    if size is None:
        return None
    raw = blocks.rows.reshape(len(blocks.rows), -1, size)
    return raw[:, :, 2:4].copy().view(np.float16)[..., 0].astype(np.float64)

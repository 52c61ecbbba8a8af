"""How a page holds an array: every number of it, those of the last position alone, or a picture in bytes that
shows none but those. Knows no event."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...arrays.stats import Array

THUMB = 64  # queries and keys of a picture of a longer text
Form = Literal["exact", "shares", "thumbs", "last"]

# Characters that an element takes in a page, as measured on SmolLM2: float32 and bytes, deflated, as base64.
SIZES = {"exact": 4.6, "shares": 1.05, "thumbs": 1.1}


@dataclass(frozen=True, eq=False, repr=False)
class Held:
    """An array as it is held: `numbers` are float32, or the bytes of a picture; `picture` says how these are
    read. The `last` position of a picture is there in full: [C], or of attention [H, T]."""

    numbers: Array
    picture: dict[str, Any] | None = None
    last: Array | None = None


def cost(form: Form, shape: Sequence[int]) -> float:
    """About how many characters of a page an array takes."""
    if form == "exact":
        return SIZES[form] * math.prod(shape)
    last = SIZES["exact"] * math.prod(shape) / shape[-2 if len(shape) == 3 else 0]
    if form == "last":
        return last
    side = shape[-1] if form == "shares" else min(THUMB, shape[-1])
    return last + SIZES[form] * shape[0] * side * (side + 1) / 2


def held(value: Array, form: Form) -> Held:
    """The array in one of the forms."""
    if form == "exact":
        return Held(np.array(value, np.float32))
    if form == "last":
        return Held(np.zeros(0, np.uint8), {"form": "last"}, _last(value))
    return _shares(value, 1 if form == "shares" else -(-value.shape[-1] // THUMB))


def _last(value: Array) -> Array:
    """What stands at the last position: [C], or of attention [H, T]"""
    return np.array(value[:, -1] if value.ndim == 3 else value[-1], np.float32)


def _shares(weights: Array, block: int) -> Held:
    """The square root of each share in 255 steps, or of the largest in a block of so many queries and keys;
    row by row up to the diagonal. What is not finite has a byte of its own: [H, T, T]"""
    heads, length, _ = weights.shape
    side = -(-length // block)
    shares = weights.astype(np.float32)
    if block > 1:
        padded = np.zeros((heads, side * block, side * block), np.float32)
        padded[:, :length, :length] = shares
        shares = padded.reshape(heads, side, block, side, block).max(axis=(2, 4))
    finite = np.isfinite(shares)
    steps = np.round(np.sqrt(np.clip(np.where(finite, shares, 0), 0, 1)) * 254).astype(np.uint8)
    steps[~finite] = 255
    below = np.tri(side, dtype=bool)
    return Held(steps[:, below].reshape(-1), {"form": "shares", "side": side, "block": block}, _last(weights))

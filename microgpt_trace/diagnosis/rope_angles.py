"""The angles that lie between a value before RoPE and after it, pair by pair."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ..arrays.stats import Array

GRID = np.geomspace(1e-4, 1e4, 241)  # a number is looked for around the model's own


class Turns(NamedTuple):
    """What turns the input into the output: radians per position of each pair, at position 0, and size."""

    turns: Array  # [T, D/2] complex
    frequencies: Array  # [D/2]
    start: Array  # [D/2]
    factor: float

    def left(self, frequencies: Array) -> Array:
        """What turns at these frequencies leave of each pair's."""
        angles = np.arange(len(self.turns))[:, None] * frequencies
        return np.square(np.abs(self.turns - self.factor * np.exp(1j * angles))).sum(axis=0)


def measure(x: Array, y: Array, dim: int, adjacent: bool) -> Turns:
    """The turns between x and y, [T, H*D] each, where T > 1."""
    a, b = _pairs(x, dim, adjacent), _pairs(y, dim, adjacent)
    turns = (b * a.conj()).sum(axis=1) / np.maximum((np.abs(a) ** 2).sum(axis=1), 1e-300)  # [T, D/2]
    turns = np.nan_to_num(turns)
    steps = np.angle((turns[1:] * turns[:-1].conj()).sum(axis=0))
    lag = 2
    while lag < len(turns):  # the farther apart two positions, the finer the angle per position
        left = turns[lag:] * turns[:-lag].conj() * np.exp(-1j * steps * lag)
        steps = steps + np.angle(left.sum(axis=0)) / lag
        lag *= 2
    back = turns * np.exp(-1j * steps * np.arange(len(turns))[:, None])
    return Turns(turns, steps, np.angle(back.sum(axis=0)), float(np.median(np.abs(turns))))


def _pairs(x: Array, dim: int, adjacent: bool) -> Array:
    """[T, H*D] -> [T, H, D/2] of complex numbers"""
    heads = x.reshape(len(x), -1, dim)
    if adjacent:
        return heads[..., ::2] + 1j * heads[..., 1::2]
    return heads[..., : dim // 2] + 1j * heads[..., dim // 2 :]


def nearest(found: Array, own: float, frequencies: Callable[[float], Array]) -> float:
    """The number of a grid around the model's own that gives frequencies nearest to those found."""
    values = [own * step for step in GRID if own * step > 1 and step != 1]

    def apart(value: float) -> float:
        with np.errstate(all="ignore"):
            return float(np.nan_to_num(np.square(frequencies(value) - found).sum(), nan=math.inf))

    return min(values, key=apart, default=own)


def common_factor(found: Array, own: Array) -> float:
    """What the slow frequencies are times the model's: those of less than half a turn in two positions."""
    slow = (np.abs(own) > 0) & (np.abs(found) < 1)
    return float(np.median(found[slow] / own[slow])) if slow.any() else 1.0


def offset_of(turns: Turns, own: Array, where: Array) -> float:
    """The offset whose turns are nearest to those at position 0."""
    apart = np.abs(np.exp(1j * where[:, None] * own) - np.exp(1j * turns.start)).sum(axis=1)
    return float(where[apart.argmin()])

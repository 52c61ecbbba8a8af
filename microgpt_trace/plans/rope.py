"""RoPE: the frequencies of channel pairs, and the rotation of the pairs. This module needs no model.

Of the n rotated channels of a head, channel j forms a pair with channel j + n/2, or in some architectures
channel 2j with channel 2j + 1.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from ..arrays.stats import Array
from ..errors import InputError
from ..text.frozen import frozen
from .config_checks import check_positive, check_whole_number

STILL = 1e30  # the divisor of the frequency of a pair that does not turn, as in GGUF files
ROPE_KINDS = ("default", "linear", "llama3", "yarn", "longrope")


@frozen(slots=False)
class Rope:
    """The settings of RoPE, which determine how fast each pair of channels turns with the position.

    `factors` contains a divisor for the frequency of each pair. A GGUF file stores the divisors of llama3
    scaling in rope_freqs. In yarn and longrope, `attention_factor` multiplies cos and sin. If it is None, the
    number follows from `factor`. In longrope, `factors` contains the divisors of texts up to
    `original_context`, and then the divisors of longer texts, which hold at all positions.
    """

    theta: float
    kind: Literal["default", "linear", "llama3", "yarn", "longrope"] = "default"
    factor: float = 1.0
    original_context: int = 0
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float | None = None  # yarn and longrope
    truncate: bool = True  # yarn: round the numbers of the first and last interpolated pair
    factors: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in ROPE_KINDS:
            raise InputError(f"RoPE scaling {self.kind!r}: expected one of {', '.join(ROPE_KINDS)}")
        for name in ("theta", "factor", "low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow"):
            check_positive(f"RoPE {name}", getattr(self, name))
        if self.kind in ("llama3", "yarn", "longrope"):
            check_whole_number("RoPE original context", self.original_context)
        if self.kind == "llama3" and self.high_freq_factor < self.low_freq_factor:
            high, low = self.high_freq_factor, self.low_freq_factor
            raise InputError(f"RoPE high_freq_factor: expected at least low_freq_factor {low}, found {high}")
        for factor in self.factors:
            check_positive("RoPE factors", factor)

    def divisors(self, length: int) -> tuple[float, ...]:
        """Return the divisors of the frequencies in a text of `length` positions, or () without divisors."""
        half = len(self.factors) // 2
        if self.kind != "longrope":
            return self.factors
        return self.factors[half:] if length > self.original_context else self.factors[:half]


def yarn_attention_factor(factor: float, scale: float = 1.0) -> float:
    """Return 0.1 scale ln(factor) + 1, or 1 if factor <= 1. By default, yarn multiplies cos and sin by this
    number.

    Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models" (2023), eq. 22. DeepSeek
    calls the scale `mscale`.
    """
    return 0.1 * scale * math.log(factor) + 1.0 if factor > 1 else 1.0


def turn(x: Array, turns: tuple[Array, Array], head_dim: int, pairs: tuple[slice, slice]) -> Array:
    """Turn the first and second channels of `pairs` of each head in x, [T, H*D], by the angles of n/2 pairs.
    The other D - n channels pass unchanged.

    Su et al., "RoFormer: Enhanced Transformer with Rotary Position Embedding" (2021).
    """
    cos, sin = turns
    heads, count = x.reshape(len(x), -1, head_dim), 2 * cos.shape[-1]
    first, second = (heads[..., own] for own in pairs)
    turned = np.empty_like(heads)
    turned[..., pairs[0]] = first * cos - second * sin
    turned[..., pairs[1]] = second * cos + first * sin
    turned[..., count:] = heads[..., count:]
    return turned.reshape(x.shape)


def rope_turns(
    rope: Rope, channels: int, positions: Array, dtype: str = "float32", length: int = 0
) -> tuple[Array, Array]:
    """Return cos and sin for every position and pair, [T, 1, n/2] each. Angles are computed in float64.
    `length` is the length of the text, if the text continues after the last of the `positions`."""
    frequencies, factor = rope_frequencies(rope, channels, max(length, int(positions.max(initial=-1)) + 1))
    angles = positions[:, None, None] * frequencies
    return (np.cos(angles) * factor).astype(dtype), (np.sin(angles) * factor).astype(dtype)


def rope_frequencies(rope: Rope, channels: int, length: int = 0) -> tuple[Array, float]:
    """Return the frequency of each pair in radians per position, [n/2], and a factor for cos and sin. In
    longrope, the frequencies depend on the `length` of the text."""
    plain = rope.theta ** -(np.arange(0, channels, 2) / channels)
    if divisors := rope.divisors(length):
        plain = plain / np.array(divisors)
    if rope.kind == "linear":
        return plain / rope.factor, 1.0
    if rope.kind == "llama3":
        return _llama3(plain, rope), 1.0
    if rope.kind == "yarn":
        derived = yarn_attention_factor(rope.factor)
        return _yarn(plain, rope, channels), rope.attention_factor or derived
    if rope.kind == "longrope":
        grown = math.log(max(rope.factor, 1.0)) / math.log(rope.original_context)
        return plain, rope.attention_factor or math.sqrt(1 + grown)  # as in Phi-3
    return plain, 1.0


def _llama3(plain: Array, rope: Rope) -> Array:
    """Divide low frequencies by `factor`, keep high frequencies, and interpolate between low and high.

    A low frequency means few turns within the original context. Meta, Llama 3.1 reference code (2024).
    """
    turns = rope.original_context * plain / (2 * math.pi)
    width = max(rope.high_freq_factor - rope.low_freq_factor, 1e-9)  # 0 in Llama 4: no frequency is between
    blend = (turns - rope.low_freq_factor) / width
    kept = np.clip(blend, 0, 1)
    return plain * (kept + (1 - kept) / rope.factor)


def _yarn(plain: Array, rope: Rope, channels: int) -> Array:
    """Divide low frequencies by `factor`, keep high frequencies, and interpolate over the pairs in between.

    Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models" (2023), sec. 3.2.
    """

    def pair_turning(times: float) -> float:
        wavelength = rope.original_context / (times * 2 * math.pi)
        return channels * math.log(wavelength) / (2 * math.log(rope.theta))

    low, high = pair_turning(rope.beta_fast), pair_turning(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, channels - 1)
    ramp = np.clip((np.arange(channels // 2) - low) / max(high - low, 0.001), 0, 1)
    return plain * (1 - ramp) + plain / rope.factor * ramp

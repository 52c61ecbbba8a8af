"""Unpack blocks of stored numbers exactly. Bytes become numbers, or integers with scales.

The layouts are ggml's (https://github.com/ggml-org/ggml), except apr_q4 and apr_q8, which .apr v2 defines. In
shapes, N is the number of blocks. A block has B bytes and S elements. R is the number of blocks side by side:
products need a block from each of R rows, and R is 1 if only the values are needed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .stats import Array


class Quants(NamedTuple):
    """Unpacked blocks. An element is d * q + m. Each run of S/k elements shares a scale d and a minimum m."""

    q: Array  # [N, S, R] int8 or uint8
    d: Array  # [N, k, R] float32
    m: Array | None = None  # [N, k, R] float32

    def runs(self) -> Array:
        """Return q divided into the runs that share d and m: [N, k, S/k, R]"""
        blocks, count, rows = self.d.shape
        return self.q.reshape(blocks, count, -1, rows)

    def values(self) -> Array:
        """Return the elements: [N, S, R] float32"""
        values = self.runs() * self.d[:, :, None]
        if self.m is not None:
            values += self.m[:, :, None]
        return values.reshape(self.q.shape)

    def centred(self, centre: int) -> Quants:
        """Return the same elements with integers around 0, so that minima are small. This method needs m, and
        overwrites q."""
        assert self.m is not None
        return Quants(_centred(self.q, centre), self.d, self.m + self.d * centre)


def widen_f16(bits: Array) -> Array:
    """Convert float16 numbers, stored as uint16 bit patterns, to float32. NaN and infinities are converted
    too. First move the bits of exponent and fraction to the places of these bits in a float32. Every number,
    even a subnormal number, is then 2**112 times too small. An exact multiplication by 2**112 corrects this.
    This conversion is 5 times as fast as NumPy's astype."""
    words = bits.view(np.int16).astype(np.int32)
    words <<= 13
    words &= -0x70002000  # = 0x8FFFE000: clear the copies of the sign bit from int16 -> int32
    values = words.view(np.float32)
    values *= np.float32(2.0**112)
    if bits.size and (bits.view(np.int16).max() >= 0x7C00 or bits.view(np.uint16).max() >= 0xFC00):
        words[np.abs(values) >= 65536] |= 0x7F800000
    return values


def u8(blocks: Array) -> Array:
    """Blocks of one byte."""
    return blocks.astype(np.float32)


def f32(blocks: Array) -> Array:
    """Blocks of one float32."""
    return blocks.view("<f4")


def f16(blocks: Array) -> Array:
    """Blocks of one float16."""
    return widen_f16(blocks.view("<u2"))


def bf16(blocks: Array) -> Array:
    """Blocks of one bfloat16, which is the upper half of a float32."""
    words = blocks.view("<u2").astype(np.uint32)
    words <<= 16
    return words.view(np.float32)


def f8_e4m3(blocks: Array) -> Array:
    """Blocks of one float8_e4m3fn: sign, 4 bits of the exponent, 3 bits of the fraction. The last code of
    each sign is NaN. Source: https://arxiv.org/abs/2209.05433"""
    exponents, fractions = np.arange(128) >> 3, np.arange(128) % 8 / 8
    positive = np.where(exponents, 1 + fractions, 2 * fractions) * 2.0 ** (exponents - 7)
    positive[-1] = np.nan
    return np.concatenate((positive, -positive)).astype(np.float32)[blocks]


def f8_e5m2(blocks: Array) -> Array:
    """Blocks of one float8_e5m2, which is the upper half of a float16."""
    return widen_f16(blocks.astype(np.uint16) << 8)


def apr_q8(blocks: Array) -> Array:
    """Blocks of one int8. The tensor has one scale for all blocks."""
    return blocks.view(np.int8).astype(np.float32)


# The quantised types. Their docstrings list the bytes (B) of a block, then the formula of an element. q is an
# integer, and the scale d and the minimum m are float16. "4-bit by 16" means integers of 4 bits in groups of
# 16 bytes: the low nibbles of a group are 16 elements, and the high nibbles the next 16. Products and sums
# are rounded in the order in which they are written.


def _integers(field: Array, bits: int, group: int) -> Array:
    """Unpack integers of `bits` bits from groups of `group` bytes: [N, n, R] -> [N, n * 8 // bits, R]"""
    blocks, size, rows = field.shape
    grouped = field.reshape(blocks, size // group, group, rows)
    parts = np.empty((blocks, size // group, 8 // bits, group, rows), np.uint8)
    for i in range(8 // bits):
        np.right_shift(grouped, np.uint8(i * bits), out=parts[:, :, i])
    parts[:, :, :-1] &= np.uint8(2**bits - 1)
    return parts.reshape(blocks, -1, rows)


def _join(low: Array, high: Array, bits: int) -> Array:
    """Return low + (high << bits), computed in place. NumPy vectorises the product, but not a left shift."""
    high *= np.uint8(1 << bits)
    low |= high
    return low


def _centred(q: Array, centre: int) -> Array:
    """Return q - centre as int8, computed in place."""
    q -= np.uint8(centre)
    return q.view(np.int8)


def _bits(field: Array) -> Array:
    """[N, 2 * k, R] bytes -> [N, k, R] uint16"""
    return field[:, 1::2] * np.uint16(256) | field[:, ::2]


def _halves(field: Array) -> tuple[Array, ...]:
    """[N, 2 * k, R] bytes of k float16 -> k times [N, 1, R] float32"""
    values = widen_f16(_bits(field))
    return tuple(values[:, i : i + 1] for i in range(values.shape[1]))


def q4_0(blocks: Array) -> Quants:
    """2 B d, 16 B q (4-bit by 16): d * (q - 8)"""
    return Quants(_centred(_integers(blocks[:, 2:], 4, 16), 8), *_halves(blocks[:, :2]))


def q4_1(blocks: Array) -> Quants:
    """2 B d, 2 B m, 16 B q (4-bit by 16): d * q + m"""
    return Quants(_integers(blocks[:, 4:], 4, 16), *_halves(blocks[:, :4]))


def q5_0(blocks: Array) -> Quants:
    """2 B d, 4 B high bits of q (1-bit by 1), 16 B low bits (4-bit by 16): d * (q - 16)"""
    q = _join(_integers(blocks[:, 6:], 4, 16), _integers(blocks[:, 2:6], 1, 1), 4)
    return Quants(_centred(q, 16), *_halves(blocks[:, :2]))


def q5_1(blocks: Array) -> Quants:
    """2 B d, 2 B m, 4 B high bits of q (1-bit by 1), 16 B low bits (4-bit by 16): d * q + m"""
    q = _join(_integers(blocks[:, 8:], 4, 16), _integers(blocks[:, 4:8], 1, 1), 4)
    return Quants(q, *_halves(blocks[:, :4]))


def q8_0(blocks: Array) -> Quants:
    """2 B d, 32 B q (int8): d * q"""
    return Quants(blocks[:, 2:].view(np.int8), *_halves(blocks[:, :2]))


def q2_k(blocks: Array) -> Quants:
    """16 B scales s and minima t (low and high nibbles), 64 B q (2-bit by 32), 2 B d, 2 B m. For each of 16
    runs of 16: (d * s) * q - m * t"""
    scales = blocks[:, :16]
    d, m = _halves(blocks[:, 80:])
    return Quants(_integers(blocks[:, 16:80], 2, 32), d * (scales & 15), -m * (scales >> 4))


def q3_k(blocks: Array) -> Quants:
    """32 B high bits of q (1-bit by 32), 64 B low bits (2-bit by 32), 12 B scales s, 2 B d. s: 8 B low bits
    (4-bit by 8), 4 B high bits (2-bit by 4). For each of 16 runs of 16: (d * (s - 32)) * (q - 4)"""
    q = _join(_integers(blocks[:, 32:96], 2, 32), _integers(blocks[:, :32], 1, 32), 2)
    s = _join(_integers(blocks[:, 96:104], 4, 8), _integers(blocks[:, 104:108], 2, 4), 4)
    (d,) = _halves(blocks[:, 108:])
    return Quants(_centred(q, 4), d * _centred(s, 32))


def _k_scales(blocks: Array) -> tuple[Array, Array]:
    """Return d * s and -m * t of Q4_K and Q5_K, from 2 B d, 2 B m, 12 B of 6-bit s and t: [N, 8, R] each. The
    12 bytes are three groups of 4. The low 6 bits of the first group are s 0-3, and the low 6 bits of the
    second group are t 0-3. The third group has the low 4 bits of s 4-7 (low nibbles) and t 4-7 (high
    nibbles). The high 2 bits of s 4-7 and t 4-7 are in the first and the second group."""
    first, second, third = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    s = np.concatenate((first & 63, third & 15 | first >> 2 & 48), axis=1)
    t = np.concatenate((second & 63, third >> 4 | second >> 2 & 48), axis=1)
    d, m = _halves(blocks[:, :4])
    return d * s, -m * t


def q4_k(blocks: Array) -> Quants:
    """2 B d, 2 B m, 12 B scales s and minima t (`_k_scales`), 128 B q (4-bit by 32). For each of 8 runs of
    32: (d * s) * q - m * t"""
    return Quants(_integers(blocks[:, 16:], 4, 32), *_k_scales(blocks))


def q5_k(blocks: Array) -> Quants:
    """2 B d, 2 B m, 12 B s and t (`_k_scales`), 32 B high bits of q (1-bit by 32), 128 B low (4-bit by 32).
    For each of 8 runs of 32: (d * s) * q - m * t"""
    q = _join(_integers(blocks[:, 48:], 4, 32), _integers(blocks[:, 16:48], 1, 32), 4)
    return Quants(q, *_k_scales(blocks))


def q6_k(blocks: Array) -> Quants:
    """128 B low bits of q (4-bit by 64), 64 B high bits (2-bit by 32), 16 B scales s (int8), 2 B d. For each
    of 16 runs of 16: (d * s) * (q - 32)"""
    q = _join(_integers(blocks[:, :128], 4, 64), _integers(blocks[:, 128:192], 2, 32), 4)
    (d,) = _halves(blocks[:, 208:])
    return Quants(_centred(q, 32), d * blocks[:, 192:208].view(np.int8))


IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)  # code book of IQ4 types
E2M1 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # code book of MXFP4: 2 times a 4-bit float


def _from_codebook(codes: Array, codebook: tuple[int, ...]) -> Array:
    """Return codebook[codes] as int8. With NumPy's take, a product would take up to 1.5 times as long."""
    table = np.array(codebook, np.int8).tobytes().ljust(256)
    return np.frombuffer(bytearray(codes).translate(table), np.int8).reshape(codes.shape)


def iq4_nl(blocks: Array, codebook: tuple[int, ...] = IQ4) -> Quants:
    """2 B d, 16 B codes c (4-bit by 16): d * codebook[c]"""
    return Quants(_from_codebook(_integers(blocks[:, 2:], 4, 16), codebook), *_halves(blocks[:, :2]))


def iq4_xs(blocks: Array, codebook: tuple[int, ...] = IQ4) -> Quants:
    """2 B d, 2 B high bits of scales s (2-bit by 1), 4 B low bits (4-bit by 1), 128 B codes c (4-bit by 16).
    For each of 8 runs of 32: (d * (s - 32)) * codebook[c]"""
    s = _join(_integers(blocks[:, 4:8], 4, 1), _integers(blocks[:, 2:4], 2, 1), 4)
    (d,) = _halves(blocks[:, :2])
    return Quants(_from_codebook(_integers(blocks[:, 8:], 4, 16), codebook), d * _centred(s, 32))


def mxfp4(blocks: Array, codebook: tuple[int, ...] = E2M1) -> Quants:
    """1 B exponent e, 16 B codes c (4-bit by 16): 2**(e - 128) * codebook[c]"""
    d = np.ldexp(np.float32(1), blocks[:, :1].astype(np.int32) - 128)
    return Quants(_from_codebook(_integers(blocks[:, 1:], 4, 16), codebook), d)


def mxfp4_blocks(blocks: Array, scales: Array) -> Array:
    """Return a matrix of gpt-oss as blocks of `mxfp4`. Hugging Face stores two tensors for this matrix: codes
    with even elements in the low nibbles, and exponents. [..., C/32, 16], [..., C/32] -> [..., C/32, 17]

    Example: `StoredTensor(name, ENCODINGS["MXFP4"], (rows, C), mxfp4_blocks(blocks, scales).reshape(-1))`.
    """
    first, last = blocks[..., :8], blocks[..., 8:]  # 16 elements each
    packed = np.empty((*scales.shape, 17), np.uint8)
    packed[..., 0] = scales
    packed[..., 1::2] = first & 15 | last << 4
    packed[..., 2::2] = first >> 4 | last & 240
    return packed


def apr_q4(blocks: Array) -> Quants:
    """2 B d, 16 B q (4-bit by 1: even elements in the low nibbles): d * (q - 8)

    A scale that is NaN, infinite or subnormal becomes 0.
    """
    bits = _bits(blocks[:, :2])
    exponents = bits & 0x7C00
    bits[(exponents == 0) | (exponents == 0x7C00)] = 0
    return Quants(_centred(_integers(blocks[:, 2:], 4, 1), 8), widen_f16(bits))

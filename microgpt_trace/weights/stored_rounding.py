"""The largest difference that rounding to stored types can cause between two tensors.

Rounding to a grid of step d leaves errors that are uniform within d/2, with an RMS of d / sqrt(12) (Widrow
and Kollar, "Quantization Noise", 2008). The steps of a grid are read from the blocks of the tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from itertools import starmap

import numpy as np

from ..arrays.encodings import Encoding, StoredTensor
from ..arrays.expert_tensor import ExpertTensor, in_pieces
from ..arrays.stats import Array
from ..text.frozen import frozen

BLOCK = 32  # elements per block; the errors of each block and of the whole tensor are checked
# Allowed error of a tensor, as a multiple of the expected error. llama.cpp's quantisers (ggml 0.13) leave 0.5
# to 1.08 times the expected error, and rounding to F16 and BF16 leaves 1.00 times.
FACTOR = 1.25
# Allowed error of a block, as a multiple of the expected error. Rounding to the nearest value leaves at most
# sqrt(3). In tests, clipping left up to 3.0 in types without K or I in their name. The other types had up to
# 8.0, because an importance matrix gave the clipped elements little weight.
_NEAREST, _CLIPPED, _OPTIMISED = 2.5, 4.0, 10.0
_BLOCK_FACTORS = {
    **dict.fromkeys(("F64", "F32", "F16", "BF16", "Q8_0", "AprQ8"), _NEAREST),
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "AprQ4", "MXFP4"), _CLIPPED),
}
# Rounding leaves the mean of a tensor nearly unchanged. With llama.cpp's quantisers, the mean error was at
# most 0.2 of the expected error, also for importance matrices and for sparse, positive or two-valued weights.
SHIFTED = 0.3
# Two quantisers of one type differ in more than the share FEW of the elements, or by at most one step. In the
# code book of MXFP4, two neighbours are up to 1.07 steps apart.
FEW, ONE_STEP = 0.01, 1.075
KINDS = 4  # fewest different pairs of integers in a rewritten run (ties or 16-bit sources cause fewer pairs)
EXACT = ("F32", "F64")
LIMIT = 1e-6  # allowed relative L2 distance of exact types, because of float32 arithmetic
_CHUNK = 1 << 17  # elements compared at a time
# The largest integer scale of a run, in types whose runs share one float16 unit. MXFP4 has no such unit.
_LARGEST_SCALE = {"Q2_K": 15, "Q3_K": 31, "Q4_K": 63, "Q5_K": 63, "Q6_K": 127, "IQ4_XS": 32, "MXFP4": 0}
_FRACTION_BITS = {"F16": 10, "BF16": 7, "F32": 23}
_LEAST_STEP = {"F16": 2.0**-24, "BF16": 2.0**-126, "F32": 2.0**-126}


def step_tensor(tensor: StoredTensor) -> StoredTensor:
    """Return a tensor with the grid step of each element of `tensor`."""
    if isinstance(tensor, ExpertTensor):
        return replace(tensor, part=lambda expert: step_tensor(tensor.of_expert(expert)))
    own = tensor.encoding
    quantised = own.name not in _FRACTION_BITS
    decode = _quantised_steps(own) if quantised else lambda blocks: float_steps(own.decode(blocks), own.name)
    return replace(tensor, encoding=replace(own, decode=decode), scale=abs(tensor.scale))


def float_steps(values: Array, type: str) -> Array:
    """Return the distance between each float32 value and the next value that its type can store."""
    powers = (np.ascontiguousarray(values, np.float32).view(np.uint32) & 0x7F800000).view(np.float32)
    return np.maximum(powers * np.float32(2.0 ** -_FRACTION_BITS[type]), np.float32(_LEAST_STEP[type]))


def _quantised_steps(encoding: Encoding) -> Callable[[Array], Array]:
    """Return a decoder for the step of each element: the scale, plus the error of the rounded scale. The
    scale may be off by half its unit, and the integers multiply this error. We assume that the integers are
    uniform over their range. If a scale was rounded to 0, the step is the error of the scale. With a code
    book, sqrt(l² - l * r + r²) multiplies the scale, for an integer with distances l and r to its neighbours.
    The error is uniform from -l/2 to r/2, and has this step's mean square."""
    unpack, size = encoding.unpack, encoding.block_size
    if unpack is None:  # AprQ8: integers times the tensor's scale
        return lambda blocks: np.ones((*blocks.shape[:-1], size), np.float32)
    largest = _LARGEST_SCALE.get(encoding.name, 1)
    book, rms = np.unique(encoding.codebook), 2 ** (8 * encoding.block_bytes // size - 1) / math.sqrt(3)
    if book.size:
        rms = math.sqrt(np.square(book).mean())
        gaps = np.pad(np.diff(book), 1, mode="edge")
        widths = np.sqrt(gaps[:-1] ** 2 - gaps[:-1] * gaps[1:] + gaps[1:] ** 2)

    def decode(blocks: Array) -> Array:
        quants = unpack(blocks[:, :, None])
        d, q = np.abs(quants.d), quants.runs()[..., 0]  # [N, k, 1], [N, k, S/k]
        unit = d.max(axis=1, keepdims=True) / (largest if largest > 1 else 1024) + largest * 2.0**-24
        distances = widths[np.searchsorted(book, q)] if book.size else 1
        steps = np.hypot(d * distances, unit * rms).astype(np.float32)
        return np.broadcast_to(steps, q.shape).reshape(len(blocks), size)

    return decode


@frozen(slots=False)
class Values:
    """The values of a parameter on one side of a comparison. `rows(start, stop)` returns the values of some
    rows, and `steps(start, stop)` returns their grid steps."""

    type: str
    shape: tuple[int, ...]
    rows: Callable[[int, int], Array]
    steps: Callable[[int, int], Array]
    tensor: StoredTensor | None = None  # the tensor in the model file, if there is one

    @classmethod
    def of(cls, tensor: StoredTensor) -> Values:
        """Return the values of a stored tensor. No bytes are read."""
        return cls(tensor.encoding.name, tensor.shape, tensor.rows, step_tensor(tensor).rows, tensor)


class QuantisationDistance:
    """The distance of b from a, computed from one piece after another. Elements that are not finite are
    counted separately. `block_factor` is the allowed error of a block as a multiple of the expected error.
    `same_type` is True if a and b have the same stored type."""

    def __init__(
        self, shape: tuple[int, ...], exact: bool, block_factor: float, same_type: bool = False
    ) -> None:
        self.shape, self.exact, self.block_factor, self.same_type = shape, exact, block_factor, same_type
        self.count = 0
        # sums of products; ee: sum of expected squared errors
        self.aa = self.bb = self.ab = self.dd = self.ee = 0.0
        self.shift = self.most_steps = 0.0  # sum of error / expected error; largest error in steps
        self.unexplained = 0.0  # sum of squared errors, less the allowed squared errors, in other blocks
        self.max_abs, self.worst_block = 0.0, 0.0
        self.values = (0.0, 0.0)
        self.at = self.block_at = 0  # flat indices
        self.unequal = self.nonfinite = self.blocks_off = self.nowhere = self.rewritten = 0

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> QuantisationDistance:
        """Return the distance of a parameter from itself, whose values are not read."""
        distance = cls(shape, exact=True, block_factor=1.0)
        distance.aa = distance.bb = distance.ab = 1.0
        distance.count = math.prod(shape)
        return distance

    @property
    def relative_l2(self) -> float:
        """|b - a| / |a|, or 0 if nothing differs."""
        return 0.0 if self.dd == 0 else math.sqrt(self.dd / self.aa) if self.aa else math.inf

    @property
    def expected(self) -> float | None:
        """The relative L2 that rounding to the types of a and b explains, or None if both types are exact."""
        if self.exact:
            return None
        return math.sqrt(self.ee / self.aa) if self.aa else math.inf if self.ee else 0.0

    @property
    def scale(self) -> float | None:
        """The factor c for which c * a is closest to b, or None if a is all zeros."""
        return self.ab / self.aa if self.aa else None

    def index(self, flat: int) -> tuple[int, ...]:
        return tuple(int(i) for i in np.unravel_index(flat, self.shape))

    def holds(self, limit: float, rtol: float | None = None) -> bool:
        """Return True if b equals a up to the rounding of the stored types, or up to `limit` for exact types.
        If `rtol` is set, `rtol` replaces all other limits."""
        if self.nonfinite:
            return False
        expected = self.expected
        if rtol is not None or expected is None:
            return self.relative_l2 <= (limit if rtol is None else rtol)
        chance = 1 + 3 / math.sqrt(max(1, self.count))  # the error of few elements has more variance
        near = self.relative_l2 <= max(FACTOR, chance) * expected and self.worst_block <= self.block_factor
        return near and self._keeps_scale(expected) and not (self.moved or self.damaged or self.rewritten)

    @property
    def damaged(self) -> bool:
        """True if only a few elements differ, but by more than a step. Two quantisers of one type never
        differ in this way."""
        return self.same_type and self.unequal <= FEW * self.count and self.most_steps > ONE_STEP

    @property
    def moved(self) -> bool:
        """True if the mean of b is above or below the mean of a by more than chance explains."""
        return abs(self.shift) > (SHIFTED + 5 / math.sqrt(max(1, self.count / BLOCK))) * self.count

    def _keeps_scale(self, expected: float) -> bool:
        """Return True if the scale of b relative to a is 1, up to tolerances. Quantisers that minimise the
        error shrink a tensor by the square of the relative error. Quantisers that clip shrink a tensor by up
        to an eighth of the relative error. The rest of the tolerance allows for chance."""
        if self.scale is None:
            return True
        slack = FACTOR * expected**2 + expected * (0.15 + 5 / math.sqrt(self.count))
        return abs(self.scale - 1) <= slack

    def add(self, a: Array, b: Array, squares: Array | None) -> None:
        """Add the next float64 elements, [n]. `squares` contains the expected squared errors, or is None for
        exact types."""
        diff = b - a
        if not np.isfinite(diff).all():
            a, b, diff = self._without_nonfinite(a, b, diff)
        magnitude = np.abs(diff)
        self.unequal += int(np.count_nonzero(diff != 0))
        self._keep_largest(int(magnitude.argmax()), magnitude, a, b)
        self.aa, self.bb, self.ab = self.aa + _dot(a, a), self.bb + _dot(b, b), self.ab + _dot(a, b)
        self.dd += _dot(diff, diff)
        if squares is not None:
            self.ee += float(squares.sum())
            self._add_errors(diff, squares)
            self._add_blocks(np.square(diff, out=diff), squares)
        self.count += a.size

    def _keep_largest(self, place: int, magnitude: Array, a: Array, b: Array) -> None:
        if magnitude[place] > self.max_abs:
            self.max_abs, self.at = float(magnitude[place]), self.count + place
            self.values = (float(a[place]), float(b[place]))

    def _add_errors(self, diff: Array, squares: Array) -> None:
        """Add the errors, divided by the expected errors, to `shift`. Store the largest error in steps."""
        shares = np.divide(diff, np.sqrt(squares), out=np.zeros_like(diff), where=squares > 0)
        self.shift += float(shares.sum())
        steps = np.abs(shares).max() / math.sqrt(6)  # two roundings have a mean squared error of step²/6
        off_the_grid = bool(np.any((squares == 0) & (diff != 0)))
        self.most_steps = max(self.most_steps, math.inf if off_the_grid else float(steps))

    def _add_blocks(self, errors: Array, squares: Array) -> None:
        """Compare the squared errors of each block with the expected squared errors."""
        starts = np.arange(0, errors.size, BLOCK)
        with np.errstate(divide="ignore", invalid="ignore"):
            sums, explained = np.add.reduceat(errors, starts), np.add.reduceat(squares, starts)
            ratios = sums / explained
        ratios[np.isnan(ratios)] = 0  # 0 / 0: there is neither an expected error nor an error
        off = ratios > self.block_factor**2
        self.blocks_off += int(np.count_nonzero(off))
        self.unexplained += float(np.sum(sums - FACTOR**2 * explained, where=~off))
        place = int(ratios.argmax())
        worst = math.sqrt(ratios[place])
        if worst > self.worst_block:
            self.worst_block, self.block_at = worst, self.count + int(starts[place])

    def _without_nonfinite(self, a: Array, b: Array, diff: Array) -> tuple[Array, Array, Array]:
        """Replace elements by 0 if a or b is not finite. Count the replaced elements, and store the first
        replaced element that differs."""
        bad = ~np.isfinite(diff)
        odd = bad & (a != b) & ~(np.isnan(a) & np.isnan(b))
        if odd.any() and not self.nonfinite:
            self._keep_largest(int(odd.argmax()), np.where(odd, math.inf, 0), a, b)
        self.nonfinite += int(np.count_nonzero(odd))
        self.nowhere += int(np.count_nonzero(bad & ~odd))
        self.unequal += int(np.count_nonzero(odd))
        return np.where(bad, 0, a), np.where(bad, 0, b), np.where(bad, 0, diff)


def _dot(a: Array, b: Array) -> float:
    """Return a @ b without BLAS, because the threads of BLAS cost more time than this product."""
    return float(np.einsum("n,n", a, b))


@np.errstate(over="ignore", invalid="ignore")
def measure(a: Values, b: Values, most: int | None = None) -> QuantisationDistance:
    """Measure the distance of b from a, a few rows at a time. a and b have the same shape. With `most`, only
    the first `most` rows are compared. Equal stored bytes are not decoded."""
    tensors = (a.tensor, b.tensor) if most is None and a.tensor and b.tensor else ()
    if tensors and all(starmap(_same_blocks, in_pieces(*tensors))):
        return QuantisationDistance.none(a.shape)
    exact = a.type == b.type and a.type in EXACT
    count = a.shape[0] if most is None else min(most, a.shape[0])
    rows = max(1, _CHUNK // max(1, math.prod(a.shape[1:])))
    factors = (_BLOCK_FACTORS.get(side.type, _OPTIMISED) for side in (a, b))
    distance = QuantisationDistance(a.shape, exact, max(factors), a.type == b.type)
    for start in range(0, count, rows):
        stop = min(start + rows, count)
        left, right = (side.rows(start, stop).ravel().astype(np.float64) for side in (a, b))
        distance.add(left, right, None if exact else _expected_squares(a, b, start, stop))
    if tensors and a.type == b.type:
        distance.rewritten = sum(starmap(rewritten_runs, in_pieces(*tensors)))
    return distance


def _same_blocks(left: StoredTensor, right: StoredTensor) -> bool:
    """Return True if two stored tensors have the same bytes and decode the bytes in the same way."""
    alike = (left.encoding, left.scale, left.stride) == (right.encoding, right.scale, right.stride)
    if not (alike and left.in_order_of(right)):
        return False
    return left.data is right.data or np.array_equal(left.data, right.data)


def rewritten_runs(a: StoredTensor, b: StoredTensor) -> int:
    """Count the runs with equal scales and minima, but different integers everywhere, in two tensors."""
    unpack, count = a.encoding.unpack, 0
    if unpack is None or a.stored.size != b.stored.size or not a.in_order_of(b):
        return 0
    blocks = [own.data.reshape(-1, own.encoding.block_bytes, 1) for own in (a, b)]
    for start in range(0, len(blocks[0]), _CHUNK // 32):
        one, other = (unpack(side[start : start + _CHUNK // 32]) for side in blocks)
        same = (one.d == other.d) & (one.d != 0) & (one.m is None or one.m == other.m)
        q, p = (side.runs()[same[..., 0]][..., 0].astype(np.int32) for side in (one, other))
        pairs = np.sort((q * 512 + p)[(q != p).all(axis=1)])
        count += int(np.count_nonzero(np.count_nonzero(np.diff(pairs), axis=1) >= KINDS - 1))
    return count


def _expected_squares(a: Values, b: Values, start: int, stop: int) -> Array:
    """Return each element's mean squared error from the rounding of both sides together: [n] float64."""
    left, right = (side.steps(start, stop).ravel().astype(np.float64) for side in (a, b))
    squares: Array = (left * left + right * right) / 12
    return squares if np.isfinite(squares.sum()) else np.nan_to_num(squares, nan=0.0, posinf=0.0)

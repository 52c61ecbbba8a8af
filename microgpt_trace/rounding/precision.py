"""The precisions of engines: which values an engine rounds, and the resulting error of a row or an element.

Engines for quantised weights divide the input of a product into blocks of 8-bit integers. Each block has a
scale. In ggml, Q8_0 and Q8_1 have blocks of 32 integers and a float16 scale, and Q8_K has blocks of 256. To
recognise how an engine rounds, we round the input in several ways and compare the products with the output of
the engine.

The tolerances of the checks of a trace are in `invariants`. In shapes, R is the number of rows of an event.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from ..arrays.encodings import StoredTensor
from ..arrays.expert_tensor import ExpertTensor
from ..arrays.rounding import BLOCK, WIDE_BLOCK, q8_blocks, to_bf16, to_f16, to_q8, without_bits
from ..arrays.stats import Array
from ..errors import InputError
from ..grouping import grouped
from ..operations.by_kind import reference
from ..operations.reference_inputs import ReferenceInputs, Spread
from ..plans.kinds import Experts, Linear
from ..plans.plan import Operation, kind_of
from ..text.frozen import frozen

# The number of roundings of an operation in float32, by the engine and by us together, with the polynomials
# for exp and 1/sqrt. A sum of K terms has 2 sqrt(K) more roundings. If terms of the sum may be equal, there
# are K more roundings, because equal errors do not cancel.
ROUNDINGS = 16.0
VANISHING = 128.0  # smallest error bound / smallest normal number, because e^-x in SiLU may overflow

Partial = Mapping[str, tuple[Array, tuple[int, ...]]]  # event -> rows, and their positions
NONE: Partial = MappingProxyType({})


@frozen(slots=False)
class Precision:
    """The precision of an engine's computation. `words` describes which values the engine rounds, and `round`
    rounds a value.

    `unit` is the largest relative error of one rounding. Below `smallest`, the absolute error stays the same.
    If `narrow`, every value is rounded to 16 bits and sums are float32. If `into_products`, only the inputs
    of products are rounded, and everything else is float32. `round` then has the block size as an argument.
    """

    name: str
    words: str
    round: Callable[..., Array]
    unit: float
    narrow: bool = False
    into_products: bool = False
    smallest: float = 0.0

    @property
    def coarse(self) -> bool:
        """True if any values are rounded to a precision below float32."""
        return self.narrow or self.into_products


_ALL = (
    Precision("f32", "float32", lambda x: np.asarray(x, np.float32), 2.0**-24),
    Precision("bf16", "every value rounded to bfloat16", to_bf16, 2.0**-8, narrow=True),
    Precision("f16", "every value rounded to float16", to_f16, 2.0**-11, narrow=True, smallest=2.0**-14),
    Precision("q8", "the inputs of products rounded to 8-bit blocks", to_q8, 2.0**-24, into_products=True),
)
PRECISIONS = {precision.name: precision for precision in _ALL}
# Passes that measure how much a model amplifies float32 rounding. An operation may have ROUNDINGS roundings.
PERTURBED = replace(PRECISIONS["f32"], words="every value perturbed", round=without_bits)
NARROW = {"bf16": "bfloat16", "f16": "float16"}
# The RMS error of a row, in multiples of `unit`. One rounding leaves 0.4, six roundings leave 1. After RoPE
# the error is 2, because frequencies, sines and cosines may be rounded too. For attention weights and
# probabilities the error is 3, because two numbers with equal errors may dominate a row. In float32, PEAKED
# multiplies the usual error.
USUAL, ROTATED, PEAKED = 1.0, 2.0, 3.0
CHANCE = 5.0  # a deviation up to this many standard deviations may be chance
SAMPLED = 12  # the number of events whose values are examined
ENOUGH = 16  # the fewest numbers of an array that are enough to recognise its precision


def precision_named(compute: str) -> Precision:
    """Return the precision of this name. Raises InputError for an unknown name."""
    if compute not in PRECISIONS:
        raise InputError(f"compute: expected one of {', '.join(PRECISIONS)}, found {compute!r}")
    return PRECISIONS[compute]


def precision_of(
    compute: str | None, values: Mapping[str, Array], partial: Partial = NONE
) -> tuple[Precision, str]:
    """Return the precision named `compute`, or recognise the precision from the values, and say how. The
    embedding is left out, because embeddings are copies of weights, which may be bf16 in any engine."""
    if compute is not None:
        return precision_named(compute), "as requested"
    names = [name for name in (*values, *partial) if not name.startswith("embed.")]
    sample = names[:: max(1, len(names) // SAMPLED)][:SAMPLED]
    for kind, words in NARROW.items():
        arrays = (partial[name][0] if name in partial else values[name] for name in sample)
        fits = [fit for array in arrays if (fit := representable(array, kind)) is not None]
        if fits and sum(fits) * 2 > len(fits):
            how = f"every value of {sum(fits)} of the {len(fits)} sampled events fits in {words}"
            return PRECISIONS[kind], how
    return PRECISIONS["f32"], f"values of {len(sample)} sampled events need float32"


def representable(array: Array, kind: str) -> bool | None:
    """Return True if a narrow type can store all finite numbers of an array, or None for few numbers."""
    numbers = np.asarray(array, np.float64).ravel()
    numbers = numbers[np.isfinite(numbers) & (numbers != np.rint(numbers))]  # experts have whole numbers
    return None if numbers.size < ENOUGH else bool((PRECISIONS[kind].round(numbers) == numbers).all())


def roundings(spread: Spread, length: int) -> float:
    """Count the roundings that affect a float32 output of `length` positions."""
    angles = 2 * length if spread.angles else 0  # the rounding error of an angle grows with the position
    return ROUNDINGS + 2 * math.sqrt(spread.terms) + angles


def row_error(precision: Precision, spread: Spread, length: int) -> float:
    """Return the relative error that rows of an operation at `length` positions may have if no terms cancel.
    For narrow types, the result is the RMS error."""
    if precision.narrow or (precision.into_products and spread.halves):
        usual = ROTATED if spread.angles else PEAKED if spread.peaked else USUAL
        return usual * (precision if precision.narrow else PRECISIONS["f16"]).unit
    return roundings(spread, length) * precision.unit * (PEAKED if spread.peaked else 1)


def factor_error(precision: Precision, spread: Spread, rows: int) -> float:
    """Return the rounding error of a factor that multiplies the rows. For a single row the error is one unit.
    For the mean of several rows the error is at least half a unit, because all rows may have the same
    factor."""
    return precision.unit * max(0.5, rows**-0.5) if spread.factor and precision.narrow else 0.0


def beyond_usual(concentration: Array) -> Array:
    """Return the largest error that each row may have by chance, as a multiple of its RMS error, [R]. The
    concentration of a row is sum x^4 / (sum x^2)^2, which is 1 if only one element is not 0."""
    return np.sqrt(1 + CHANCE * np.sqrt(2 * concentration))


def element_bound(size: Array, spread: Spread, length: int, dtype: np.dtype[np.floating]) -> Array:
    """Return the error that each element may have in `dtype`. The error is proportional to `size`."""
    info, units = np.finfo(dtype), roundings(spread, length) + (spread.terms if spread.alike else 0)
    return size * (units * float(info.eps) / 2) + VANISHING * float(info.tiny)


class Way(NamedTuple):
    """A way to round the input of a product. The arguments of `round` are the input, and a relative change of
    the input before rounding. `compute` is the name of the precision. With `sums`, the sums of blocks are
    rounded to float16 too."""

    words: str
    round: Callable[[Array, float], Array]
    compute: str = "q8"
    sums: bool = False


def _blocks(size: int | None, half: bool = False, early: bool = False) -> Callable[[Array, float], Array]:
    """Return a function that rounds blocks of this size, or whole rows if `size` is None."""
    return lambda x, nudge: to_q8(x, size or x.shape[-1], half, nudge, early)


def _floats(round: Callable[[Array], Array]) -> Callable[[Array, float], Array]:
    return lambda x, nudge: round(x * np.float32(1 + nudge))


WAYS = {
    "Q8_0": Way("8-bit blocks of 32", _blocks(BLOCK, half=True)),
    "Q8_1": Way("8-bit blocks of 32 with float16 sums", _blocks(BLOCK, half=True), sums=True),
    "divided": Way("8-bit blocks of 32 divided by float16 scales", _blocks(BLOCK, half=True, early=True)),
    "Q8_K": Way("8-bit blocks of 256", _blocks(WIDE_BLOCK)),
    "float32 scales": Way("8-bit blocks of 32 with float32 scales", _blocks(BLOCK)),
    "rows": Way("8-bit rows", _blocks(None)),
    "bf16": Way("bfloat16", _floats(to_bf16), "bf16"),
    "f16": Way("float16", _floats(to_f16), "f16"),
    "f32": Way("float32", _floats(lambda x: x), "f32"),
}
WITH_MINIMA = ("Q4_1", "Q5_1")
OF_WIDE_BLOCKS = (*(f"Q{bits}_K" for bits in (2, 3, 4, 5, 6)), "IQ4_XS")
OF_TYPES = {**dict.fromkeys(WITH_MINIMA, "Q8_1"), **dict.fromkeys(OF_WIDE_BLOCKS, "Q8_K")}
ALIKE = ("Q8_0", "Q8_1", "divided")  # these ways agree in most short rows, so their mean errors are compared
LEARNED_FROM = 3  # the number of products of each kind that are examined
FAR_LESS = 0.5  # a way explains a product if it leaves less than this share of the error of other ways


Read = Callable[[str], tuple[Sequence[Array], Array]]  # the name of a product -> its inputs and output


class ProductInputs:
    """Rounds the inputs of products, by a Way for each kind of product and stored type of its matrix."""

    def __init__(self, given: ReferenceInputs) -> None:
        self._given = given
        self._ways: dict[tuple[str, str], str] = {}
        self._of_types: dict[str, str] = dict(OF_TYPES)
        if any(tensor.encoding.block_size > 1 for tensor in given.model.tensors.values()):
            self._of_types["F32"] = "f32"  # such as the matrices of routers in a quantised file

    def key(self, row: Operation) -> tuple[str, str]:
        """Return the product's name without its layer, and the type of its matrix."""
        assert isinstance(row.kind, Linear | Experts)
        stored = self._given.model.tensors.get(row.kind.weight)
        return kind_of(row.name), "F32" if stored is None else stored.encoding.name

    def way(self, row: Operation) -> Way:
        """Return the Way that rounds the input of this product."""
        key = self.key(row)
        return WAYS[self._ways.get(key) or self._of_types.get(key[1], "Q8_0")]

    def round(self, row: Operation, x: Array, nudge: float = 0.0, way: Way | None = None) -> Array:
        """Change the input of this product by the share `nudge`, and round: [T, K] -> [T, K] float32."""
        rows = np.asarray(x, np.float32).reshape(-1, self._width(row))
        return (way or self.way(row)).round(rows, nudge).reshape(x.shape)

    def _width(self, row: Operation) -> int:
        """Return the width of the rows that an engine rounds. Experts may read parts of x side by side."""
        assert isinstance(row.kind, Linear | Experts)
        return self._given.model.plan.parameters[row.kind.weight][-1]

    def sum_error(self, row: Operation, inputs: Sequence[Array], way: Way | None = None) -> Array | float:
        """Return the error in this product that the rounded sums of blocks cause: [T, K] -> [T, out]. The
        engine multiplies the rounded sums by the minimum of each block in the matrix. The error is 0 if the
        engine does not round sums, or if the blocks have no minimum."""
        if not (way or self.way(row)).sums or self.key(row)[1] not in WITH_MINIMA:
            return 0.0
        x, width = inputs[0], self._width(row)
        quants, scale = q8_blocks(np.asarray(x, np.float32).reshape(-1, width))
        total = quants.sum(axis=-1, keepdims=True)
        off = to_f16(total * scale) - total * to_f16(scale)  # [T, n, 1], then shared by 32 elements
        shared = np.broadcast_to(off / BLOCK, quants.shape).reshape(len(quants), -1)[:, :width]
        assert isinstance(row.kind, Linear | Experts)
        minima = minimum_tensor(self._given.model.tensors[row.kind.weight])

        def read(name: str, experts: Array | None = None) -> Array:
            return minima.read() if experts is None else minima.take(experts)

        of_minima = replace(row, kind=replace(row.kind, bias=None), instead={row.kind.weight: read})
        return reference(of_minima, self._given, shared.reshape(x.shape), *inputs[1:])

    def learn(self, rows: Sequence[Operation], read: Read) -> None:
        """Recognise the ways from a few products of each kind. `read` returns the inputs and output of a
        product. If no way matches, perhaps because the products are wrong, use the usual way of other
        products, preferably with the same type of matrix."""
        votes = {key: self._votes(own, read) for key, own in grouped(rows, self.key).items()}
        usual = sum(votes.values(), Counter[str]())
        for key, own in votes.items():
            of_type = sum((counts for (_, type), counts in votes.items() if type == key[1]), Counter[str]())
            if counts := own or of_type or usual:
                self._ways[key] = max(counts, key=lambda way: (counts[way], of_type[way], usual[way]))
            if of_type:
                self._of_types[key[1]] = max(of_type, key=lambda way: (of_type[way], usual[way]))

    def _votes(self, rows: Sequence[Operation], read: Read) -> Counter[str]:
        """Count, for each way, the products where this way leaves far less error than other ways. Omit ways
        that are not far better in most products."""
        sample = rows[:: max(1, len(rows) // LEARNED_FROM)][:LEARNED_FROM]
        votes = Counter(way for row in sample for way in self._far_best(row, *read(row.name)))
        return Counter({way: count for way, count in votes.items() if 2 * count > len(sample)})

    def _far_best(self, row: Operation, inputs: Sequence[Array], y: Array) -> list[str]:
        """Return the ways that leave far less error in this product than all other ways."""
        errors = {key: self._error(row, way, inputs, y) for key, way in WAYS.items()}
        best = min(errors, key=lambda key: errors[key])
        alike = ALIKE if best in ALIKE else [key for key in errors if errors[key] == errors[best]]
        others = [errors[key][0] for key in errors if key not in alike]
        clear = others and errors[best][0] < FAR_LESS * min(others)
        least = min(errors[key][1] for key in alike)
        return [key for key in alike if errors[key][1] == least] if clear else []

    def _error(self, row: Operation, way: Way, inputs: Sequence[Array], y: Array) -> tuple[float, float]:
        """Round the first input in one way, compute the product, and return the median and the mean of the
        relative L2 errors of its rows: [T, K], [T, out]."""
        rounded = self.round(row, inputs[0], way=way).astype(np.float64)
        expected = reference(row, self._given, rounded, *inputs[1:]) + self.sum_error(row, inputs, way)
        size = np.linalg.norm(expected, axis=1)
        errors = np.nan_to_num(np.linalg.norm(y - expected, axis=1) / np.where(size > 0, size, 1), nan=np.inf)
        return float(np.median(errors)), float(errors.mean())

    def describe(self, rows: Iterable[Operation]) -> str:
        """List the ways of rounding for the products among these rows, the most frequent way first."""
        counts = Counter(self.way(row).words for row in rows if isinstance(row.kind, Linear | Experts))
        return ", ".join(f"{words} ({count})" for words, count in counts.most_common())


def block_of(type: str) -> int:
    """Return the size of the input blocks in a product with a matrix of this stored type."""
    return WIDE_BLOCK if type in OF_WIDE_BLOCKS else BLOCK


def minimum_tensor(tensor: StoredTensor) -> StoredTensor:
    """Return a tensor in which each element of `tensor` is replaced by the minimum that its block stores."""
    if isinstance(tensor, ExpertTensor):
        return replace(tensor, part=lambda expert: minimum_tensor(tensor.of_expert(expert)))
    encoding, unpack = tensor.encoding, tensor.encoding.unpack
    assert unpack is not None

    def decode(blocks: Array) -> Array:
        minima = unpack(blocks[:, :, None]).m
        assert minima is not None
        return np.repeat(minima[:, :, 0], encoding.block_size // minima.shape[1], axis=1)

    return replace(tensor, encoding=replace(encoding, decode=decode, unpack=None))

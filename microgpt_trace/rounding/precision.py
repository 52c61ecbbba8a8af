"""The precisions that engines compute in: what they round, and how far that moves a row or an element.

Engines for quantised weights cut what goes into a product into blocks, which become 8-bit integers with a
scale each: Q8_0 and Q8_1 of ggml in blocks of 32 with a float16 scale, its Q8_K in blocks of 256. A way to
round is recognised by what it leaves: the product of the rounded input, not the size of an error.

What the checks of a trace allow stands in `invariants`. Shape letters: R rows of an event.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..architecture.operations.by_kind import reference
from ..architecture.operations.reference_inputs import ReferenceInputs, Spread
from ..architecture.plans.kinds import Linear
from ..architecture.plans.plan import Operation, kind_of
from ..arrays.encodings import StoredTensor
from ..arrays.rounding import BLOCK, WIDE_BLOCK, q8_blocks, to_bf16, to_f16, to_q8
from ..arrays.stats import Array
from ..errors import InputError
from ..grouping import grouped

# Roundings of an operation in float32, the engine's and ours, of exp and 1/sqrt by polynomials too. A sum of
# K terms has 2 sqrt(K) more, and of terms that may be equal K, for equal roundings do not cancel.
ROUNDINGS = 16.0
VANISHING = 128.0  # times the least normal number: of SiLU e^-x is infinite before x*e^x is nothing


@dataclass(frozen=True)
class Precision:
    """How an engine computes: what it rounds, in words, and how.

    `unit` is the largest relative error of one rounding. Where it is `narrow` every value is rounded to 16
    bits, and sums are float32. With `into_products` values are rounded only on their way into a product, in
    blocks whose size `round` takes too, and all else is float32.
    """

    name: str
    words: str
    round: Callable[..., Array]
    unit: float
    narrow: bool = False
    into_products: bool = False

    @property
    def coarse(self) -> bool:
        """Whether something is rounded further than to float32."""
        return self.narrow or self.into_products


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision("f32", "float32", lambda x: np.asarray(x, np.float32), 2.0**-24),
        Precision("bf16", "every value rounded to bfloat16", to_bf16, 2.0**-8, narrow=True),
        Precision("f16", "every value rounded to float16", to_f16, 2.0**-11, narrow=True),
        Precision("q8", "8-bit blocks go into the products", to_q8, 2.0**-24, into_products=True),
    )
}
NARROW = {"bf16": "bfloat16", "f16": "float16"}
# The root mean square of a row's error, in units. One rounding leaves 0.4, six leave 1. After RoPE it is 2,
# whose frequencies, sines and cosines may be rounded too. In attention weights and probabilities two numbers
# may be most of a row and stray alike: there it is 3, and in float32 three times that of other operations.
USUAL, TURNED, PEAKED = 1.0, 2.0, 3.0
CHANCE = 5.0  # standard deviations that chance may bring
SAMPLED = 12  # events whose bits are looked at
ENOUGH = 16  # numbers that tell a precision


class Found(NamedTuple):
    """The precision that an engine computes in, and how that is known."""

    precision: Precision
    how: str


def precision_named(compute: str) -> Precision:
    """Raises InputError for a name that is none."""
    if compute not in PRECISIONS:
        raise InputError(f"compute: expected one of {', '.join(PRECISIONS)}, found {compute!r}")
    return PRECISIONS[compute]


def precision_of(compute: str | None, values: Mapping[str, Array]) -> Found:
    """The precision that was named, or that the bits of the values show.

    The embedding is left out: it is a copy of weights, which may be bf16 whatever computes.
    """
    if compute is not None:
        return Found(precision_named(compute), "as given")
    names = [name for name in values if not name.startswith("embed.")]
    sample = names[:: max(1, len(names) // SAMPLED)][:SAMPLED]
    for kind, words in NARROW.items():
        told = [fit for name in sample if (fit := representable(values[name], kind)) is not None]
        if told and sum(told) * 2 > len(told):
            how = f"every value of {sum(told)} events of {len(told)} looked at is a {words}"
            return Found(PRECISIONS[kind], how)
    return Found(PRECISIONS["f32"], f"values of {len(sample)} events looked at need float32")


def representable(array: Array, kind: str) -> bool | None:
    """Whether a narrow type holds every finite number of an array; None where there are too few to tell."""
    numbers = np.asarray(array, np.float64).ravel()
    numbers = numbers[np.isfinite(numbers) & (numbers != 0) & (np.abs(numbers) != 1)]
    if numbers.size < ENOUGH:
        return None
    return bool((PRECISIONS[kind].round(numbers) == numbers).all())


def roundings(spread: Spread, length: int) -> float:
    """How many roundings move an output of float32, over T positions."""
    angles = 2 * length if spread.angles else 0  # position * frequency is rounded, to a unit of itself
    return ROUNDINGS + 2 * math.sqrt(spread.terms) + angles


def row_error(precision: Precision, spread: Spread, length: int) -> float:
    """What an operation's rows may err relative to themselves where nothing cancels, over T positions; of
    narrow types in the root mean square."""
    if precision.narrow or (precision.into_products and spread.halves):
        usual = TURNED if spread.angles else PEAKED if spread.peaked else USUAL
        return usual * (precision if precision.narrow else PRECISIONS["f16"]).unit
    return roundings(spread, length) * precision.unit * (PEAKED if spread.peaked else 1)


def factor_error(precision: Precision, spread: Spread, rows: int) -> float:
    """What a factor of the rows may be rounded by: of one row by a whole unit, of several by half of one in
    their mean, for it may be the same number in all."""
    return precision.unit * max(0.5, rows**-0.5) if spread.factor and precision.narrow else 0.0


def beyond_usual(concentration: Array) -> Array:
    """How many times its root mean square a row's error may be, [R], of rows whose squares are
    concentrated so: sum x^4 / (sum x^2)^2, which is 1 where one element is the whole row."""
    return np.sqrt(1 + CHANCE * np.sqrt(2 * concentration))


def element_bound(size: Array, spread: Spread, length: int, dtype: np.dtype[np.floating]) -> Array:
    """How far the roundings of a computation in that type may move elements, whose roundings are relative to
    `size`."""
    known, units = np.finfo(dtype), roundings(spread, length) + (spread.terms if spread.alike else 0)
    return size * (units * float(known.eps) / 2) + VANISHING * float(known.tiny)


class Way(NamedTuple):
    """How an input is rounded: in words, the function (of the input and the share by which it is nudged), the
    precision that is asked for by name, and whether float16 sums take part."""

    words: str
    round: Callable[[Array, float], Array]
    compute: str = "q8"
    sums: bool = False

    @property
    def inputs(self) -> str:
        """What such inputs are called."""
        return "8-bit inputs" if self.compute == "q8" else f"{self.words} inputs"


def _blocks(size: int | None, half: bool = False, early: bool = False) -> Callable[[Array, float], Array]:
    """Blocks of that size, None: as long as a row."""
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
OF_WIDE_BLOCKS = tuple(f"Q{bits}_K" for bits in (2, 3, 4, 5, 6))
OF_TYPES = {  # others: Q8_0
    **dict.fromkeys(WITH_MINIMA, "Q8_1"),
    **dict.fromkeys(OF_WIDE_BLOCKS, "Q8_K"),
}
ALIKE = ("Q8_0", "Q8_1", "divided")  # in most rows of few elements, so that the mean tells
LEARNED_FROM = 3  # products of a kind that are looked at
FAR_LESS = 0.5  # of the error is left by a way that explains it


class ProductInputs:
    """Rounds the inputs of products, each kind with each stored type of a matrix in a way of its own."""

    def __init__(self, given: ReferenceInputs) -> None:
        self._given = given
        self._ways: dict[tuple[str, str], str] = {}
        self._of_types: dict[str, str] = dict(OF_TYPES)

    def key(self, row: Operation) -> tuple[str, str]:
        """A product's name without its layer, and the type of its matrix."""
        assert isinstance(row.kind, Linear)
        stored = self._given.model.tensors.get(row.kind.weight)
        return kind_of(row.name), "F32" if stored is None else stored.encoding.name

    def way(self, row: Operation) -> Way:
        """How the input of this product is rounded."""
        key = self.key(row)
        return WAYS[self._ways.get(key) or self._of_types.get(key[1], "Q8_0")]

    def round(self, row: Operation, x: Array, nudge: float = 0.0) -> Array:
        """What goes into this product, nudged up or down by a share of it: [T, K] -> [T, K] float32"""
        return self.way(row).round(np.asarray(x, np.float32), nudge)

    def of_sums(self, row: Operation, x: Array, way: Way | None = None) -> Array | float:
        """What rounding of the blocks' sums adds to this product, of which the minima are a factor: [T, K] ->
        [T, out]; 0 where they take no part."""
        if not (way or self.way(row)).sums or self.key(row)[1] not in WITH_MINIMA:
            return 0.0
        quants, scale = q8_blocks(np.asarray(x, np.float32))
        total = quants.sum(axis=-1, keepdims=True)
        off = to_f16(total * scale) - total * to_f16(scale)  # [T, n, 1], to be shared among 32 elements
        shared = np.broadcast_to(off / BLOCK, quants.shape).reshape(len(x), -1)[:, : x.shape[-1]]
        assert isinstance(row.kind, Linear)
        return shared @ minimum_tensor(self._given.model.tensors[row.kind.weight]).read().T

    def learn(self, rows: Sequence[Operation], read: Callable[[str], tuple[Array, Array]]) -> None:
        """Find the ways from products of which `read` gives input and output: a few of each kind. Where those
        show none, as where they are wrong, the ways of the other matrices of that type count."""
        votes = {key: self._votes(own, read) for key, own in grouped(rows, self.key).items()}
        usual = sum(votes.values(), Counter[str]())
        for key, own in votes.items():
            of_type = sum((found for (_, type), found in votes.items() if type == key[1]), Counter[str]())
            if known := own or of_type or usual:
                self._ways[key] = max(known, key=lambda way: (known[way], of_type[way], usual[way]))
            if of_type:
                self._of_types[key[1]] = max(of_type, key=lambda way: (of_type[way], usual[way]))

    def _votes(self, rows: Sequence[Operation], read: Callable[[str], tuple[Array, Array]]) -> Counter[str]:
        """In how many of these products each way leaves far less error than others; none unless in most."""
        sample = rows[:: max(1, len(rows) // LEARNED_FROM)][:LEARNED_FROM]
        votes = Counter(way for row in sample for way in self._far_best(row, *read(row.name)))
        return Counter({way: count for way, count in votes.items() if 2 * count > len(sample)})

    def _far_best(self, row: Operation, x: Array, y: Array) -> list[str]:
        """The ways, alike ones, that leave far less error of this product than all others."""
        errors = {key: self._error(row, way, x, y) for key, way in WAYS.items()}
        best = min(errors, key=lambda key: errors[key])
        alike = ALIKE if best in ALIKE else [key for key in errors if errors[key] == errors[best]]
        others = [errors[key][0] for key in errors if key not in alike]
        clear = others and errors[best][0] < FAR_LESS * min(others)
        least = min(errors[key][1] for key in alike)
        return [key for key in alike if errors[key][1] == least] if clear else []

    def _error(self, row: Operation, way: Way, x: Array, y: Array) -> tuple[float, float]:
        """The median relative L2 error that a way leaves of the rows of y, and the mean: [T, K], [T, out]"""
        rounded = way.round(x, 0.0).astype(np.float64)
        expected = reference(row, self._given, rounded) + self.of_sums(row, x, way)
        size = np.linalg.norm(expected, axis=1)
        errors = np.nan_to_num(np.linalg.norm(y - expected, axis=1) / np.where(size > 0, size, 1), nan=np.inf)
        return float(np.median(errors)), float(errors.mean())

    def told(self, rows: Iterable[Operation]) -> str:
        """The ways of the products among these in words, the most frequent first."""
        counts = Counter(self.way(row).words for row in rows if isinstance(row.kind, Linear))
        return ", ".join(f"{words} ({count})" for words, count in counts.most_common())


def block_of(type: str) -> int:
    """How many elements of the input share a scale in a product with a matrix of this stored type."""
    return WIDE_BLOCK if type in OF_WIDE_BLOCKS else BLOCK


def minimum_tensor(tensor: StoredTensor) -> StoredTensor:
    """A tensor that holds, for each element of this one, the minimum of its block. Its type has some."""
    encoding, unpack = tensor.encoding, tensor.encoding.unpack
    assert unpack is not None

    def decode(blocks: Array) -> Array:
        minima = unpack(blocks[:, :, None]).m
        assert minima is not None
        return np.repeat(minima[:, :, 0], encoding.block_size // minima.shape[1], axis=1)

    return replace(tensor, encoding=replace(encoding, decode=decode, unpack=None))

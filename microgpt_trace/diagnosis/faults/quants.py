"""Mistakes of reading stored weights: the order in a block, zero points, minima, scales, half formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial as bind
from typing import NamedTuple

import numpy as np

from ...architecture.model import LanguageModel
from ...architecture.operations.reference_inputs import ReferenceInputs
from ...architecture.plans.kinds import Linear, Lookup
from ...architecture.plans.plan import Operation
from ...arrays.dequantisation import Quants
from ...arrays.encodings import ENCODINGS, StoredTensor
from ...arrays.stats import Array
from ..hypothesis import Case, Change, Hypothesis
from .changes import computed, with_instead
from .input import looking_up

NIBBLES = {  # at which bytes of a block they lie, and how many elements take the low ones first
    "Q4_0": (2, 18, 16), "Q4_1": (4, 20, 16), "Q5_0": (6, 22, 16), "Q5_1": (8, 24, 16),
    "Q4_K": (16, 144, 32), "Q5_K": (48, 176, 32),
}  # fmt: skip
SCALES = {  # at which bytes a block's half-precision factors lie: of the scales, of the minima
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "AprQ4": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip
ONE_SCALE = ("Q4_0", "Q5_0", "Q8_0", "AprQ4")  # a block is one run, and has nothing else
ZEROS = {"Q4_0": 8, "AprQ4": 8, "Q5_0": 16, "Q3_K": 4, "Q6_K": 32}
LARGEST = 1 << 27  # elements decoded at once


class Misreading(NamedTuple):
    """What is done to a block's bytes [N, B], to what they are unpacked to, and to the values [N, S]."""

    id: str
    claim: str
    raw: Change | None = None
    quants: Callable[[Quants], Quants] | None = None
    values: Change | None = None


def quants(case: Case) -> Iterator[Hypothesis]:
    """A quantised matrix (or the token embedding) unpacked in another way."""
    model = case.given.model
    if not model.tensors:
        return
    for table in (kind.table for kind in case.kinds(Lookup) if kind.by == "tokens"):
        yield from _of_embedding(case, table)
    for _, weight, _ in case.parameters(Linear):
        tensor = model.tensors[case.whole_name(weight)]
        if tensor.row_length * tensor.shape[0] > LARGEST:
            continue
        if tensor.encoding.unpack is None:
            yield from _half_formats(case, weight, tensor)
            continue
        for wrong in misreadings(tensor.encoding.name):
            plan = with_instead(case.plan, {weight: bind(_matrix, model, wrong)})
            yield Hypothesis(wrong.id, _claim(weight, tensor, wrong), plan)


def _claim(weight: str, tensor: StoredTensor, wrong: Misreading) -> str:
    return f"dequantisation of {weight} ({tensor.encoding.name}): {wrong.claim}"


def _of_embedding(case: Case, table: str) -> Iterator[Hypothesis]:
    tensor = case.given.model.tensors[table]
    if tensor.encoding.unpack is None:
        return
    for wrong in misreadings(tensor.encoding.name):
        plan = computed(case.plan, looking_up("tokens"), bind(_rows, tensor, wrong))
        yield Hypothesis(wrong.id, _claim(table, tensor, wrong), plan)


def misreadings(name: str) -> Iterator[Misreading]:
    """What can go wrong in unpacking blocks of a type."""
    yield from _orders(name)
    zero, id = ZEROS.get(name), "dequantisation-zero-point"
    if zero:
        yield Misreading(id, f"the zero point {zero} is not subtracted", quants=bind(_moved, zero))
    for step in (1, -1):
        yield Misreading(id, f"the zero point is off by {-step:+d}", quants=bind(_moved, step))
    if name == "Q8_0":
        yield Misreading("dequantisation-sign", "integers are read without a sign", quants=_unsigned)
    if ENCODINGS[name].minima:
        id = "dequantisation-minimum"
        yield Misreading(id, "the minima are ignored", quants=lambda q: q._replace(m=None))
        yield Misreading(id, "the minima have the wrong sign", quants=_minus_minima)
    for step, which in ((-1, "next"), (1, "previous")):
        id, places = "dequantisation-scale", SCALES.get(name)
        if places:
            claim = f"every block has the scale of the {which} block"
            yield Misreading(id, claim, raw=bind(_rolled, places, step))
        if name not in ONE_SCALE:
            claim = f"every run of elements has the scale of the {which} run"
            yield Misreading(id, claim, quants=bind(_neighbour, step))
    if name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "AprQ4"):
        claim = "scales are read as bfloat16, not as float16"
        yield Misreading("dequantisation-scale-format", claim, quants=_scales_as_bf16)


def _orders(name: str) -> Iterator[Misreading]:
    id = "dequantisation-order"
    if name in NIBBLES:
        start, stop, size = NIBBLES[name]
        claim = f"low and high nibbles are taken as neighbours, not as {size} and {size} elements"
        yield Misreading(id, claim, values=bind(_interleaved, size))
        yield Misreading(id, "high nibbles come before low ones", raw=bind(_swapped, start, stop))
    if name == "AprQ4":
        claim = "low nibbles are taken as the first 16 elements, high ones as the next"
        yield Misreading(id, claim, values=_deinterleaved)


def _interleaved(size: int, values: Array) -> Array:
    return values.reshape(len(values), -1, 2, size).swapaxes(2, 3).reshape(values.shape)


def _deinterleaved(values: Array) -> Array:
    return values.reshape(len(values), -1, 2).swapaxes(1, 2).reshape(values.shape)


def _swapped(start: int, stop: int, raw: Array) -> Array:
    raw = raw.copy()
    raw[:, start:stop] = raw[:, start:stop] >> 4 | raw[:, start:stop] << 4
    return raw


def _rolled(places: tuple[int, ...], step: int, raw: Array) -> Array:
    raw = raw.copy()
    for at in places:
        raw[:, at : at + 2] = np.roll(raw[:, at : at + 2], step, axis=0)
    return raw


def _moved(step: int, quants: Quants) -> Quants:
    return quants._replace(q=quants.q.astype(np.int16) + step)


def _unsigned(quants: Quants) -> Quants:
    return quants._replace(q=quants.q.view(np.uint8).astype(np.int16))


def _minus_minima(quants: Quants) -> Quants:
    return quants._replace(m=None if quants.m is None else -quants.m)


def _neighbour(step: int, quants: Quants) -> Quants:
    d = quants.d
    return quants._replace(d=np.roll(d.reshape(-1, d.shape[2]), step, axis=0).reshape(d.shape))


def _scales_as_bf16(quants: Quants) -> Quants:
    halves = quants.d.astype(np.float16).view(np.uint16)
    return quants._replace(d=(halves.astype(np.uint32) << 16).view(np.float32))


def _decoded(tensor: StoredTensor, wrong: Misreading, raw: Array) -> Array:
    """Bytes of whole rows [n, bytes] as the misreading decodes them: [n, in] float32"""
    unpack = tensor.encoding.unpack
    assert unpack is not None
    blocks = raw.reshape(-1, tensor.encoding.block_bytes)
    blocks = wrong.raw(blocks) if wrong.raw else blocks
    quants = unpack(blocks[:, :, None])
    values = (wrong.quants(quants) if wrong.quants else quants).values()[:, :, 0].astype(np.float32)
    values = wrong.values(values) if wrong.values else values
    return values.reshape(len(raw), -1)[:, : tensor.row_length] * np.float32(tensor.scale)


def _rows(tensor: StoredTensor, wrong: Misreading, row: Operation, given: ReferenceInputs) -> Array:
    """The rows of the tokens, [T, C]; those before and after are decoded too, for their scales."""
    tokens = given.tokens
    around = np.unique(np.clip([tokens - 1, tokens, tokens + 1], 0, tensor.shape[0] - 1))
    raw = tensor.data.reshape(tensor.shape[0], -1)[around]
    return _decoded(tensor, wrong, raw)[np.searchsorted(around, tokens)].astype(np.float64)


def _matrix(model: LanguageModel, wrong: Misreading, name: str) -> Array:
    """What the misreading makes of a matrix."""
    tensor = model.tensors[name]
    stored = tensor.as_stored()
    return _ordered(tensor, _decoded(stored, wrong, stored.data.reshape(stored.shape[0], -1)))


def _ordered(tensor: StoredTensor, matrix: Array) -> Array:
    """Rows in the tensor's order, laid out by columns: products of these are shown to the last bit."""
    return tensor.ordered(matrix.T, axis=1).T


def _half_formats(case: Case, weight: str, tensor: StoredTensor) -> Iterator[Hypothesis]:
    """float16 read as bfloat16, and the other way round."""
    name = tensor.encoding.name
    if name not in ("F16", "BF16"):
        return
    other, said = ("BF16", "bfloat16") if name == "F16" else ("F16", "float16")
    model = case.given.model

    def instead(own: str) -> Array:
        stored = replace(model.tensors[own].as_stored(), encoding=ENCODINGS[other])
        return _ordered(model.tensors[own], stored.read())

    claim = f"{weight} ({name}) is read as {said}"
    yield Hypothesis("half-format", claim, with_instead(case.plan, {weight: instead}))

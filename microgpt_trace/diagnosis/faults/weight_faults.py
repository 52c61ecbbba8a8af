"""Mistakes in matrices and biases: a parameter is missing, doubled, transposed, reordered or exchanged.
Mistakes in reading stored matrices: the order in a block, zero points, minima, scales, 16-bit formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial as bind
from typing import NamedTuple

import numpy as np

from ...arrays.dequantisation import Quants
from ...arrays.encodings import ENCODINGS, StoredTensor
from ...arrays.stats import Array
from ...models.language_model import LanguageModel
from ...operations.reference_inputs import ReferenceInputs
from ...plans.kinds import Experts, Linear, Lookup, Norm
from ...plans.plan import Operation, Plan, kind_of, layer_of
from ..case import Case, Change
from ..hypothesis import Family, Hypothesis, multiplied
from .changes import computed, with_instead
from .elementwise_faults import gated
from .input_faults import looking_up

NIBBLES = {  # type -> (first byte of the nibbles, which end a block, and elements per run)
    "Q4_0": (2, 16), "Q4_1": (4, 16), "Q5_0": (6, 16), "Q5_1": (8, 16), "Q4_K": (16, 32), "Q5_K": (48, 32),
    "IQ4_NL": (2, 16), "IQ4_XS": (8, 16), "MXFP4": (1, 16),
}  # fmt: skip
SCALES = {  # type -> offsets of a block's float16 numbers: the scale, and the minimum if any
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "AprQ4": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
    "IQ4_NL": (0,), "IQ4_XS": (0,),
}  # fmt: skip
ZEROS = {"Q4_0": 8, "AprQ4": 8, "Q5_0": 16, "Q3_K": 4, "Q6_K": 32}
HALVES = {"F16": ("BF16", "bfloat16"), "BF16": ("F16", "float16")}  # type -> the type read by mistake
LARGEST = 1 << 27  # maximum elements of a tested matrix, which is decoded in one piece


def in_halves(x: Array, dim: int) -> Array:
    """Reorder channels (or rows) of heads from adjacent pairs (0, 1), (2, 3) to halves (0, D/2), (1, D/2 +
    1)."""
    pairs = x.reshape(*x.shape[:-1], -1, dim // 2, 2)
    return pairs.swapaxes(-1, -2).reshape(x.shape)


def in_pairs(x: Array, dim: int) -> Array:
    """Invert `in_halves`. GGUF files of Llama models store the rows of q and k in pairs."""
    halves = x.reshape(*x.shape[:-1], -1, 2, dim // 2)
    return halves.swapaxes(-1, -2).reshape(x.shape)


ORDERS = (
    ("rows-in-pairs", "the rows are in GGUF's adjacent pairs, not in halves", in_pairs),
    ("rows-in-halves", "pairs were converted to halves once too often", in_halves),
)


def biases(case: Case) -> Iterator[Family]:
    """Yield hypotheses: a bias is missing, added twice, subtracted or scaled."""
    own = case.biases(Linear, Norm, Experts)
    for chosen in (*([bias] for bias in own), *([own] if len(own) > 1 else [])):

        def at(factor: float, chosen: list[str] = chosen) -> Plan:
            return with_instead(case.plan, case.changed(chosen, lambda b: factor * b))

        yield multiplied(
            "bias", at, f"the bias {', '.join(chosen)}",
            "is multiplied by {}", "is missing", "is added twice", "is subtracted",
        )  # fmt: skip


def _others(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: the operation uses the matrix, gain or bias of another operation."""
    matrices, gains = ([own.weight for own in case.parameters(*of)] for of in ((Linear, Experts), (Norm,)))
    for id, what, names in (
        ("another-weight", "matrix", matrices),
        ("gain-of-another-norm", "gain", gains),
        ("bias-of-another", "bias", case.biases(Linear, Norm, Experts)),
    ):
        for name, other in ((own, other) for own in names for other in _alike(case, own)):
            instead = {name: case.another(other)}
            yield Hypothesis(id, f"the {what} is {other}, not {name}", with_instead(case.plan, instead))
            bias, its = case.bias_beside(name), case.bias_beside(other)
            if bias and its:
                both = with_instead(case.plan, instead | {bias: case.another(its)})
                yield Hypothesis(id, f"{what} and bias belong to {other}, not to {name}", both)


def _swapped_gate(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: the matrices (and biases, if any) of gate and up are exchanged."""
    own = {product.row.name for product in case.parameters(Linear)}
    of_layer = case.plan.layers[case.layer] if case.layer is not None else ()
    for mlp in filter(None, (gated(case, row) for row in of_layer)):
        if not {mlp.gate, mlp.up} & own:
            continue
        pairs = list(zip(*(case.plan[name].kind.names for name in (mlp.gate, mlp.up)), strict=False))
        instead = {kind_of(a): case.another(kind_of(b)) for pair in pairs for a, b in (pair, pair[::-1])}
        words = " and ".join(name.rpartition(".")[2] for name in (mlp.gate, mlp.up))
        claim = f"the matrices of {words} are exchanged"
        yield Hypothesis("gate-up-swapped", claim, with_instead(case.plan, instead))


def _alike(case: Case, parameter: str) -> Iterator[str]:
    """Yield the other parameters of the same shape, in the same layer or outside the layers. For a parameter
    outside the layers, also yield parameters of the last layer, with full names."""
    own = case.whole_name(parameter)
    layer, last = layer_of(own), len(case.plan.layers) - 1
    for name, shape in case.shapes.items():
        near = layer_of(name) in (last if layer is None else layer, None)
        if near and name != own and shape == case.shapes[own]:
            yield name if layer is None else kind_of(name)


def matrices(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: a matrix is transposed or exchanged, or the order of rows is wrong."""
    for row, weight, _ in case.parameters(Linear, Experts):
        *_, out, width = case.shapes[case.whole_name(weight)]
        if row.name == case.plan.head[0].name and out > 8 * width:
            continue  # output matrices are rarely transposed, and slow to test
        words = "is transposed" if out == width else f"[{out}, {width}] is read as [{width}, {out}]"
        plan = with_instead(case.plan, case.changed([weight], _transposed))
        yield Hypothesis("weight-transposed", f"{weight} {words}", plan)
    yield from _others(case)
    yield from _swapped_gate(case)
    yield from _orders(case)


def _orders(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: rows of q, k and v are in pairs, or were converted to halves twice."""
    of_heads = [own for own in case.parameters(Linear) if own.row.name in case.plan.heads]
    for id, words, order in ORDERS:
        for chosen in (*([one] for one in of_heads), *([of_heads[:2]] if len(of_heads) > 1 else [])):
            instead: dict[str, Callable[..., Array]] = {}
            for row, *names in chosen:
                dim = case.plan.heads[row.name].dim
                change = lambda w, order=order, dim=dim: order(w.T, dim).T  # noqa: E731
                instead |= case.changed(filter(None, names), change)
            claim = f"rows of {' and '.join(own.weight for own in chosen)} are permuted: {words}"
            yield Hypothesis(id, claim, with_instead(case.plan, instead))


def _transposed(weight: Array) -> Array:
    """Return W.T of a square matrix. A matrix that is not square is read as [in, out] and then transposed.
    There may be a first axis of experts."""
    *experts, out, width = weight.shape
    return (weight if out == width else weight.reshape(*experts, width, out)).swapaxes(-1, -2)


def layers(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: the operation uses the matrix, gain or bias of another layer."""
    own, count = case.layer, len(case.plan.layers)
    if own is None or len(case.rows) > 1:
        return
    for _, weight, bias in case.parameters(Linear, Norm, Experts):
        for names in ((weight,), (weight, bias), (bias,)) if bias else ((weight,),):
            words = " and ".join(f"the bias {name}" if name == bias else name for name in names)
            words += " come" if len(names) > 1 else " comes"
            for other in sorted(set(range(count)) - {own}, key=lambda i: abs(i - own)):
                instead = dict.fromkeys(names, bind(_of_layer, case, other - own))
                claim = f"{words} from layer {other}"
                yield Hypothesis("another-layer", claim, with_instead(case.plan, instead))


def _of_layer(case: Case, away: int, name: str, experts: Array | None = None) -> Array:
    """Return the parameter of the layer `away` layers later (or earlier, if `away` is negative). If that
    layer has no such parameter, return the layer's own."""
    other = f"layer{((layer_of(name) or 0) + away) % len(case.plan.layers)}.{kind_of(name)}"
    return case.parameter(other if case.shapes.get(other) == case.shapes[name] else name, experts)


class Misreading(NamedTuple):
    """A wrong way to read a stored matrix. `type` is the wrong type of the bytes. The other fields change a
    step of decoding: bytes of blocks [N, B] (`raw`), the code book, integers and scales (`quants`), or values
    [N, S]."""

    id: str
    claim: str
    raw: Change | None = None
    codebook: tuple[int, ...] = ()
    quants: Callable[[Quants], Quants] | None = None
    values: Change | None = None
    type: str | None = None


def quants(case: Case) -> Iterator[Hypothesis]:
    """Yield hypotheses: a quantised matrix or token embedding is unpacked wrongly."""
    model = case.given.model
    if not model.tensors:
        return
    for table in (kind.table for kind in case.rows.kinds(Lookup) if kind.by == "tokens"):
        tensor = model.tensors[table]
        for wrong in misreadings(tensor.encoding.name) if tensor.encoding.unpack else ():
            plan = computed(case.plan, looking_up("tokens"), bind(_rows, tensor, wrong))
            yield Hypothesis(wrong.id, wrong.claim.format(table), plan)
    for weight in (own.weight for own in case.parameters(Linear, Experts)):
        tensor = model.tensors[case.whole_name(weight)]
        tensor = tensor.of_expert(0) if len(tensor.shape) > 2 else tensor
        if tensor.row_length * tensor.shape[0] <= LARGEST:
            for wrong in misreadings(tensor.encoding.name):
                plan = with_instead(case.plan, {weight: bind(_matrix, model, wrong)})
                yield Hypothesis(wrong.id, wrong.claim.format(weight), plan)


def misreadings(name: str) -> Iterator[Misreading]:
    """Yield the wrong ways to read matrices of the type `name`. In a claim, {} stands for the matrix."""
    if name in HALVES:
        type, words = HALVES[name]
        yield Misreading("half-format", f"{{}} ({name}) is read as {words}", type=type)
    for wrong in _of_blocks(name) if ENCODINGS[name].unpack else ():
        yield wrong._replace(
            id=f"dequantisation-{wrong.id}", claim=f"dequantisation of {{}} ({name}): {wrong.claim}"
        )


def _of_blocks(name: str) -> Iterator[Misreading]:
    has_one_scale = name in SCALES and ENCODINGS[name].block_size == 32  # a float16 for the whole block
    if name in NIBBLES:
        start, size = NIBBLES[name]
        claim = f"low and high nibbles alternate, instead of {size} low nibbles before {size} high nibbles"
        yield Misreading("order", claim, values=bind(_reordered, (2, size)))
        yield Misreading("order", "high nibbles are read before low nibbles", raw=bind(_swapped, start))
    if name == "AprQ4":
        claim = "16 low nibbles are read before 16 high nibbles, instead of alternating"
        yield Misreading("order", claim, values=bind(_reordered, (16, 2)))
    if zero := ZEROS.get(name):
        yield Misreading("zero-point", f"the zero point {zero} is not subtracted", quants=bind(_moved, zero))
    if ENCODINGS[name].codebook:
        claim = "codes are read as integers from -8 to 7, not as places in the code book"
        yield Misreading("code-book", claim, codebook=tuple(range(-8, 8)))
    for step in () if ENCODINGS[name].codebook else (1, -1):
        yield Misreading("zero-point", f"the zero point is wrong by {-step:+d}", quants=bind(_moved, step))
    if name == "Q8_0":
        claim = "integers are read as unsigned integers"
        yield Misreading("sign", claim, quants=lambda q: q._replace(q=q.q.view(np.uint8).astype(np.int16)))
    if ENCODINGS[name].minima:
        yield Misreading("minimum", "the minima are ignored", quants=lambda q: q._replace(m=None))
        claim = "the minima have the wrong sign"
        yield Misreading("minimum", claim, quants=lambda q: q._replace(m=None if q.m is None else -q.m))
    for step, which in ((-1, "next"), (1, "previous")):
        if name in SCALES:
            claim = f"every block is decoded with the scale of the {which} block"
            yield Misreading("scale", claim, raw=bind(_rolled, SCALES[name], step))
        if not has_one_scale or ENCODINGS[name].minima:
            claim = f"every run of elements is decoded with the scale of the {which} run"
            yield Misreading("scale", claim, quants=bind(_neighbour, step))
    if has_one_scale:
        claim = "scales are read as bfloat16, not as float16"
        yield Misreading("scale-format", claim, quants=_scales_as_bf16)


def _reordered(shape: tuple[int, int], values: Array) -> Array:
    """Read each run of values as a matrix of this shape, and return its values column by column."""
    return values.reshape(len(values), -1, *shape).swapaxes(2, 3).reshape(values.shape)


def _swapped(start: int, raw: Array) -> Array:
    raw = raw.copy()
    raw[:, start:] = raw[:, start:] >> 4 | raw[:, start:] << 4
    return raw


def _rolled(places: tuple[int, ...], step: int, raw: Array) -> Array:
    raw = raw.copy()
    for at in places:
        raw[:, at : at + 2] = np.roll(raw[:, at : at + 2], step, axis=0)
    return raw


def _moved(step: int, quants: Quants) -> Quants:
    return quants._replace(q=quants.q.astype(np.int16) + step)


def _neighbour(step: int, quants: Quants) -> Quants:
    d = quants.d
    return quants._replace(d=np.roll(d.reshape(-1, d.shape[2]), step, axis=0).reshape(d.shape))


def _scales_as_bf16(quants: Quants) -> Quants:
    halves = quants.d.astype(np.float16).view(np.uint16)
    return quants._replace(d=(halves.astype(np.uint32) << 16).view(np.float32))


def _decoded(tensor: StoredTensor, wrong: Misreading, raw: Array) -> Array:
    """Decode the bytes of rows in the wrong way: [n, bytes] -> [n, in] float32."""
    unpack = tensor.encoding.unpack
    assert unpack is not None
    blocks = raw.reshape(-1, tensor.encoding.block_bytes)
    blocks = (wrong.raw(blocks) if wrong.raw else blocks)[:, :, None]
    quants = unpack(blocks, wrong.codebook) if wrong.codebook else unpack(blocks)
    values = (wrong.quants(quants) if wrong.quants else quants).values()[:, :, 0].astype(np.float32)
    values = wrong.values(values) if wrong.values else values
    return values.reshape(len(raw), -1)[:, : tensor.row_length] * np.float32(tensor.scale)


def _rows(tensor: StoredTensor, wrong: Misreading, row: Operation, given: ReferenceInputs) -> Array:
    """Decode the embedding rows of the tokens, [T, C], in the wrong way. Neighbouring rows are also decoded,
    because a misreading may use their scales."""
    tokens = given.tokens
    around = np.unique(np.clip([tokens - 1, tokens, tokens + 1], 0, tensor.shape[0] - 1))
    raw = tensor.data.reshape(tensor.shape[0], -1)[around]
    return _decoded(tensor, wrong, raw)[np.searchsorted(around, tokens)].astype(np.float64)


def _matrix(model: LanguageModel, wrong: Misreading, name: str, experts: Array | None = None) -> Array:
    """Decode a matrix, or the matrices of these experts, in the wrong way."""
    tensor = model.tensors[name]
    if experts is None:
        return _decoded_matrix(tensor, wrong)
    return np.stack([_decoded_matrix(tensor.of_expert(int(expert)), wrong) for expert in experts])


def _decoded_matrix(tensor: StoredTensor, wrong: Misreading) -> Array:
    """Decode a matrix in the wrong way, and keep the tensor's order of rows. Store the result by columns, so
    that products have the same bits as the model's products."""
    stored = tensor.as_stored()
    if wrong.type:
        matrix = replace(stored, encoding=ENCODINGS[wrong.type]).read()
    else:
        matrix = _decoded(stored, wrong, stored.data.reshape(stored.shape[0], -1))
    return tensor.ordered(matrix.T, axis=1).T

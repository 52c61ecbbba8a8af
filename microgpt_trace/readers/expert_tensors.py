"""Join the tensors of the experts of a layer. A file stores the matrices of all experts as one tensor, or
each matrix as a tensor, perhaps with gate and up in one matrix, or in Hugging Face's form of MXFP4. Also join
the gains of the heads of a norm."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from ..arrays.dequantisation import mxfp4_blocks
from ..arrays.encodings import ENCODINGS, StoredTensor
from ..arrays.expert_tensor import NONE, ExpertTensor
from ..arrays.stats import Array
from ..decoder.architecture import FUSED, FileNames
from ..decoder.problems import Problems
from ..errors import InputError
from ..grouping import grouped

BLOCKS, SCALES = ".blocks", ".scales"  # the ends of our names for the two parts of an MXFP4 tensor
RowsOf = Callable[[Array, int], StoredTensor]  # rows of the matrix of an expert
_PIECE = re.compile(rf"#[0-9]+|{BLOCKS}|{SCALES}")


def join_experts(
    tensors: Mapping[str, StoredTensor], names: FileNames, problems: Problems
) -> dict[str, StoredTensor]:
    """Return the tensors with the experts or heads of each layer joined. Raises InputError if a part is
    missing, if parts have different shapes, or if two tensors contain the same parameter. If this is noted,
    such experts are left out."""
    result = dict[str, StoredTensor]()
    for name, of_name in grouped(tensors, lambda name: _PIECE.sub("", name)).items():
        parts = {own: tensors[own] for own in of_name}
        if name.endswith("_experts") or of_name != [name]:
            pieces, parts = {own.removeprefix(name): tensor for own, tensor in parts.items()}, {}
            with problems.noting("missing", name):
                parts = _joined(name, pieces, names)
        with problems.noting("extra", *parts):
            if both := sorted(parts.keys() & result):
                first = tensors[of_name[0]].name
                raise InputError(f"tensor {first!r} and another tensor both contain {both[0]}")
            result |= parts
    return result


def _joined(name: str, pieces: Mapping[str, StoredTensor], names: FileNames) -> dict[str, StoredTensor]:
    """Return the matrices [experts, out, in], biases [experts, out] or gains [heads, D], by name. The keys of
    `pieces` are "", or BLOCKS and SCALES, or #0, #1 and so on."""
    first, *others = (pieces[key] for key in sorted(pieces))
    for tensor in pieces.values():
        if 0 in tensor.shape:
            found = list(tensor.shape)
            raise InputError(f"tensor {tensor.name!r}: expected numbers, found shape {found}")
    if "" in pieces and others:
        raise InputError(f"tensors {first.name!r} and {others[0].name!r} both contain {name}")
    in_folder = not first.name.startswith("blk.")
    if BLOCKS in pieces or SCALES in pieces:
        tensor, rows_of = _mxfp4(name, pieces)
    else:
        tensor = first if "" in pieces else _of_experts(name, {int(n[1:]): own for n, own in pieces.items()})
        if names.experts_in_out and in_folder and "" in pieces and len(tensor.shape) == 3:
            tensor = ExpertTensor.of(tensor.name, tensor.shape[0], partial(_turned, tensor))
        rows_of = partial(_rows_of, tensor)
    prefix, _, own = name.rpartition(".")
    if own not in FUSED:
        return {name: tensor}
    rows = tensor.shape[1] if len(tensor.shape) > 1 else 0
    if not rows or rows % 2:
        raise InputError(f"tensor {first.name!r}: expected as many rows of up as of gate, found {rows}")
    # the rows of gate and up alternate, or all rows of gate come first
    in_pairs = names.experts_in_pairs and in_folder
    orders = np.arange(rows).reshape(-1, 2).T if in_pairs else np.arange(rows).reshape(2, -1)
    shape = (tensor.shape[0], rows // 2, *tensor.shape[2:])
    return {
        f"{prefix}.{part}": ExpertTensor(
            tensor.name, tensor.encoding, shape, NONE, part=partial(rows_of, order)
        )
        for part, order in zip(FUSED[own], orders, strict=True)
    }


def _of_experts(name: str, numbered: Mapping[int, StoredTensor]) -> ExpertTensor:
    ordered = [numbered[e] for e in range(len(numbered)) if e in numbered]
    if len(ordered) < len(numbered):
        missing = next(e for e in range(len(numbered)) if e not in numbered)
        which = "expert" if name.endswith("_experts") else "head"
        text = f"there are tensors of {which} {max(numbered)}, but none of {which} {missing}"
        raise InputError(f"{name}: {text}")
    first = ordered[0]
    for other in ordered:
        if (other.shape, other.encoding) != (first.shape, first.encoding):
            raise InputError(
                f"tensor {other.name!r}: expected {first.encoding.name} of shape {list(first.shape)}, as of "
                f"{first.name!r}, found {other.encoding.name} of {list(other.shape)}"
            )
    before, _, after = first.name.rpartition(".0.")
    return ExpertTensor.of(f"{before}.*.{after}", len(ordered), ordered.__getitem__)


def _turned(tensor: StoredTensor, expert: int) -> StoredTensor:
    return tensor.of_expert(expert).transposed()


def _rows_of(tensor: StoredTensor, rows: Array, expert: int) -> StoredTensor:
    return tensor.of_expert(expert).of_rows(rows)


def _mxfp4(name: str, pieces: Mapping[str, StoredTensor]) -> tuple[StoredTensor, RowsOf]:
    """Return the tensor that Hugging Face stores as blocks [E, rows, n, 16] and scales [E, rows, n]."""
    if pieces.keys() != {BLOCKS, SCALES}:
        found = ", ".join(repr(tensor.name) for tensor in pieces.values())
        raise InputError(f"{name}: expected one tensor of blocks and one of scales, found {found}")
    blocks, scales = pieces[BLOCKS], pieces[SCALES]
    of_blocks = (*blocks.shape[:3], 16)
    for tensor, expected in ((blocks, of_blocks), (scales, of_blocks[:-1])):
        if tensor.shape != expected or len(of_blocks) != 4 or tensor.encoding.name != "U8":
            found = f"{tensor.encoding.name} of shape {list(tensor.shape)}"
            raise InputError(f"tensor {tensor.name!r}: expected U8 of shape {list(expected)}, found {found}")
    rows_of, (experts, rows, count, _) = partial(_packed, blocks, scales), blocks.shape
    stored_as, shape = blocks.name.removesuffix("_blocks"), (experts, rows, count * 32)
    part = partial(rows_of, slice(None))
    return ExpertTensor(stored_as, ENCODINGS["MXFP4"], shape, NONE, part=part), rows_of


def _packed(blocks: StoredTensor, scales: StoredTensor, rows: Array | slice, expert: int) -> StoredTensor:
    """Return the matrix of an expert, of some rows of the file. The bytes of these rows are copied."""
    own = [tensor.of_expert(expert).data.reshape(tensor.shape[1:])[rows] for tensor in (blocks, scales)]
    count, width = own[1].shape
    stored = mxfp4_blocks(*own).reshape(-1)
    return StoredTensor(blocks.name, ENCODINGS["MXFP4"], (count, width * 32), stored)

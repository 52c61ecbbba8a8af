"""The steps that all readers share: rename tensors, put rows in the order of Hugging Face, check shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..arrays.encodings import StoredTensor
from ..decoder.architecture import BY_HEAD, FUSED, FileNames
from ..decoder.catalogue import architecture_named
from ..decoder.config import DecoderConfig
from ..decoder.decoder import Decoder
from ..decoder.problems import Problems
from ..errors import FileFormatError, InputError, naming
from ..plans.blocks import BIASES
from ..plans.plan import layer_of
from ..text.brief import brief
from ..text.wording import counted
from .expert_tensors import join_experts

_PERMUTED = ("attn_wq", "attn_wk", "attn_bq", "attn_bk")  # RoPE rotates pairs of rows of these tensors


def our_tensors(
    path: Path, tensors: Iterable[StoredTensor], names: FileNames, problems: Problems
) -> dict[str, StoredTensor]:
    """Return the tensors under our names, with the tensors of the experts of a layer joined.

    Raises FileFormatError if a name is unknown or repeated, if a layer before the last layer has no tensor,
    or if the tensors of experts do not match. If problems are noted, such tensors are listed as unknown.
    """
    ours: dict[str, StoredTensor] = {}
    others = architecture_named(problems.other.architecture).names if problems.other else names
    for tensor in tensors:
        name = names.our_name(tensor.name) or others.our_name(tensor.name)
        if not problems.strict and (name is None or name in ours):
            problems.unknown.append(tensor.name)
            continue
        if name is None:
            hint = nearest(tensor.name[:200], names.like(tensor.name))
            raise FileFormatError(f"{path}: tensor {brief(tensor.name)} is not part of {names.family}{hint}")
        if name in ours:
            raise FileFormatError(f"{path}: tensors {ours[name].name!r} and {tensor.name!r} are both {name}")
        ours[name] = tensor
    for i, number in enumerate(sorted(layers_of(ours))):
        if i != number and problems.strict:
            raise FileFormatError(f"{path}: there are tensors of layer {number}, but none of layer {i}")
    with naming(path, FileFormatError):
        return join_experts(ours, names, problems)


def layers_of(tensors: Iterable[str]) -> set[int]:
    """Return the numbers of the layers that have a tensor."""
    return {layer for name in tensors if (layer := layer_of(name)) is not None}


def checked_depth(n_layer: int, tensors: Iterable[str], problems: Problems) -> int:
    """Return the number of layers. Raises InputError if fewer than `n_layer` layers have tensors, before
    memory is allocated per layer. If this is noted, return the number of layers of the other file."""
    count, other = len(layers_of(tensors)), problems.other
    if n_layer <= (max(count, other.n_layer) if other else count):
        return n_layer
    error = InputError(f"expected {n_layer:,} layers, found tensors of {count}")
    problems.note("setting", error, "n_layer")
    return other.n_layer if other else max(count, 1)


def biases_of(tensors: Iterable[str]) -> tuple[str, ...]:
    """Return the kinds of biases that at least one layer has, in the order of BIASES."""
    kinds = {name.rpartition(".")[2] for name in tensors}
    return tuple(bias for bias in BIASES if bias in kinds)


def checked_decoder(path: Path, config: DecoderConfig, file: Problems) -> Decoder:
    """Return the decoder in a file. Raises FileFormatError if a tensor is missing, has a wrong shape or does
    not belong to the model."""
    shapes, tensors = config.shapes(), file.tensors
    if unread := [tensors.pop(name) for name in config.unused if name in tensors]:
        count = counted(len(unread), "tensor")
        file.assumed.append(f"left out: {count} of layers that read keys and values of earlier layers")
    for name, shape in shapes.items():
        if name not in tensors:
            raise FileFormatError(f"{path}: tensor {name!r} is missing{nearest(name, tensors)}")
        tensor = tensors[name]
        if (*tensor.shape, 1, 1) == shape:  # a number for each expert
            tensor = tensors[name] = replace(tensor, shape=shape)
        if tensor.shape != shape:
            expected, found = (_in_file(tensor, own) for own in (shape, tensor.shape))
            raise FileFormatError(f"{path}: tensor {tensor.name!r}: expected shape {expected}, found {found}")
    extra = [name for name in tensors if name not in shapes]
    if extra:
        raise FileFormatError(
            f"{path}: tensor {tensors[extra[0]].name!r} is not part of a {config.architecture} with "
            f"{config.n_layer} layers{nearest(extra[0], shapes)}"
        )
    if config.adjacent_pairs:
        tensors = in_halves(config.head_dim, tensors)
    about = (file.origin, file.format, file.load_vocabulary, file.metadata, tuple(file.assumed))
    return Decoder(config, tensors, *about)


def _in_file(tensor: StoredTensor, shape: tuple[int, ...]) -> list[int]:
    """Return the dimensions of a shape in the order of the file."""
    return [*shape[:-2], *shape[-2:][:: -1 if tensor.by_columns else 1]]


def check_heads(config: DecoderConfig, tensors: Mapping[str, StoredTensor]) -> None:
    """Raise InputError if the heads need more rows than any tensor has, before memory is allocated."""
    rows = config.n_head * config.head_dim
    largest = max((tensor.shape[0] for tensor in tensors.values() if tensor.shape), default=0)
    if largest < rows:
        raise InputError(
            f"{config.n_head:,} heads of {config.head_dim:,} channels need {rows:,} rows of q, and no tensor "
            f"has more than {largest:,}",
            "n_head",
        )


def split_fused(
    tensors: Mapping[str, StoredTensor], sizes: Mapping[str, int], by_head: bool, problems: Problems
) -> dict[str, StoredTensor]:
    """Return the tensors with each fused matrix or bias split into its parts, such as q, k and v.

    The parts follow each other, or in Hugging Face files alternate head by head if `by_head` is true. Raises
    InputError if the number of rows of a fused tensor differs from the sum of its parts. The sizes of the
    other file go first, if they fit.
    """
    layouts = [sizes]
    if problems.other:
        layouts = [vars(problems.other), sizes]
    result: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        prefix, _, kind = name.rpartition(".")
        if kind not in FUSED:
            result[name] = tensor
            continue
        parts = {part: part.partition("_")[2][1:] for part in FUSED[kind]}  # such as q, k and v
        with problems.noting("unfit", *(f"{prefix}.{part}" for part in parts)):
            rows = tensor.shape[0] if tensor.shape else "a single number"
            fitting = (own for own in layouts if sum(_rows(what, own) for what in parts.values()) == rows)
            layout = next(fitting, layouts[0])
            counts = [_rows(what, layout) for what in parts.values()]
            if rows != sum(counts):
                *first, last = (f"{n} rows of {what}" for n, what in zip(counts, parts.values(), strict=True))
                expected = f"{', '.join(first)} and {last}"
                raise InputError(f"tensor {tensor.name!r}: expected {expected}, found {rows}")
            in_turn = by_head and kind.startswith("attn") and not tensor.name.startswith("blk.")
            heads = layout["n_kv_head"] if in_turn or kind in BY_HEAD else 1
            starts = np.cumsum(counts)[:-1] // heads
            for part, own in zip(parts, np.split(np.arange(rows).reshape(heads, -1), starts, 1), strict=True):
                if (whole := f"{prefix}.{part}") in tensors:
                    raise InputError(f"tensor {tensor.name!r} and another tensor both contain {whole}")
                result[whole] = tensor.of_rows(own.ravel())
    return result


def _rows(part: str, sizes: Mapping[str, int]) -> int:
    """Return the number of rows of a part of a fused tensor, such as "q"."""
    dim, rope_dim = sizes["head_dim"], sizes.get("rope_dim", 0)
    rows = {
        "q": sizes["n_head"] * dim, "k": sizes["n_kv_head"] * dim, "q_pe": sizes["n_head"] * rope_dim,
        "v": sizes["n_kv_head"] * sizes.get("value_dim", dim), "k_pe": rope_dim,
        "kv_a": sizes.get("latent_rank", 0),
    }  # fmt: skip
    return rows.get(part, sizes["n_inner"])


def rope_factors(factors: StoredTensor | None, head_dim: int) -> tuple[float, ...]:
    """Return the values of the tensor rope_freqs. Raises InputError if `factors` has a wrong shape."""
    if factors is None:
        return ()
    if factors.shape != (head_dim // 2,):
        found = list(factors.shape)
        raise InputError(f"tensor {factors.name!r}: expected shape [{head_dim // 2}], found {found}")
    return tuple(factors.read().tolist())


def in_halves(head_dim: int, tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the tensors with the rows of q and k reordered: from adjacent RoPE pairs to Hugging Face order.
    Tensors of other shapes stay as they are.

    In Hugging Face order, RoPE rotates channel j of a head of D channels together with channel j + D/2.
    Converters to GGUF reorder the rows of a llama so that the channels of a pair are neighbours.
    """
    reordered = {
        name: even_rows_first(tensor, head_dim) for name, tensor in tensors.items()
        if name.endswith(_PERMUTED) and tensor.shape and tensor.shape[0] % head_dim == 0
    }  # fmt: skip
    return {**tensors, **reordered}


def even_rows_first(tensor: StoredTensor, head_dim: int) -> StoredTensor:
    """Return the tensor with the rows of each head in the order 0, 2, 4 ... 1, 3, 5 ..."""
    pairs = np.arange(tensor.shape[0]).reshape(-1, head_dim // 2, 2)
    return tensor.of_rows(pairs.swapaxes(1, 2).ravel())


def nearest(name: str, names: Iterable[str]) -> str:
    """Return " (nearest: …)" with the names most similar to `name`, or "" if no name is similar."""
    from difflib import get_close_matches

    matches = get_close_matches(name, list(names), 3)
    return f" (nearest: {', '.join(matches)})" if matches else ""

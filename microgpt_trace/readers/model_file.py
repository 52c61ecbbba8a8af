"""What every reader does: tensors under our names, in the order of Hugging Face, held against a config."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..architecture.plans.blocks import BIASES
from ..arrays.encodings import StoredTensor
from ..arrays.stats import Array
from ..decoder.config import DecoderConfig
from ..errors import FileFormatError, InputError
from ..text.brief import brief
from .file_terms import FUSED, LLAMA, TERMS, Names

if TYPE_CHECKING:
    from collections.abc import Iterator

_TURNED = ("attn_wq", "attn_wk", "attn_bq", "attn_bk")  # whose rows RoPE turns in pairs


@contextmanager
def blaming(path: Path) -> Iterator[None]:
    """Say which file it was that described something impossible."""
    try:
        yield
    except InputError as error:
        raise FileFormatError(f"{path}: {error}") from error


def by_our_names(
    path: Path, tensors: Iterable[StoredTensor], names: Names = LLAMA
) -> dict[str, StoredTensor]:
    """The tensors under our names. Raises FileFormatError for a name that is none of a decoder's, and
    where all tensors of a layer are missing before the last one."""
    ours: dict[str, StoredTensor] = {}
    for tensor in tensors:
        name = names.our_name(tensor.name)
        if name is None:
            raise FileFormatError(
                f"{path}: tensor {brief(tensor.name)} is none of {names.of}{_listed(names.like(tensor.name))}"
            )
        if name in ours:
            raise FileFormatError(f"{path}: tensors {ours[name].name!r} and {tensor.name!r} are the same")
        ours[name] = tensor
    numbers = _layers_of(ours)
    for i, number in enumerate(sorted(numbers)):
        if i != number:
            raise FileFormatError(f"{path}: there are tensors of layer {number}, but none of layer {i}")
    return ours


def _layers_of(tensors: Iterable[str]) -> set[int]:
    """The numbers of the layers that have a tensor."""
    layers = {name.partition(".")[0] for name in tensors if "." in name}
    return {int(layer.removeprefix("layer")) for layer in layers}


def check_depth(n_layer: int, tensors: Iterable[str]) -> None:
    """Raises InputError where there are fewer layers; before anything is made for each of them."""
    found = len(_layers_of(tensors))
    if n_layer > found:
        raise InputError(f"expected {n_layer:,} layers, found tensors of {found}")


def biases_of(tensors: Iterable[str]) -> tuple[str, ...]:
    """Which biases the layers have, in the order of BIASES."""
    kinds = {name.rpartition(".")[2] for name in tensors}
    return tuple(bias for bias in BIASES if bias in kinds)


def check_biases(architecture: str, found: Iterable[str]) -> None:
    """Raises InputError where no layer has one of the biases that the architecture has."""
    missing = set(TERMS[architecture].biases).difference(found)
    if missing:
        raise InputError(f"a {architecture} has a bias 'layer0.{min(missing)}', which is not there")


def check_tensors(path: Path, config: DecoderConfig, tensors: Mapping[str, StoredTensor]) -> None:
    """Raises FileFormatError naming a tensor that is missing, of another shape, or too many."""
    _check_heads(path, config, tensors)
    shapes = config.shapes()
    for name, shape in shapes.items():
        if name not in tensors:
            raise FileFormatError(f"{path}: tensor {name!r} is missing{nearest(name, tensors)}")
        found = tensors[name].shape
        if found != shape:
            theirs, order = tensors[name].name, -1 if tensors[name].by_columns else 1  # as the file has it
            raise FileFormatError(
                f"{path}: tensor {theirs!r}: expected shape {list(shape)[::order]}, "
                f"found {list(found)[::order]}"
            )
    extra = [name for name in tensors if name not in shapes]
    if extra:
        raise FileFormatError(
            f"{path}: tensor {tensors[extra[0]].name!r} is one too many for {config.n_layer} layers of "
            f"{config.architecture}{nearest(extra[0], shapes)}"
        )


def _check_heads(path: Path, config: DecoderConfig, tensors: Mapping[str, StoredTensor]) -> None:
    """Raises FileFormatError for more heads than any tensor has rows for, before a row is made for each."""
    rows = config.n_head * config.head_dim
    if all(tensor.shape[0] < rows for tensor in tensors.values() if tensor.shape):
        largest = max((tensor.shape[0] for tensor in tensors.values() if tensor.shape), default=0)
        raise FileFormatError(
            f"{path}: {config.n_head:,} heads of {config.head_dim:,} channels need {rows:,} rows of q, and "
            f"no tensor has more than {largest:,}"
        )


def unfused(tensors: Mapping[str, StoredTensor], queries: int, keys: int) -> dict[str, StoredTensor]:
    """The tensors with matrices and biases of q, k and v that lie in one apart: so many rows are q's, and so
    many k's and v's each. Raises InputError where they are not as many."""
    found: dict[str, StoredTensor] = {}
    for name, tensor in tensors.items():
        prefix, _, kind = name.rpartition(".")
        if kind not in FUSED:
            found[name] = tensor
            continue
        rows = tensor.shape[0] if tensor.shape else "a single number"
        if rows != queries + 2 * keys:
            expected = f"{queries} rows of q and {keys} each of k and v"
            raise InputError(f"tensor {tensor.name!r}: expected {expected}, found {rows}")
        ends = (0, queries, queries + keys, queries + 2 * keys)
        for own, start, stop in zip(FUSED[kind], ends, ends[1:], strict=False):
            found[f"{prefix}.{own}"] = tensor.of_rows(np.arange(start, stop))
    return found


def rope_factors(factors: StoredTensor | None, head_dim: int) -> tuple[float, ...]:
    """The numbers of a GGUF's rope_freqs. Raises InputError where pairs of channels lack one."""
    if factors is None:
        return ()
    if factors.shape != (head_dim // 2,):
        found = list(factors.shape)
        raise InputError(f"tensor {factors.name!r}: expected shape [{head_dim // 2}], found {found}")
    return tuple(factors.read().tolist())


def in_halves(config: DecoderConfig, tensors: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors with rows of q and k in Hugging Face order, of a file that has them in adjacent pairs.

    RoPE turns channel j of a head with channel j + D/2; converters to GGUF put the rows of a llama so that
    these are neighbours.
    """
    return {
        name: tensor.of_rows(_halves(tensor.shape[0], config.head_dim)) if name.endswith(_TURNED) else tensor
        for name, tensor in tensors.items()
    }


def _halves(rows: int, head_dim: int) -> Array:
    """Where rows in Hugging Face order lie among adjacent pairs: 0, 2, 4 ... 1, 3, 5 ... of each head."""
    return np.arange(rows).reshape(-1, head_dim // 2, 2).swapaxes(1, 2).ravel()


def nearest(name: str, names: Iterable[str]) -> str:
    """Names like this one, in words."""
    from difflib import get_close_matches

    return _listed(get_close_matches(name, list(names), 3))


def _listed(names: list[str]) -> str:
    return f" (nearest: {', '.join(names)})" if names else ""

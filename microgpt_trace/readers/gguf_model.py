"""Open a GGUF file as a decoder: translate its metadata to a config, and its tensor names to our names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..arrays.encodings import StoredTensor
from ..decoder.architecture import Architecture
from ..decoder.catalogue import ARCHITECTURES, GGUF_NAMES, architecture_named
from ..decoder.config import DecoderConfig
from ..decoder.model import Decoder
from ..decoder.options import LONG, ROPE_FACTORS, SHORT
from ..decoder.settings import POSITIVE, WHOLE, Settings, is_count
from ..errors import FileFormatError, InputError, naming
from ..text.brief import brief
from .decoder_config import check_overrides, decoder_config, obstacles, overridden, unsupported
from .gguf import Strings, read_gguf_header
from .model_file import check_depth, check_tensors, in_halves, our_tensors, rope_factors

if TYPE_CHECKING:
    from ..vocabulary.tokens import Vocabulary

FACTORS = "rope_freqs.weight"  # the divisors of llama3 scaling
MAX_MERGES = 16  # the largest number of merges per token; Llama 3 has two


def read_gguf(path: Path, overrides: Mapping[str, Any] = {}) -> Decoder:
    """Open the decoder in a GGUF file. A tensor is read from the file at each use of the tensor. `overrides`
    maps keys of config.json to values that replace those of the file.

    Raises FileFormatError if the file is damaged or incomplete, or its architecture is not supported.
    """
    header = read_gguf_header(path)
    notes: list[str] = []
    stored = {tensor.name: tensor for tensor in header.tensors}
    with naming(path, FileFormatError):
        name, architecture = _architecture(header.metadata)
        factors = {name: stored.pop(name) for name in (FACTORS, LONG, SHORT) if name in stored}
        tensors = our_tensors(path, stored.values(), architecture.names)
        keys = Settings(header.metadata, notes, f"{header.metadata['general.architecture']}.")
        config, tensors = _config(name, architecture, keys, tensors, factors, overrides)
    tensors = {name: _with_rows(own, config.shapes().get(name, ())) for name, own in tensors.items()}
    check_tensors(path, config, tensors)
    tensors = in_halves(config, tensors) if config.adjacent_pairs else tensors
    kind = f"GGUF v{header.version}"
    vocabulary = partial(_vocabulary, path, header.metadata, config.vocab_size)
    return Decoder(config, tensors, str(path), kind, vocabulary, header.metadata, tuple(notes))


def _architecture(metadata: Mapping[str, Any]) -> tuple[str, Architecture]:
    """Return the name in the catalogue, and the architecture. Raises InputError if GGUF files have no such
    architecture."""
    value = metadata.get("general.architecture")
    experts = metadata.get("llama.expert_count")
    if isinstance(value, str) and value == "llama" and is_count(experts) and experts:
        value = "llama with experts"
    own = GGUF_NAMES.get(value, value) if isinstance(value, str) else ""
    if own in ARCHITECTURES and value not in GGUF_NAMES.values():
        found = architecture_named(own)
        if found.from_gguf is not None:
            return own, found
    others = {own: name for name, own in GGUF_NAMES.items()}
    names = [others.get(name, name) for name in ARCHITECTURES if architecture_named(name).from_gguf]
    unknown = obstacles(metadata, f"{value}.")
    raise InputError(unsupported(value, names, unknown, " (which includes mistral)"))


def _with_rows(tensor: StoredTensor, shape: tuple[int, ...]) -> StoredTensor:
    """Return a matrix of one row as a matrix. GGUF files store such a matrix as a vector."""
    return replace(tensor, shape=shape) if shape == (1, *tensor.shape) else tensor


def _vocabulary(path: Path, metadata: Mapping[str, Any], rows: int) -> Vocabulary | None:
    """Return the vocabulary in the metadata. Raises FileFormatError if the metadata list too many tokens or
    merges to decode."""
    from ..vocabulary.metadata import from_gguf

    for key, most in (("tokens", rows), ("merges", MAX_MERGES * rows)):
        texts = metadata.get(f"tokenizer.ggml.{key}")
        if isinstance(texts, Strings) and len(texts) > most:
            raise FileFormatError(
                f"{path}: tokenizer.ggml.{key}: expected at most {most:,} entries, because "
                f"token_embd.weight has {rows:,} rows, found {len(texts):,} entries"
            )
    return from_gguf(metadata, path)


def _divisors(tensor: StoredTensor, head_dim: int) -> tuple[float, ...]:
    """Return the divisors of longrope. Raises InputError if there are more divisors than pairs in a head."""
    if len(tensor.shape) != 1 or not 0 < tensor.shape[0] <= head_dim // 2:
        found = list(tensor.shape)
        raise InputError(f"tensor {tensor.name!r}: expected up to {head_dim // 2} numbers, found {found}")
    return tuple(tensor.read().tolist())


_NEUTRAL: dict[str, tuple[Any, ...]] = {  # keys, and the values that leave the computation unchanged
    "attention.causal": (True,),
    "attention.scale": (0,),
    "attention.clamp_kqv": (0,),
    "attn_logit_softcapping": (0,),
    "final_logit_softcapping": (0,),
    "logit_scale": (0, 1),
    "residual_scale": (0, 1),
    "embedding_scale": (0, 1),
    "use_parallel_residual": (False,),
    "expert_count": (0,),
    "expert_weights_scale": (0, 1),
    "expert_group_count": (0, 1),
}


def _refuse_variants(keys: Settings) -> None:
    """Raise InputError if the metadata require a computation that the architecture does not read."""
    for key, neutral in _NEUTRAL.items():
        value = None if key in keys.used else keys.values.get(keys.prefix + key)
        if value is not None and not (type(value) in (int, float, bool) and value in neutral):
            raise InputError(f"{keys.prefix}{key} = {brief(value)} is not supported")


def _config(
    name: str, architecture: Architecture, keys: Settings, tensors: Mapping[str, StoredTensor],
    factors: Mapping[str, StoredTensor], overrides: Mapping[str, Any],
) -> tuple[DecoderConfig, dict[str, StoredTensor]]:  # fmt: skip
    """Return the config, and the tensors with fused qkv split into q, k and v."""
    if "wte" not in tensors:
        raise InputError("tensor 'token_embd.weight' is missing")
    vocab_size = tensors["wte"].shape[0]
    stated = keys.get("vocab_size", WHOLE) or vocab_size
    if stated != vocab_size:
        raise InputError(f"vocab_size {stated:,} differs from the {vocab_size:,} rows of token_embd.weight")
    width, n_head = keys.require("embedding_length", WHOLE), keys.require("attention.head_count", WHOLE)
    head_dim = keys.get("attention.key_length", WHOLE) or width // n_head
    size = keys.get("attention.value_length", WHOLE) or head_dim
    if size != head_dim:
        raise InputError(f"attention.value_length {size} differs from the {head_dim} channels of a head")
    sizes = {
        "n_layer": keys.require("block_count", WHOLE), "n_embd": width, "n_head": n_head,
        "head_dim": head_dim, "n_kv_head": keys.get("attention.head_count_kv", WHOLE) or n_head,
        "n_inner": keys.require("feed_forward_length", WHOLE), "vocab_size": vocab_size,
        "context_length": keys.require("context_length", WHOLE),
        "norm_eps": keys.require(architecture.gguf_eps, POSITIVE),
    }  # fmt: skip
    check_depth(sizes["n_layer"], tensors)
    values = {theirs: sizes[own] for own, theirs in architecture.sizes.items()}
    values["tie_word_embeddings"] = "lm_head" not in tensors
    values[ROPE_FACTORS] = rope_factors(factors.get(FACTORS), head_dim)
    long = {name: _divisors(own, head_dim) for name, own in factors.items() if name != FACTORS}
    assert architecture.from_gguf is not None
    values |= architecture.from_gguf(keys, sizes | long)
    _refuse_variants(keys)
    settings = Settings(overridden(values, overrides), keys.notes)
    config, tensors = decoder_config(name, settings, tensors, architecture.permuted)
    check_overrides(settings, overrides)
    if factors and (config.rope is None or (long and config.rope.kind != "longrope")):
        raise InputError(f"tensor {max(factors)!r} is not part of {architecture.names.family}")
    return config, tensors

"""Open a GGUF file as a decoder: translate its metadata to a config, and its tensor names to our names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays.encodings import ENCODINGS, StoredTensor
from ..arrays.expert_tensor import of_heads
from ..decoder.architecture import Architecture
from ..decoder.catalogue import ARCHITECTURES, GGUF_NAMES, architecture_named
from ..decoder.config import DecoderConfig
from ..decoder.decoder import Decoder
from ..decoder.problems import Problems
from ..decoder.settings import COUNT, POSITIVE, WHOLE, Settings
from ..decoder.shared_options import LONG, ROPE_FACTORS, SHORT
from ..errors import FileFormatError, InputError, naming
from ..text.brief import brief
from ..untrusted_files import is_count
from ..vocabulary.metadata import from_gguf
from .decoder_config import check_overrides, decoder_config, overridden, unsupported
from .gguf import Strings, read_gguf_header
from .model_file import checked_decoder, checked_depth, our_tensors, rope_factors
from .text_part import TextPart, further_layers

if TYPE_CHECKING:
    from ..vocabulary.tokens import Vocabulary

FACTORS = "rope_freqs.weight"  # the divisors of llama3 scaling
FURTHER = "nextn_predict_layers"  # the last blocks, which predict further tokens
MAX_MERGES = 16  # the largest number of merges per token; Llama 3 has two


def read_gguf(path: Path, overrides: Mapping[str, Any] = {}, problems: Problems | None = None) -> Decoder:
    """Open the decoder in a GGUF file. A tensor is read from the file at each use of the tensor. `overrides`
    maps keys of config.json to values that replace those of the file.

    Raises FileFormatError if the file is damaged or incomplete, or its architecture is not supported. Then
    `problems` that are not strict have all reasons, and what could be read.
    """
    problems, header = problems or Problems(str(path)), read_gguf_header(path)
    stored = {tensor.name: tensor for tensor in header.tensors}
    with naming(path, FileFormatError):
        own, prefix = _own_name(header.metadata, problems)
        name = problems.architecture(lambda: _architecture(own, header.metadata))
        architecture = architecture_named(name)
        if architecture.from_gguf is None:  # the other file is a mistral or another that GGUF calls otherwise
            name = next(own for own, module in ARCHITECTURES.items() if module == ARCHITECTURES[name])
            architecture = architecture_named(name)
        factors = {name: stored.pop(name) for name in (FACTORS, LONG, SHORT) if name in stored}
        keys = Settings(header.metadata, problems, prefix)
        keys.by_layer = architecture.by_layer
        for key in architecture.names.more:  # metadata may contain a number for each layer
            if isinstance(values := header.metadata.get(key), np.ndarray) and values.dtype == np.float32:
                data = {f"blk.{i}.{key}": value[None].view(np.uint8) for i, value in enumerate(values)}
                stored |= {n: StoredTensor(n, ENCODINGS["F32"], (1,), own) for n, own in data.items()}
        further = further_layers(keys.raw("block_count"), keys.raw(FURTHER), included=True)
        part = TextPart(architecture.names, further)
        own_tensors = [tensor for tensor in stored.values() if part.has(tensor.name)]
        problems.tensors = our_tensors(path, own_tensors, architecture.names, problems)
        problems.assumed += part.notes
        problems.load_vocabulary = partial(_vocabulary, path, header.metadata, _rows(problems))
        problems.format, problems.metadata = f"GGUF v{header.version}", header.metadata
        config = _config(name, architecture, keys, factors, overrides)
    shapes = config.shapes()
    for name, own in problems.tensors.items():
        if len(own.shape) == 3 and len(shapes.get(name, ())) == 2:  # a matrix for each head
            turned = own.name.endswith(architecture.names.turned_in_gguf or "\0")
            problems.tensors[name] = own = of_heads(own, turned)
        if shapes.get(name) == (1, *own.shape):  # GGUF files store a matrix of one row as a vector
            problems.tensors[name] = replace(own, shape=shapes[name])
    return checked_decoder(path, config, problems)


def _own_name(metadata: Mapping[str, Any], problems: Problems) -> tuple[Any, str]:
    """Return the name of the architecture, and the prefix of its keys. If problems are noted, both come
    from the keys if the file names another architecture."""
    name = metadata.get("general.architecture")
    keys = [key for key in metadata if key.endswith(".block_count")]
    if not problems.strict and keys and f"{name}.block_count" not in keys:
        found = keys[0].removesuffix(".block_count")
        text = f"general.architecture is {brief(name)}, but the names of settings begin with {brief(found)}"
        problems.note("setting", InputError(text), "architecture")
        name = found
    return name, f"{name}."


def _architecture(value: Any, metadata: Mapping[str, Any]) -> str:
    """Return the name in the catalogue. Raises InputError if GGUF files have no such architecture."""
    for key, words in (("llama.expert_count", "experts"), ("olmo2.attention.sliding_window", "windows")):
        count = metadata.get(key)
        if isinstance(value, str) and key.startswith(f"{value}.") and is_count(count) and count:
            value = f"{value} with {words}"
    if value == "deepseek2" and not _by_sigmoid(metadata):
        value = "deepseek2 with softmax"
    own = GGUF_NAMES.get(value, value) if isinstance(value, str) else ""
    if own in ARCHITECTURES and value not in GGUF_NAMES.values():
        found = architecture_named(own)
        if found.from_gguf is not None:
            return own
    others = {own: name for name, own in GGUF_NAMES.items()}
    names = [others.get(name, name) for name in ARCHITECTURES if architecture_named(name).from_gguf]
    raise unsupported(value, names, metadata, f"{value}.", " (which includes mistral)")


def _by_sigmoid(metadata: Mapping[str, Any]) -> bool:
    """Return True if the router of a deepseek2 uses a sigmoid. If the file does not say so, llama.cpp takes a
    sigmoid for GLM-4.7-Flash only, which the numbers of layers and tokens tell."""
    gating, depth, size = (
        metadata.get(f"deepseek2.{key}") for key in ("expert_gating_func", "block_count", "vocab_size")
    )
    return gating == 2 if gating else bool(depth in (47, 48) and size == 154_880)


def _vocabulary(path: Path, metadata: Mapping[str, Any], rows: int) -> Vocabulary | None:
    """Return the vocabulary in the metadata. Raises FileFormatError if the metadata list too many tokens or
    merges to decode."""
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


def _refuse_variants(keys: Settings, head_dim: int) -> None:
    """Raise InputError if the metadata require a computation that the architecture does not read."""
    size = keys.values.get(f"{keys.prefix}attention.value_length", head_dim)
    if "attention.value_length" not in keys.used and size != head_dim:
        raise InputError(f"attention.value_length {size} differs from the {head_dim} channels of a head")
    for key, neutral in _NEUTRAL.items():
        value = None if key in keys.used else keys.values.get(keys.prefix + key)
        keys.last = key
        if value is not None and not (type(value) in (int, float, bool) and value in neutral):
            raise InputError(f"{keys.prefix}{key} = {brief(value)} is not supported")


def _config(
    name: str, architecture: Architecture, keys: Settings, factors: Mapping[str, StoredTensor],
    overrides: Mapping[str, Any],
) -> DecoderConfig:  # fmt: skip
    """Return the config. Split fused qkv into q, k and v."""
    problems, tensors = keys.problems, keys.problems.tensors
    if "wte" not in tensors and problems.strict:
        raise InputError("tensor 'token_embd.weight' is missing")
    with problems.noting("setting", "vocab_size"):
        vocab_size = _rows(problems)
        stated = keys.get("vocab_size", WHOLE) or vocab_size
        if stated != vocab_size:
            raise InputError(
                f"vocab_size {stated:,} differs from the {vocab_size:,} rows of token_embd.weight"
            )
    sizes = keys.reading(lambda: _sizes(architecture, keys, vocab_size))
    head_dim, n_layer = sizes["head_dim"], checked_depth(sizes["n_layer"], tensors, problems)
    values = {theirs: sizes[own] for own, theirs in architecture.sizes.items()}
    values["tie_word_embeddings"] = "lm_head" not in tensors
    long: dict[str, Any] = {}
    with problems.noting("setting", "rope_factors"):
        values[ROPE_FACTORS] = rope_factors(factors.get(FACTORS), head_dim)
        long = {name: _divisors(own, head_dim) for name, own in factors.items() if name != FACTORS}
    translate = architecture.from_gguf
    assert translate is not None
    values |= keys.reading(lambda: translate(keys, sizes | {"n_layer": n_layer} | long))
    keys.reading(lambda: _refuse_variants(keys, head_dim))
    settings = Settings(overridden(values, overrides), problems)
    config = decoder_config(name, settings, architecture.permuted)
    check_overrides(settings, overrides)
    with problems.noting("setting", "rope_factors"):
        if factors and (config.rope is None or (long and config.rope.kind != "longrope")):
            raise InputError(f"tensor {max(factors)!r} is not part of {architecture.names.family}")
    return config


def _rows(problems: Problems) -> int:
    """Return the number of rows of the token embedding, or else of the output matrix or of the other file."""
    tensors = problems.tensors
    found = next((tensors[name].shape[0] for name in ("wte", "lm_head") if name in tensors), 1)
    return problems.other.vocab_size if problems.other and "wte" not in tensors else found


def _sizes(architecture: Architecture, keys: Settings, vocab_size: int) -> dict[str, Any]:
    """Return the dimensions, by our names."""
    width, n_head = keys.require("embedding_length", WHOLE), keys.require("attention.head_count", WHOLE)
    head_dim = keys.get("attention.key_length", WHOLE) or width // n_head
    return {
        "n_layer": keys.require("block_count", WHOLE) - (keys.get(FURTHER, COUNT) or 0),
        "n_embd": width, "n_head": n_head, "head_dim": head_dim,
        "n_kv_head": keys.get("attention.head_count_kv", WHOLE) or n_head,
        "n_inner": keys.require("feed_forward_length", WHOLE), "vocab_size": vocab_size,
        "context_length": keys.require("context_length", WHOLE),
        "norm_eps": keys.require(architecture.gguf_eps, POSITIVE),
    }  # fmt: skip

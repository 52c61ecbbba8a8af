"""A Hugging Face folder: config.json, safetensors files (one, or sharded by an index), tokenizer.json.

Safetensors: u64 length of the header, the header as JSON {name: {dtype, shape, data_offsets}}, then
the data, to which the offsets refer. Source: the format description of the safetensors project.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..decoder import ARCHITECTURES, DecoderConfig, Rope
from ..encodings import ENCODINGS, StoredTensor
from ..errors import FileFormatError, InputError
from .model_file import ModelFile, biases_of, blaming, by_our_names, check_tensors, map_file

if TYPE_CHECKING:
    from ..vocabulary.tokens import Vocabulary

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = WEIGHTS + ".index.json"
_ENCODINGS = {"F32": "F32", "F16": "F16", "BF16": "BF16"}
_BUFFERS = ("rotary_emb.inv_freq", "masked_bias")  # constants that old files store


def read_huggingface(folder: Path) -> ModelFile:
    """Describe the decoder of a folder; its tensors stay in the files.

    Raises FileFormatError for files that are damaged, of another architecture, or incomplete.
    """
    path = folder / CONFIG
    metadata = read_json(path)
    notes: list[str] = []
    stored = [tensor for tensor in _tensors(folder) if not tensor.name.endswith(_BUFFERS)]
    tensors = by_our_names(folder, stored)
    with blaming(path):
        config = _config(metadata, tensors, notes)
    if config.tied and "lm_head" in tensors:
        notes.append(f"{tensors.pop('lm_head').name} is not used: the config ties the head to the embedding")
    check_tensors(folder, config, tensors)

    def vocabulary() -> Vocabulary | None:
        from ..vocabulary.huggingface import from_huggingface

        return from_huggingface(folder)

    return ModelFile(folder, "Hugging Face folder", config, tensors, metadata, vocabulary, tuple(notes))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises FileFormatError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FileFormatError(f"{path}: no such file") from error
    except OSError as error:
        raise FileFormatError(f"{path}: cannot read it ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: expected JSON ({error})") from error
    if not isinstance(value, dict):
        raise FileFormatError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _tensors(folder: Path) -> list[StoredTensor]:
    if (folder / WEIGHTS).exists():
        return read_safetensors(folder / WEIGHTS)
    if not (folder / INDEX).exists():
        found = ", ".join(sorted(p.name for p in folder.iterdir())[:6])
        raise FileFormatError(f"{folder}: expected {WEIGHTS} or {INDEX}, found {found}")
    placed = read_json(folder / INDEX).get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise FileFormatError(f"{folder / INDEX}: expected a weight_map from tensors to files")
    tensors = []
    for file in sorted(set(placed.values())):
        if Path(file).name != file or not file.endswith(".safetensors"):
            raise FileFormatError(f"{folder / INDEX}: {file!r} is not a safetensors file of this folder")
        shard = read_safetensors(folder / file)
        for tensor in shard:
            if placed.get(tensor.name) != file:
                raise FileFormatError(
                    f"{folder / INDEX}: tensor {tensor.name!r} of {file} is not placed there"
                )
        tensors += shard
    missing = placed.keys() - {tensor.name for tensor in tensors}
    if missing:
        name = min(missing)
        raise FileFormatError(f"{folder / placed[name]}: tensor {name!r} of the index is not there")
    return tensors


def read_safetensors(path: Path) -> list[StoredTensor]:
    """The tensors of a file, in the order of their data."""
    if not path.is_file():
        raise FileFormatError(f"{path}: no such file")
    content = map_file(path)
    size = int.from_bytes(bytes(content[:8]), "little")
    if len(content) < 8 or size > len(content) - 8:
        raise FileFormatError(f"{path}: expected a safetensors file, found a header past its end")
    try:
        header = json.loads(bytes(content[8 : 8 + size]))
        entries = [(name, entry) for name, entry in header.items() if name != "__metadata__"]
        named = [(name, e["dtype"], tuple(e["shape"]), *e["data_offsets"]) for name, e in entries]
        named.sort(key=lambda entry: entry[3])
    except (ValueError, RecursionError, AttributeError, KeyError, TypeError) as error:
        raise FileFormatError(f"{path}: expected a safetensors file, found no such header") from error
    data = content[8 + size :]
    tensors, last = [], 0
    for name, dtype, shape, start, stop in named:
        tensors.append(
            _tensor(path, name, dtype, shape, data[_span(path, name, start, stop, last, len(data))])
        )
        last = stop
    return tensors


def _span(path: Path, name: str, start: Any, stop: Any, last: int, size: int) -> slice:
    if not all(isinstance(n, int) for n in (start, stop)) or not last <= start <= stop:
        raise FileFormatError(f"{path}: tensor {name!r} lies at {start} to {stop}, over another or nowhere")
    if stop > size:
        raise FileFormatError(f"{path}: tensor {name!r} ends past the end of the file: it is cut short")
    return slice(start, stop)


def _tensor(path: Path, name: str, dtype: Any, shape: tuple[Any, ...], data: Any) -> StoredTensor:
    if dtype not in _ENCODINGS:
        raise FileFormatError(
            f"{path}: tensor {name!r} has type {dtype}, which is not supported; these are: "
            f"{', '.join(_ENCODINGS)}"
        )
    encoding = ENCODINGS[_ENCODINGS[dtype]]
    sound = all(isinstance(n, int) and n >= 0 for n in shape)
    if not sound or math.prod(shape) * encoding.block_bytes != len(data):
        raise FileFormatError(
            f"{path}: tensor {name!r}: {dtype} {list(shape)} does not take {len(data):,} bytes"
        )
    return StoredTensor(name, encoding, shape, data)


def _config(
    metadata: Mapping[str, Any], tensors: Mapping[str, StoredTensor], notes: list[str]
) -> DecoderConfig:
    architecture = metadata.get("model_type")
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"architecture {architecture!r} is not supported; these are: {', '.join(ARCHITECTURES)}"
        )

    def need(key: str) -> Any:
        if metadata.get(key) is None:
            raise InputError(f"{key!r} is missing")
        return metadata[key]

    n_layer, n_head, width = need("num_hidden_layers"), need("num_attention_heads"), need("hidden_size")
    if not all(isinstance(n, int) and n > 0 for n in (n_layer, n_head, width)):
        raise InputError("num_hidden_layers, num_attention_heads and hidden_size must be whole numbers")
    if metadata.get("hidden_act", "silu") != "silu":
        raise InputError(f"hidden_act {metadata['hidden_act']!r}: only 'silu' is supported")
    head_dim = metadata.get("head_dim")
    if head_dim is None:
        if architecture == "qwen3":
            raise InputError("'head_dim' is missing")
        head_dim = width // n_head
    _check_biases(metadata, architecture, biases_of(tensors))
    windowed = _windowed_layers(metadata, architecture, n_layer)
    return DecoderConfig(
        architecture=architecture,
        n_layer=n_layer,
        n_embd=width,
        n_head=n_head,
        n_kv_head=metadata.get("num_key_value_heads") or n_head,
        head_dim=head_dim,
        n_inner=need("intermediate_size"),
        vocab_size=need("vocab_size"),
        context_length=need("max_position_embeddings"),
        norm_eps=need("rms_norm_eps"),
        rope=_rope(metadata, notes),
        tied=_is_tied(metadata, "lm_head" in tensors, notes),
        biases=biases_of(tensors),
        qk_norm=architecture == "qwen3",
        window=need("sliding_window") if windowed else None,
        windowed_layers=windowed,
    )


def _is_tied(metadata: Mapping[str, Any], has_head: bool, notes: list[str]) -> bool:
    said = metadata.get("tie_word_embeddings")
    if said is None:
        notes.append(f"tie_word_embeddings = {str(not has_head).lower()} (lm_head.weight is "
                     f"{'there' if has_head else 'not there'})")  # fmt: skip
        return not has_head
    return bool(said)


def _check_biases(metadata: Mapping[str, Any], architecture: str, found: tuple[str, ...]) -> None:
    """The file has exactly the biases that its config speaks of."""
    expected: set[str] = set()
    if architecture == "qwen2":
        expected = {"attn_bq", "attn_bk", "attn_bv"}
    elif architecture != "mistral" and metadata.get("attention_bias"):
        expected = {"attn_bq", "attn_bk", "attn_bv", "attn_bo"}
    if architecture == "llama" and metadata.get("mlp_bias"):
        expected |= {"mlp_bgate", "mlp_bup", "mlp_bdown"}
    for bias in sorted(expected ^ set(found)):
        verb = "speaks of" if bias in expected else "does not speak of"
        seen = "is not there" if bias in expected else "is there"
        raise InputError(f"the config {verb} a bias 'layer0.{bias}', which {seen}")


def _windowed_layers(metadata: Mapping[str, Any], architecture: str, n_layer: int) -> tuple[int, ...]:
    """The layers whose attention looks back no further than the sliding window."""
    kinds = metadata.get("layer_types")
    if kinds is not None and architecture != "mistral":
        known = {"full_attention", "sliding_attention"}
        if not isinstance(kinds, list) or len(kinds) != n_layer or not set(map(str, kinds)) <= known:
            raise InputError(f"layer_types: expected {n_layer} of {', '.join(sorted(known))}")
        return tuple(i for i, kind in enumerate(kinds) if kind == "sliding_attention")
    if metadata.get("sliding_window") is None or architecture == "llama":
        return ()
    if architecture == "mistral":
        return tuple(range(n_layer))
    if not metadata.get("use_sliding_window"):
        return ()
    first = metadata.get("max_window_layers")
    if not isinstance(first, int):
        raise InputError(f"max_window_layers: expected a whole number, found {first!r}")
    return tuple(range(first, n_layer))


def _rope(metadata: Mapping[str, Any], notes: list[str]) -> Rope:
    """From `rope_theta` and `rope_scaling`, or from `rope_parameters`, which has both in one."""
    scaling = metadata.get("rope_parameters") or metadata.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise InputError(f"rope_scaling: expected an object, found {scaling!r}")
    theta = scaling.get("rope_theta", metadata.get("rope_theta"))
    if theta is None:
        theta = 10000.0
        notes.append("rope_theta = 10,000 (what transformers takes where the config does not say)")
    kind: Any = scaling.get("rope_type", scaling.get("type", "default"))
    partial = scaling.get("partial_rotary_factor", metadata.get("partial_rotary_factor", 1.0))
    if partial not in (None, 1, 1.0):
        raise InputError(f"partial_rotary_factor {partial}: RoPE over a part of the head is not supported")
    if kind == "default":
        return Rope(theta)

    def need(key: str) -> Any:
        if scaling.get(key) is None:
            raise InputError(f"RoPE scaling {kind!r} without {key!r}")
        return scaling[key]

    if kind == "linear":
        return Rope(theta, "linear", need("factor"))
    if kind == "llama3":
        limits = need("low_freq_factor"), need("high_freq_factor")
        return Rope(theta, "llama3", need("factor"), need("original_max_position_embeddings"), *limits)
    if kind != "yarn":
        return Rope(theta, kind)  # which refuses it by name
    for key in ("mscale", "mscale_all_dim"):
        if scaling.get(key):
            raise InputError(f"RoPE yarn with {key!r} is not supported")
    original: Any = scaling.get("original_max_position_embeddings") or metadata.get("max_position_embeddings")
    betas = [scaling.get(key) or default for key, default in (("beta_fast", 32.0), ("beta_slow", 1.0))]
    return Rope(
        theta, "yarn", need("factor"), original, beta_fast=betas[0], beta_slow=betas[1],
        attention_factor=scaling.get("attention_factor"), truncate=scaling.get("truncate", True),
    )  # fmt: skip

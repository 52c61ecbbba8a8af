"""A Hugging Face folder: config.json, safetensors files (one, or sharded by an index), tokenizer.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..architecture.rope import Rope
from ..arrays.encodings import StoredTensor
from ..brief import brief
from ..decoder.config import ARCHITECTURES, DecoderConfig
from ..errors import FileFormatError, InputError
from ..foreign_files import folder_of, read_json, reading
from .conventions import (
    FLAG,
    OBJECT,
    POSITIVE,
    WHOLE,
    Settings,
    scaled_rope,
    scaling_kind,
    windowed_layers,
    yarn_defaults,
)
from .model_file import ModelFile, biases_of, blaming, by_our_names, check_depth, check_tensors
from .safetensors import read_safetensors

if TYPE_CHECKING:
    from ..vocabulary.tokens import Vocabulary

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = WEIGHTS + ".index.json"
_BUFFERS = ("rotary_emb.inv_freq", "masked_bias")  # constants that old files store
_TRANSFORMERS = "what transformers takes where the config does not say"


def read_huggingface(path: Path) -> ModelFile:
    """Describe the decoder of a folder, named by itself or by a file of the model; tensors stay in the files.

    Raises FileFormatError for files that are damaged, of another architecture, or incomplete.
    """
    folder = folder_of(path)
    metadata = read_json(folder / CONFIG)
    with blaming(folder / CONFIG):
        architecture = _architecture(metadata)
    files, placed = _files(folder)
    if path != folder and path.name not in (CONFIG, INDEX, *files):
        raise FileFormatError(f"{path} is not a part of the model in its folder: {', '.join(files[:3])} is")
    notes = _unread_tokenizer(folder)
    stored = [tensor for tensor in _tensors(folder, files, placed) if not tensor.name.endswith(_BUFFERS)]
    tensors = by_our_names(folder, stored)
    with blaming(folder / CONFIG):
        config = _config(architecture, Settings(metadata, notes), tensors)
    if config.tied and "lm_head" in tensors:
        notes.append(f"{tensors.pop('lm_head').name} is not used: the config ties the head to the embedding")
    check_tensors(folder, config, tensors)

    def vocabulary() -> Vocabulary | None:
        from ..vocabulary.huggingface import from_huggingface

        return from_huggingface(folder)

    return ModelFile(folder, "Hugging Face folder", config, tensors, metadata, vocabulary, tuple(notes))


def _unread_tokenizer(folder: Path) -> list[str]:
    from ..vocabulary.huggingface import convertible

    found = convertible(folder)
    return [f"{found} is not read, only a tokenizer.json: tokens are numbers"] if found else []


def _files(folder: Path) -> tuple[list[str], dict[str, str] | None]:
    """The safetensors files of a model, and where its index places each tensor."""
    if (folder / WEIGHTS).exists():
        return [WEIGHTS], None
    index = folder / INDEX
    if not index.exists():
        with reading(folder):
            found = ", ".join(sorted(repr(p.name) for p in folder.iterdir())[:6])
        raise FileFormatError(f"{folder}: expected {WEIGHTS} or {INDEX}, found {found}")
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict) or not all(isinstance(name, str) for name in placed.values()):
        raise FileFormatError(f"{index}: expected a weight_map from tensors to files, found {brief(placed)}")
    files = sorted(set(placed.values()))
    for file in files:
        if Path(file).name != file or not file.endswith(".safetensors") or not file.isprintable():
            raise FileFormatError(f"{index}: {brief(file)} is not a safetensors file of this folder")
        with reading(folder / file):
            if not (folder / file).exists():
                raise FileFormatError(f"{folder / file}: no such file, but {INDEX} names it")
    return files, placed


def _tensors(folder: Path, files: list[str], placed: dict[str, str] | None) -> list[StoredTensor]:
    tensors = []
    for file in files:
        shard = read_safetensors(folder / file)
        for tensor in shard:
            if placed is not None and placed.get(tensor.name) != file:
                raise FileFormatError(
                    f"{folder / INDEX}: tensor {brief(tensor.name)} of {file} is not placed there"
                )
        tensors += shard
    missing = (placed or {}).keys() - {tensor.name for tensor in tensors}
    if placed and missing:
        name = min(missing)
        raise FileFormatError(f"{folder / placed[name]}: tensor {brief(name)} of the index is not there")
    return tensors


def _architecture(metadata: Mapping[str, Any]) -> str:
    architecture = metadata.get("model_type")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        works = ", ".join(ARCHITECTURES)
        raise InputError(f"architecture {brief(architecture)} is not supported; these are: {works}")
    return architecture


def _config(architecture: str, said: Settings, tensors: Mapping[str, StoredTensor]) -> DecoderConfig:
    n_layer, n_head, width = (
        said.need(key, WHOLE) for key in ("num_hidden_layers", "num_attention_heads", "hidden_size")
    )
    check_depth(n_layer, tensors)
    activation = said.values.get("hidden_act")
    if activation is None:
        said.notes.append(f"hidden_act = silu ({_TRANSFORMERS})")
    elif activation not in ("silu", "swish"):
        raise InputError(f"hidden_act {brief(activation)}: only 'silu' is supported")
    head_dim = (said.need if architecture == "qwen3" else said.get)("head_dim", WHOLE)
    _check_biases(said, architecture, biases_of(tensors))
    window, windowed = _window(said, architecture, n_layer)
    return DecoderConfig(
        architecture=architecture,
        n_layer=n_layer,
        n_embd=width,
        n_head=n_head,
        n_kv_head=said.get("num_key_value_heads", WHOLE) or n_head,
        head_dim=head_dim or width // n_head,
        n_inner=said.need("intermediate_size", WHOLE),
        vocab_size=said.need("vocab_size", WHOLE),
        context_length=said.need("max_position_embeddings", WHOLE),
        norm_eps=said.need("rms_norm_eps", POSITIVE),
        rope=_rope(said),
        tied=_is_tied(said, "lm_head" in tensors),
        biases=biases_of(tensors),
        qk_norm=architecture == "qwen3",
        window=window,
        windowed_layers=windowed,
    )


def _is_tied(said: Settings, has_head: bool) -> bool:
    """What the config says; where it says nothing, the tensors do."""
    why = f"lm_head.weight is {'' if has_head else 'not '}there"
    return bool(said.assume("tie_word_embeddings", FLAG, not has_head, why))


def _check_biases(said: Settings, architecture: str, found: tuple[str, ...]) -> None:
    """The file has exactly the biases that its config speaks of."""
    expected: set[str] = set()
    if architecture == "qwen2":
        expected = {"attn_bq", "attn_bk", "attn_bv"}
    elif architecture != "mistral" and said.get("attention_bias", FLAG):
        expected = {"attn_bq", "attn_bk", "attn_bv", "attn_bo"}
    if architecture == "llama" and said.get("mlp_bias", FLAG):
        expected |= {"mlp_bgate", "mlp_bup", "mlp_bdown"}
    for bias in sorted(expected ^ set(found)):
        verb = "speaks of" if bias in expected else "does not speak of"
        seen = "is not there" if bias in expected else "is there"
        raise InputError(f"the config {verb} a bias 'layer0.{bias}', which {seen}")


def _window(said: Settings, architecture: str, n_layer: int) -> tuple[int | None, tuple[int, ...]]:
    """The sliding window and the layers that have it: as `layer_types` says, or the older settings."""
    given = said.values.get("sliding_window") is not None
    if given and architecture == "llama":
        said.notes.append("sliding_window is not used: a llama has none")
    if given and architecture.startswith("qwen"):
        said.assume("use_sliding_window", FLAG, False, _TRANSFORMERS)
    layers = windowed_layers(said, architecture, n_layer)
    if not layers:
        return None, ()
    size = said.get("sliding_window", WHOLE)
    if "sliding_window" not in said.values:
        size = said.assume("sliding_window", WHOLE, 4096, _TRANSFORMERS)
    return (size, layers) if size else (None, ())


def _rope(said: Settings) -> Rope:
    """From `rope_theta` and `rope_scaling`, or from `rope_parameters`, which has both in one."""
    old, new = (said.get(key, OBJECT) or {} for key in ("rope_scaling", "rope_parameters"))
    if old and new and old != new:
        raise InputError("rope_scaling and rope_parameters contradict each other")
    scaling = {key: value for key, value in (new or old).items() if value is not None}
    for key in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        outer = said.values.get(key)
        if outer is not None and scaling.setdefault(key, outer) != outer:
            raise InputError(f"{key}: {brief(scaling[key])} and {brief(outer)} contradict each other")
    inner = Settings(scaling, said.notes)
    theta = inner.assume("rope_theta", POSITIVE, 10000.0, _TRANSFORMERS)
    partial = inner.get("partial_rotary_factor", POSITIVE)
    if partial not in (None, 1):
        raise InputError(f"partial_rotary_factor {partial}: RoPE over a part of the head is not supported")
    taken = (
        yarn_defaults(said.need("max_position_embeddings", WHOLE), inner, _TRANSFORMERS)
        if scaling_kind(scaling) == "yarn"
        else {}
    )
    outside = ("rope_theta", "partial_rotary_factor")
    return scaled_rope(theta, {key: value for key, value in (scaling | taken).items() if key not in outside})

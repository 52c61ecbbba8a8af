"""A Hugging Face folder: config.json, safetensors files (one, or sharded by an index), tokenizer.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..architecture.plans.rope import Rope
from ..arrays.encodings import StoredTensor
from ..decoder.config import DecoderConfig
from ..errors import FileFormatError, InputError
from ..text.brief import brief
from ..text.wording import listed
from ..untrusted_files import folder_of, read_json, reading
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
from .file_terms import TERMS, FileTerms
from .model_file import (
    ModelFile,
    biases_of,
    blaming,
    by_our_names,
    check_biases,
    check_depth,
    check_tensors,
    unfused,
)
from .safetensors import read_safetensors

if TYPE_CHECKING:
    from ..vocabulary.tokens import Vocabulary

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = WEIGHTS + ".index.json"
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
    names = TERMS[architecture].names
    stored = (tensor for tensor in _tensors(folder, files, placed) if not tensor.name.endswith(names.skipped))
    tensors = by_our_names(folder, stored, names)
    with blaming(folder):
        tensors |= {name: tensors[name].transposed() for name in tensors if names.is_transposed(name)}
    with blaming(folder / CONFIG):
        config, tensors = _config(architecture, Settings(metadata, notes), tensors)
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
    verb = "are" if " and " in found else "is"
    return [f"{found} {verb} not read, only a tokenizer.json: tokens are numbers"] if found else []


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
    if not isinstance(architecture, str) or architecture not in TERMS:
        works = ", ".join(TERMS)
        raise InputError(f"architecture {brief(architecture)} is not supported; these are: {works}")
    return architecture


def _config(
    architecture: str, said: Settings, tensors: Mapping[str, StoredTensor]
) -> tuple[DecoderConfig, dict[str, StoredTensor]]:
    """The config, and the tensors with what lies fused apart."""
    terms = TERMS[architecture]

    def size(name: str, kind: str = WHOLE, times: int = 1) -> Any:
        key = terms.keys[name]
        if name in terms.defaults:
            return said.assume(key, kind, terms.defaults[name] * times, _TRANSFORMERS)
        return said.need(key, kind)

    n_layer, n_head, width = size("n_layer"), size("n_head"), size("n_embd")
    check_depth(n_layer, tensors)
    activation = _activation(said, terms)
    get_head_dim = said.need if terms.explicit_head_dim else said.get
    head_dim = (get_head_dim("head_dim", WHOLE) if "head_dim" in terms.keys else None) or width // n_head
    n_kv_head = (said.get(terms.keys["n_kv_head"], WHOLE) if "n_kv_head" in terms.keys else None) or n_head
    tensors = unfused(tensors, n_head * head_dim, n_kv_head * head_dim)
    _check_biases(said, architecture, biases_of(tensors))
    window, windowed = _window(said, architecture, n_layer)
    config = DecoderConfig(
        architecture=architecture,
        n_layer=n_layer,
        n_embd=width,
        n_head=n_head,
        n_kv_head=n_kv_head,
        head_dim=head_dim,
        n_inner=size("n_inner", times=width),
        vocab_size=size("vocab_size"),
        context_length=size("context_length"),
        norm_eps=size("norm_eps", POSITIVE),
        rope=_rope(said) if terms.rope else None,
        tied=_is_tied(said, terms, "lm_head" in tensors),
        biases=biases_of(tensors),
        qk_norm=terms.qk_norm,
        window=window,
        windowed_layers=windowed,
        activation=activation,
        score_scales=_score_scales(said, terms, n_layer, head_dim),
    )
    return config, tensors


def _activation(said: Settings, terms: FileTerms) -> str:
    key = terms.keys["activation"]
    found = said.values.get(key)
    if found is None:
        said.notes.append(f"{key} = {terms.activation} ({_TRANSFORMERS})")
        return terms.activations[terms.activation]
    if not isinstance(found, str) or found not in terms.activations:
        first = {function: name for name, function in reversed([*terms.activations.items()])}
        works = listed([f"'{name}'" for name in reversed(first.values())])
        verb = "is" if len(first) == 1 else "are"
        raise InputError(f"{key} {brief(found)}: only {works} {verb} supported")
    return terms.activations[found]


def _score_scales(said: Settings, terms: FileTerms, n_layer: int, head_dim: int) -> tuple[float, ...]:
    """What the scores of each layer are multiplied by, where flags of the config say another number than
    1/sqrt(head_dim)."""
    scaled, by_layer = (said.get(key, FLAG) if key else None for key in terms.score_flags)
    if scaled is not False and not by_layer:
        return ()
    whole = 1.0 if scaled is False else 1 / math.sqrt(head_dim)
    return tuple(whole / (i + 1) if by_layer else whole for i in range(n_layer))


def _is_tied(said: Settings, terms: FileTerms, has_head: bool) -> bool:
    """What the config says; where it says nothing, transformers' own default or the tensors do."""
    if terms.tied is not None:
        return bool(said.assume("tie_word_embeddings", FLAG, terms.tied, _TRANSFORMERS))
    why = f"lm_head.weight is {'' if has_head else 'not '}there"
    return bool(said.assume("tie_word_embeddings", FLAG, not has_head, why))


def _check_biases(said: Settings, architecture: str, found: tuple[str, ...]) -> None:
    """The file has exactly the biases that its architecture has and those that its config speaks of."""
    check_biases(architecture, found)
    terms = TERMS[architecture]
    expected = set(terms.biases)
    for flag, biases in terms.said_biases.items():
        expected |= set(biases) if said.get(flag, FLAG) else set()
    for bias in sorted(expected ^ set(found)):
        verb = "speaks of" if bias in expected else "does not speak of"
        seen = "is not there" if bias in expected else "is there"
        raise InputError(f"the config {verb} a bias 'layer0.{bias}', which {seen}")


def _window(said: Settings, architecture: str, n_layer: int) -> tuple[int | None, tuple[int, ...]]:
    """The sliding window and the layers that have it: as `layer_types` says, or the older settings."""
    given = said.values.get("sliding_window") is not None
    if given and TERMS[architecture].windows == "none":
        said.notes.append(f"sliding_window is not used: a {architecture} has none")
    if given and TERMS[architecture].windows == "last":
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

"""Open a Hugging Face folder: config.json, tokenizer.json and safetensors files, perhaps with an index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..arrays.encodings import StoredTensor
from ..decoder.architecture import Architecture
from ..decoder.catalogue import ARCHITECTURES, architecture_named
from ..decoder.config import DecoderConfig
from ..decoder.decoder import Decoder
from ..decoder.problems import Problems
from ..decoder.settings import FLAG, Settings
from ..errors import FileFormatError, InputError, naming
from ..plans.plan import kind_of
from ..text.brief import brief
from ..untrusted_files import folder_of, read_json, reading
from ..vocabulary.huggingface import convertible, from_huggingface
from .decoder_config import check_overrides, decoder_config, overridden, unsupported
from .model_file import checked_decoder, our_tensors
from .safetensors import read_safetensors
from .text_part import TextPart, further_layers, text_settings

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = WEIGHTS + ".index.json"


def read_huggingface(
    path: Path, overrides: Mapping[str, Any] = {}, problems: Problems | None = None
) -> Decoder:
    """Open the decoder in a folder. A tensor is read from the file at each use of the tensor. `overrides`
    maps keys of config.json to values that replace those of the file.

    `path` is the folder, or a model file in the folder. Raises FileFormatError if a file is damaged or
    missing, or the architecture is not supported. Then `problems` that are not strict have all reasons, and
    what could be read.
    """
    problems, folder = problems or Problems(str(path)), folder_of(path)
    metadata = read_json(folder / CONFIG)
    with naming(folder / CONFIG, FileFormatError):
        name = problems.architecture(lambda: _architecture(metadata))
    architecture, values = architecture_named(name), text_settings(metadata)
    files, shards = _files(folder)
    if path != folder and path.name not in (CONFIG, INDEX, *files):
        raise FileFormatError(f"{path}: the model does not use this file; give the folder or {files[0]}")
    tokenizer = convertible(folder)
    notes, names = problems.assumed, architecture.names
    notes += [f"expected a tokenizer.json, found {tokenizer}: tokens are shown as numbers"] * bool(tokenizer)
    depth = values.get(architecture.sizes["n_layer"])
    further = further_layers(depth, values.get("num_nextn_predict_layers"))
    part = TextPart(names, further, other_inputs=values is not metadata)
    tensors = our_tensors(folder, _tensors(folder, files, shards, part.has, problems), names, problems)
    notes += part.notes
    problems.format, problems.metadata = "Hugging Face folder", {**values, **metadata}
    problems.tensors = tensors
    problems.load_vocabulary = partial(from_huggingface, folder)
    for own in [own for own in tensors if own.endswith(names.transposed)]:
        with naming(folder, FileFormatError), problems.noting("unfit", own):
            tensors[own] = tensors[own].transposed()
    if architecture.gains_less_one:
        notes.append("the file stores gains less 1; they are shown with this 1")
        tensors |= {name: replace(own, plus=1.0) for name, own in tensors.items() if name.endswith("norm")}
    with naming(folder / CONFIG, FileFormatError):
        settings = Settings(overridden(values, overrides), problems)
        config = decoder_config(name, settings)
        check_overrides(settings, overrides)
        with problems.noting("setting", "biases"):
            _check_biases(settings, architecture, config)
    if config.tied and (head := problems.tensors.pop("lm_head", None)):
        problems.unused_head = head
        notes.append(f"{head.name} is not used: the config ties the head to the embedding")
    return checked_decoder(folder, config, problems)


def _architecture(metadata: Mapping[str, Any]) -> str:
    """Return the name of the architecture. Raises InputError if it is not supported."""
    settings = text_settings(metadata)
    name = settings.get("model_type")
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise unsupported(name, ARCHITECTURES, settings)
    return name


def _files(folder: Path) -> tuple[list[str], dict[str, str] | None]:
    """Return the safetensors files of a model, and the map from tensors to files if there is an index."""
    if (folder / WEIGHTS).exists():
        return [WEIGHTS], None
    index = folder / INDEX
    if not index.exists():
        with reading(folder):
            others = ", ".join(sorted(repr(p.name) for p in folder.iterdir())[:6])
        raise FileFormatError(f"{folder}: expected {WEIGHTS} or {INDEX}, found {others}")
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise FileFormatError(f"{index}: expected a weight_map from tensors to files, found {brief(shards)}")
    files = sorted(set(shards.values()))
    for file in files:
        if Path(file).name != file or not file.endswith(".safetensors") or not file.isprintable():
            raise FileFormatError(f"{index}: expected safetensors files of this folder, found {brief(file)}")
        with reading(folder / file):
            if not (folder / file).exists():
                raise FileFormatError(f"{folder / file}: no such file, but {INDEX} lists this file")
    return files, shards


def _tensors(
    folder: Path, files: list[str], shards: dict[str, str] | None, has: Callable[[str], bool],
    problems: Problems,
) -> list[StoredTensor]:  # fmt: skip
    """Return the tensors of all files, if `has` is true for the name. Raises FileFormatError if the tensors
    do not match the index."""
    tensors, index = [], folder / INDEX
    for file in files:
        shard = read_safetensors(folder / file, has)
        for tensor in shard:
            if shards is not None and shards.get(tensor.name) != file:
                text = f"{index}: the index does not list {brief(tensor.name)} in {file}"
                problems.note("missing", FileFormatError(text))
        tensors += shard
    missing = set(filter(has, shards or ())) - {own.name for own in tensors}
    if shards and missing:
        name = min(missing)
        text = f"{folder / shards[name]}: tensor {brief(name)} of the index is missing"
        problems.note("missing", FileFormatError(text))
    return tensors


def _check_biases(settings: Settings, architecture: Architecture, config: DecoderConfig) -> None:
    """Raise InputError if the biases in the file differ from the biases that the config requires."""
    expected, matrices = set(architecture.biases), set(map(kind_of, config.shapes()))
    for flag, biases in architecture.flagged_biases.items():
        value = settings.get(flag, FLAG)
        expected |= set(biases) if (architecture.flags.get(flag) if value is None else value) else set()
    expected = {bias for bias in expected if {bias.replace("_b", of, 1) for of in ("_w", "_")} & matrices}
    for bias in sorted(expected ^ set(config.biases)):
        mention, finding = ("requires a", "none") if bias in expected else ("mentions no", "one")
        raise InputError(f"the config {mention} bias 'layer0.{bias}', but the file has {finding}")

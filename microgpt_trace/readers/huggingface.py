"""A Hugging Face folder: config.json, safetensors files (one, or sharded by an index), tokenizer.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..arrays.encodings import StoredTensor
from ..decoder.config import DecoderConfig
from ..decoder.model import Decoder
from ..errors import FileFormatError, InputError
from ..text.brief import brief
from ..untrusted_files import folder_of, read_json, reading
from .conventions import FLAG, Settings, decoder_config, one_of
from .file_terms import TERMS
from .model_file import blaming, by_our_names, check_tensors
from .safetensors import read_safetensors

if TYPE_CHECKING:
    from ..vocabulary.tokens import Vocabulary

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = WEIGHTS + ".index.json"


def read_huggingface(path: Path) -> Decoder:
    """Describe the decoder of a folder, named by itself or by a file of the model; tensors stay in the files.

    Raises FileFormatError for files that are damaged, of another architecture, or incomplete.
    """
    folder = folder_of(path)
    metadata = read_json(folder / CONFIG)
    with blaming(folder / CONFIG):
        architecture = one_of("architecture", metadata.get("model_type"), TERMS)
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
        said = Settings(metadata, notes)
        config, tensors = decoder_config(architecture, said, tensors)
        _check_said_biases(said, config)
    if config.tied and "lm_head" in tensors:
        notes.append(f"{tensors.pop('lm_head').name} is not used: the config ties the head to the embedding")
    check_tensors(folder, config, tensors)

    def vocabulary() -> Vocabulary | None:
        from ..vocabulary.huggingface import from_huggingface

        return from_huggingface(folder)

    return Decoder(config, tensors, str(path), "Hugging Face folder", vocabulary, metadata, tuple(notes))


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


def _check_said_biases(said: Settings, config: DecoderConfig) -> None:
    """Raises InputError where the file has other biases than those of its architecture and those that its
    config speaks of."""
    terms = TERMS[config.architecture]
    expected = set(terms.biases)
    for flag, biases in terms.said_biases.items():
        expected |= set(biases) if said.get(flag, FLAG) else set()
    for bias in sorted(expected ^ set(config.biases)):
        verb = "speaks of" if bias in expected else "does not speak of"
        seen = "is not there" if bias in expected else "is there"
        raise InputError(f"the config {verb} a bias 'layer0.{bias}', which {seen}")

"""Open a dump of any format. The content of a file decides its format. Arrays are loaded when needed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import FileFormatError, InputError
from ..models.language_model import LanguageModel
from ..naming.event_names import meaning_of, without_suffix
from ..naming.user_map import OWN, TENSORS, NameMap
from ..text.brief import brief
from ..text.json_reading import from_json
from ..text.wording import abridged
from ..untrusted_files import beginning, check_regular, reading, sentences, whole_numbers
from .aprt import is_aprt, open_aprt
from .array_events import recording_of
from .passes import joined, numbered
from .ranks import RANK, ranks_as_one
from .recording import Recording, agreed, of_model
from .stored_arrays import (
    ARRAYS_FORMAT,
    NPY_MAGIC,
    ZIP_MAGIC,
    StoredArray,
    npy_array,
    npz_arrays,
    safetensors_arrays,
)
from .torch_files import OLD_MAGIC, SUFFIXES, is_torch_file, torch_arrays
from .trace_document import open_document

_HEAD = 1 << 12  # number of bytes at the start of a file that show the format
_PARAMETER = re.compile(r"wte|wpe|.*\.(weight|bias)|layer[0-9]+\.(attn_w|mlp_fc|mlp_w).*", re.DOTALL)
_DOCUMENT = re.compile(rb'\s*\{\s*("schema"\s*:\s*"microgpt\.trace/|"record"\s*:\s*"trace")')


def is_recording(path: Path) -> bool:
    """Return True if the content of an existing file or folder is a dump and not a model.

    Every folder without config.json counts as a dump, but `open_recording` refuses folders without tensors.
    """
    try:
        if path.is_dir():
            return not (path / "config.json").exists()
        head = beginning(path, _HEAD)
        if head[8:9] == b"{" and not _DOCUMENT.match(head):
            return _holds_values(*safetensors_arrays(path))
    except (OSError, FileFormatError):
        return False
    return head.startswith((NPY_MAGIC, ZIP_MAGIC, OLD_MAGIC)) or bool(_DOCUMENT.match(head))


def _holds_values(arrays: Sequence[StoredArray], metadata: Mapping[str, str]) -> bool:
    """Return True if a safetensors file contains values of a run instead of parameters."""
    if metadata.get("format") == ARRAYS_FORMAT:
        return True
    names = [array.name for array in arrays]
    known = [meaning_of(name) for name in names if name != "lm_head"]  # also the name of a parameter
    if any(meaning is not None and meaning.events for meaning in known):
        return True
    return bool(names) and not any(map(_PARAMETER.fullmatch, names))


def open_recording(
    path: Path, names: NameMap | None = None, *, model: LanguageModel | None = None, own_names: bool = False,
    text: int | None = None,
) -> Recording:  # fmt: skip
    """Open a dump: a file of `--save` or `--json`, a folder of APRT, .npy or .pt files, or a .npy, .npz, .pt
    or safetensors file.

    If a `model` is given, names are read as the names of its architecture, and ranks are joined by its
    widths. With `own_names`, each tensor has its own name instead of the name of an event. `text` chooses a
    text of a batch, with its padding.

    Raises FileFormatError if the file is damaged or not a dump, and InputError if the map does not fit.
    """
    names = names or NameMap("")
    choice = names.passes if text is None else replace(names.passes, text=text, positions=None)
    with reading(path):
        passes, ranks = numbered(path), numbered(path, RANK)
        parts = {rank.name: numbered(rank) or [rank] for rank in ranks} or {"": passes or [path]}
        by_pass = [numbered(one, RANK) for one in passes]  # step0/rank0, step0/rank1, ...
        if by_pass and all(by_pass) and len({*map(len, by_pass)}) == 1:
            parts = {own[0].name: list(own) for own in zip(*by_pass, strict=True)}
    architecture = TENSORS if own_names else getattr(model and model.config, "architecture", "")
    opened = list[Recording]()
    for rank, own in parts.items():
        of_rank = replace(names.of_rank(Path(rank).stem), names_of=architecture)
        one = joined(path / rank, [_open(part, of_rank) for part in own], choice, padded=text is not None)
        again = partial(open_recording, path, names) if one.names_of else None
        one = replace(one, again=again, model=model)
        opened.append(one if model is None else of_model(one, model))
    return ranks_as_one(path, opened, model) if len(parts) > 1 else opened[0]


def _open(path: Path, names: NameMap) -> Recording:
    with reading(path):
        if path.is_dir():
            return _open_folder(path, names)
        check_regular(path, "a dump of tensors")
        with path.open("rb") as file:
            head = file.read(_HEAD)
    if head.startswith(NPY_MAGIC):
        return recording_of(path, ".npy file", [npy_array(path, path.name)], names)
    if is_torch_file(path):
        arrays, others = torch_arrays(path, path.name)
        return recording_of(path, ".pt file", _of_a_run(path, arrays), names, notes=_unread(others))
    if head.startswith(ZIP_MAGIC):
        arrays, others = npz_arrays(path)
        return recording_of(path, ".npz archive", arrays, names, notes=_unread(others))
    if head[8:9] == b"{" and not _DOCUMENT.match(head):
        return _open_safetensors(path, names)
    if head.startswith(b'{"record"'):
        raise FileFormatError(f"{path}: expected a --json document, found a --jsonl file")
    if head.lstrip()[:1] == b"{":
        return _with_tokens(open_document(path), names, "a --json document")
    raise FileFormatError(
        f"{path}: expected a dump (.npy, .npz, .pt, safetensors, a --json document or a folder), "
        f"found {f'a file that begins with {brief(head[:8])[1:]}' if head else 'an empty file'}"
    )


def _open_folder(path: Path, names: NameMap) -> Recording:
    if is_aprt(path):
        return _with_tokens(open_aprt(path), names, "a directory of APRT dumps")
    files, others = _array_files(path)
    if not files:
        expected = "a model (a folder with config.json) or a dump (.npy or .pt files, APRT)"
        found = f"a folder of {abridged([*map(brief, others)])}" if others else "an empty folder"
        raise FileFormatError(f"{path}: expected {expected}, found {found}")
    by_file = {}
    for name in files:
        if name.endswith(".npy"):
            by_file[name] = [npy_array(path / name, name)]
        else:
            by_file[name], unread = torch_arrays(path / name, name)
            others += [f"{name}: {own}" for own in unread]
    kinds = sorted({Path(name).suffix for name in files})
    arrays = _of_a_run(path, _with_distinct_names(by_file))
    return recording_of(path, f"{' and '.join(kinds)} files", arrays, names, notes=_unread(others))


def _of_a_run(path: Path, arrays: Sequence[StoredArray]) -> Sequence[StoredArray]:
    """Return the arrays of .pt files. Raises FileFormatError if they are the parameters of a model."""
    if arrays and not _holds_values(arrays, {}):
        found = f"parameters of a model ({brief(arrays[0].name)})"
        hint = "save a model as safetensors beside its config.json"
        raise FileFormatError(f"{path}: expected values of a run, found {found}; {hint}")
    return arrays


def _with_distinct_names(by_file: Mapping[str, Sequence[StoredArray]]) -> list[StoredArray]:
    """Return the arrays of a folder. If a name occurs twice, put the file's path before names in dicts."""
    arrays = [array for own in by_file.values() for array in own]
    if len({array.name for array in arrays}) == len(arrays):
        return arrays
    return [
        array if array.name == file else replace(array, name=f"{without_suffix(file)}/{array.name}")
        for file, own in by_file.items()
        for array in own
    ]


def _array_files(folder: Path) -> tuple[list[str], list[str]]:
    """Return the paths of the .npy and .pt files in a folder and its subfolders, and of all other files."""
    names: tuple[list[str], list[str]] = [], []

    def refuse(error: OSError) -> None:
        raise FileFormatError(f"{error.filename}: cannot read it ({error.strerror})") from error

    for base, folders, files in os.walk(folder, onerror=refuse):
        folders.sort()
        for name in sorted(files):
            names[not name.endswith((".npy", *SUFFIXES))].append(
                (Path(base) / name).relative_to(folder).as_posix()
            )
    return names


def _unread(others: Sequence[str]) -> list[str]:
    return [f"not read: {abridged([*map(brief, others)])}"] if others else []


def _open_safetensors(path: Path, names: NameMap) -> Recording:
    arrays, metadata = safetensors_arrays(path)
    if metadata.get("format") != ARRAYS_FORMAT:
        return recording_of(path, "safetensors file", arrays, names)
    stored = {  # files from older versions contain no positions
        key: whole_numbers(f"{path}: metadata {key}", _from_json(metadata[key]))
        for key in ("tokens", "positions")
        if key in metadata
    }
    tokens = stored.get("tokens") or None  # none for a batch of several texts
    recording = recording_of(path, "arrays of a trace", arrays, names, layout=OWN, tokens=tokens)
    model = _from_json(metadata.get("model", "null"))
    left_out = model.get("left_out", []) if isinstance(model, dict) else []  # set by `record`
    missing = [f"left out: {s}" for s in sentences(f"{path}: metadata model: left_out", left_out)]
    notes = sentences(f"{path}: metadata notes", _from_json(metadata.get("notes", "[]")))
    return replace(recording, positions=stored.get("positions"), notes=(*missing, *notes))


def _from_json(text: str) -> Any:
    """Return the value of a JSON text, or None if the text is not JSON."""
    try:
        return from_json(text)
    except ValueError:
        return None


def _with_tokens(recording: Recording, names: NameMap, what: str) -> Recording:
    """Add the tokens of a map to a recording that already uses the names of our events."""
    if names.entries:
        raise InputError(f"{names.origin}: {recording.origin} is {what}: expected only tokens, found events")
    sources = [(recording.origin, recording.tokens), (names.origin, names.tokens)]
    return replace(recording, tokens=agreed("tokens", sources))
